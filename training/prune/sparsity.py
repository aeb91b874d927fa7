"""Sparsity-aware training: L1 on the batch normalizations' γ, so that channels which are not needed show it before pruning.

Network slimming (Liu et al. 2017) with the schedule of arXiv 2509.12918, R(e) = R₀·(1 − 0.9·e/E). Channels behind a shortcut
addition are left out: several layers make them, and no γ alone says what they are worth.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.ranges import SHARE, Range, one_of
from training.schema import renewed

METHODS = ('auto', 'gradient', 'proximal')


@dataclass(frozen=True)
class SparsitySettings:
    """The penalty on γ.

    Attributes:
        rate: R₀, what each |γ| adds to the loss at the stage's beginning; 1e-4 in network slimming, 1e-2 is strong.
        final_share: the rate at the stage's end as a share of R₀.
        method: `gradient` adds R·sign(γ) to γ's gradient; `proximal` moves γ by learning rate · R towards 0 after each step, and
            leaves it there; `auto` is proximal under AdamW, which divides a gradient by its own size and so the penalty away.
    """

    rate: float = 1e-4
    final_share: float = 0.1
    method: str = renewed('auto', before='gradient')

    def __post_init__(self) -> None:
        Range(above=0, most=1).check(rate=self.rate)
        SHARE.check(final_share=self.final_share)
        one_of(METHODS, method=self.method)

    def rate_at(self, progress: float) -> float:
        """R when `progress`, 0 … 1, of the stage is done."""
        return self.rate * (1 - (1 - self.final_share) * progress)


class SparsityPenalty:
    """The penalty of a network's γ.

    Args:
        network: the detector in training.
        optimizer: its optimizer's name in the settings of the fit.

    Attributes:
        proximal: whether `shrink` acts after the optimizer's step; otherwise `add_gradients` before it.
    """

    def __init__(self, network: nn.Module, settings: SparsitySettings, optimizer: str = 'sgd') -> None:
        self.settings = settings
        self.proximal = settings.method == 'proximal' or (settings.method == 'auto' and optimizer == 'adamw')
        self._gammas = penalised(network)
        self._rate = settings.rate_at(0.0)

    def add_gradients(self, progress: float) -> None:
        """Add R·sign(γ) to the gradients; call it after the backward pass and before clipping and the optimizer's step.

        Args:
            progress: the share of the stage that is done, 0 … 1.
        """
        self._rate = self.settings.rate_at(progress)
        for gamma, chosen in self._gammas:
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign() * chosen.to(gamma), alpha=self._rate)

    @torch.no_grad()
    def shrink(self, progress: float, learning_rate: float) -> None:
        """Move γ towards 0 by learning rate · R, not beyond it; call it after the optimizer's step."""
        self._rate = self.settings.rate_at(progress)
        for gamma, chosen in self._gammas:
            if gamma.requires_grad:
                less = (gamma.abs() - learning_rate * self._rate * chosen.to(gamma)).clamp(min=0)
                gamma.copy_(gamma.sign() * less)

    def values(self) -> torch.Tensor:
        """|γ| of all channels that the penalty acts on."""
        return torch.cat(
            [gamma.detach().abs()[chosen.to(gamma.device) > 0].flatten().cpu() for gamma, chosen in self._gammas]
        )

    def value(self) -> float:
        """R·Σ|γ| at the last rate: what the penalty adds to the loss."""
        with torch.no_grad():
            return self._rate * float(sum((gamma.abs() * chosen.to(gamma)).sum() for gamma, chosen in self._gammas))


def penalised(network: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Each γ that the penalty acts on, and a mask (C,) of its channels that can be pruned and feed no shortcut addition."""
    # torch-pruning, which the settings above can do without.
    from training.models import structure
    from training.prune.channels import groups

    split = copy.deepcopy(network)
    structure.split(split)
    masks = {name: torch.zeros(len(gamma)) for name, gamma in gammas(network).items()}
    for group in groups(split):
        alone = np.flatnonzero(group.sources() == 1)
        for member in group.of('features'):
            mask = _of_layer(masks, member.name)
            mask[torch.from_numpy(member.channels[np.isin(member.roots, alone)])] = 1
    found = [(network.get_submodule(name).weight, mask) for name, mask in masks.items() if mask.any()]
    return [(gamma, mask) for gamma, mask in found if isinstance(gamma, nn.Parameter)]


def _of_layer(masks: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """The mask of a layer of the split network: a view of the mask of the layer that it came from."""
    for half, number in (('.first.bn', 0), ('.second.bn', 1)):
        if name not in masks and name.endswith(half):
            return masks[name.removesuffix(half) + '.cv1.bn'].chunk(2)[number]
    return masks[name]


def gammas(network: nn.Module) -> dict[str, torch.Tensor]:
    """|γ| (C,) of every batch normalization by name."""
    return {
        name: layer.weight.detach().abs().float().cpu()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    }


def draw_gammas(spreads: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write a picture of how |γ| is spread, one curve a network: before and after sparsity training.

    Args:
        spreads: |γ| by the name in the legend.
        target: a .png or .svg file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    values = {name: spread.float().numpy() for name, spread in spreads.items()}
    largest = max(float(spread.max()) for spread in values.values())
    edges = np.linspace(0, largest if largest > 0 else 1, 81).tolist()
    for name, spread in values.items():
        axes.hist(spread, bins=edges, histtype='step', linewidth=1.5, label=f'{name} (median {np.median(spread):.3f})')
    axes.set_xlabel('|γ| of a batch normalization channel')
    axes.set_ylabel('channels')
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
