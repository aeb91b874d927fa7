"""Which layers bear pruning: each group of channels pruned alone, at several ratios, and what that does to the network."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from training.errors import PruneError
from training.models import structure
from training.prune.channels import groups, remove
from training.prune.cost import count_parameters
from training.prune.heads import head_maps
from training.prune.pruning import choose, importance
from training.prune.settings import PruneSettings


@dataclass(frozen=True)
class Sensitivity:
    """What pruning one group alone does.

    Attributes:
        layer: the first convolution of the group.
        channels: how many channels the group has.
        ratio: the share of them that was asked to go.
        removed: how many went, after rounding.
        parameters: the share of the whole network's parameters that went with them.
        value: what was measured on the pruned network.
    """

    layer: str
    channels: int
    ratio: float
    removed: int
    parameters: float
    value: float


def sensitivity(
    network: nn.Module,
    measure: Callable[[nn.Module], float],
    settings: PruneSettings,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
) -> list[Sensitivity]:
    """Prune each group alone and measure.

    Args:
        network: the unpruned detector.
        measure: `output_drift`, or any function of a network, its mAP for instance.
        settings: the method and the rounding; its scope and its target are not used.
        ratios: shares of the group's channels.

    Returns:
        One entry for each group and ratio, in the order of the forward pass.
    """
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise PruneError(f'ratios must lie between 0 and 1, not {ratios}')
    settings = replace(settings, scope='layer')
    whole = copy.deepcopy(network).float().cpu().eval()
    structure.split(whole)
    count = count_parameters(whole)
    found = groups(whole)
    rows = []
    for group, scores in tqdm(
        list(zip(found, importance(whole, found, settings), strict=True)), desc='sensitivity', unit='layer'
    ):
        for ratio in ratios:
            pruned = copy.deepcopy(whole)
            going = choose([scores], ratio, settings)
            remove(pruned, [group], going)
            share = 1 - count_parameters(pruned) / count
            rows.append(Sensitivity(group.name, group.size, ratio, len(going[0]), share, measure(pruned)))
    return rows


def output_drift(network: nn.Module, images: torch.Tensor) -> Callable[[nn.Module], float]:
    """A measure that needs no labels: ‖f'(x) − f(x)‖ / ‖f(x) − f̄‖ over each of the head's outputs, and the mean of these.

    f̄ is the mean of each output channel, because most of an output's norm is its bias. 0 is no change; at 1 the change is as
    large as all that the output says.

    Args:
        network: the unpruned detector f.
        images: float (N, 3, H, W), RGB in 0 … 1, as in training.
    """

    def outputs(other: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            return head_maps(other.eval(), images)

    wanted = outputs(copy.deepcopy(network).float().cpu())
    spreads = [float((want - want.mean((0, 2, 3), keepdim=True)).norm()) for want in wanted]
    if not all(spreads):
        raise PruneError('the outputs are the same everywhere; give real images, and more than one')

    def drift(pruned: nn.Module) -> float:
        changes = [
            float((got - want).norm()) / spread
            for got, want, spread in zip(outputs(pruned), wanted, spreads, strict=True)
        ]
        return sum(changes) / len(changes)

    return drift


def write_table(rows: Sequence[Sensitivity], target: Path) -> None:
    """Write the entries as CSV."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sensitivity)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(rows: Sequence[Sensitivity], target: Path, quantity: str = 'drift of the outputs') -> None:
    """Write a picture: a line for each ratio over the layers.

    Args:
        target: a .png or .svg file.
        quantity: what the values are.
    """
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(max(7.0, 0.2 * len(layers)), 5), layout='constrained')
    axes = figure.subplots()
    for ratio in sorted({row.ratio for row in rows}):
        values = {row.layer: row.value for row in rows if row.ratio == ratio}
        axes.plot(layers, [values[layer] for layer in layers], marker='.', label=f'{ratio:.0%} of the channels go')
    axes.set_ylabel(quantity)
    axes.set_xlabel('the layer that alone is pruned')
    axes.tick_params(axis='x', labelrotation=90, labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
