"""Structured channel pruning: settings, the importance of channels, and the search for the ratio that meets a target."""

from __future__ import annotations

import copy
import fnmatch
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from training.errors import PruneError
from training.export.onnx_export import export
from training.models import structure
from training.prune.channels import Group, Indices, groups, kept_levels, remove
from training.prune.cost import Cost, cost, count_gflops, count_parameters, measure_latency
from training.prune.heads import head_maps
from training.prune.settings import PruneSettings
from training.schema import nearest

Scores = npt.NDArray[np.float64]

SEARCH_STEPS = 12
LATENCY_STEPS = 6
LATENCY_ROUNDS = 15


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network and what became of it.

    Attributes:
        network: the pruned copy, in evaluation mode; its `kept` goes into the weights file.
        kept: for each level that the head reads, the channels of the unpruned network that it kept.
        outputs: for each convolution that lost some, the output channels that it kept (names of the network with split blocks).
        ratio: the share of channels that was asked for, or found by the search.
        before: the cost of the network as given.
        after: the cost of the pruned one.
    """

    network: nn.Module
    kept: list[list[int]]
    outputs: dict[str, list[int]]
    ratio: float
    before: Cost
    after: Cost


def prune(network: nn.Module, settings: PruneSettings, width: int, height: int) -> Pruned:
    """Prune a copy of a network.

    Args:
        network: a detector of `build_network` or `load_network`; it may have been pruned before.
        width: of the input in pixels; operations and latency are counted at this size.
        height: likewise.

    Raises:
        PruneError: a target that no ratio reaches, a layer to skip that does not exist, or a head of an unknown kind.
    """
    whole = copy.deepcopy(network).float().cpu().eval()
    structure.split(whole)
    plan = _Plan(whole, settings)
    before = cost(whole, width, height)
    ratio = _ratio(plan, settings, before, width, height)
    pruned, kept, outputs = plan.carry_out(ratio)
    _check(pruned, width, height)
    earlier = getattr(network, 'kept', None)
    if earlier is not None:
        kept = [[earlier[level][channel] for channel in channels] for level, channels in enumerate(kept)]
    pruned.kept = kept  # type: ignore[assignment]
    return Pruned(pruned, kept, outputs, ratio, before, cost(pruned, width, height))


class _Plan:
    """Groups and scores of one network, found once; `carry_out` prunes a copy by any ratio."""

    def __init__(self, whole: nn.Module, settings: PruneSettings) -> None:
        self.whole = whole
        self.settings = settings
        self.groups = _without(groups(whole), settings.skip, whole)
        if not self.groups:
            raise PruneError('nothing is left to prune; skip fewer layers')
        self.scores = importance(whole, self.groups, settings)

    def carry_out(self, ratio: float) -> tuple[nn.Module, list[list[int]], dict[str, list[int]]]:
        removed = choose(self.scores, ratio, self.settings)
        kept = kept_levels(self.whole, self.groups, removed)
        pruned = copy.deepcopy(self.whole)
        outputs = remove(pruned, self.groups, removed)
        return pruned, kept, {name: channels.tolist() for name, channels in outputs.items()}


def _without(found: list[Group], patterns: Sequence[str], network: nn.Module) -> list[Group]:
    """The groups in which no layer is to be skipped."""
    names = list(structure.convolutions(network))
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise PruneError(f'no convolution is named {pattern!r}{nearest(pattern, names)}')
    return [
        group
        for group in found
        if not any(_matches(member.name, pattern) for member in group.of('outputs') for pattern in patterns)
    ]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + '.')


def importance(network: nn.Module, found: Sequence[Group], settings: PruneSettings) -> list[Scores]:
    """A score for each channel of each group; the lowest go first. Scores of `lamp` and `group_norm` compare across groups."""
    numbers = np.random.default_rng(settings.seed)
    methods: dict[str, Callable[[Group], Scores]] = {
        'bn': lambda group: _gamma(network, group),
        'group_norm': lambda group: _relative(np.sqrt(_squares(network, group, ('outputs', 'inputs', 'features')))),
        'lamp': lambda group: lamp(np.sqrt(_squares(network, group, ('outputs',)))),
        'random': lambda group: numbers.random(group.size),
    }
    return [methods[settings.method](group) for group in found]


def _gamma(network: nn.Module, group: Group) -> Scores:
    """Mean |γ| of the batch normalizations of each channel (Liu et al. 2017, Learning efficient convolutional networks)."""
    total, count = np.zeros(group.size), np.zeros(group.size)
    made = {member.name.rpartition('.')[0] for member in group.of('outputs')}
    for member in group.of('features'):
        if member.name.rpartition('.')[0] in made:
            gamma: Any = network.get_submodule(member.name).weight
            np.add.at(total, member.roots, gamma.detach().abs().double().numpy()[member.channels])
            np.add.at(count, member.roots, 1)
    if not count.all():
        raise PruneError(f'{group.name} has no batch normalization; prune by group_norm or lamp, or skip it')
    return total / count


def _squares(network: nn.Module, group: Group, roles: Sequence[str]) -> Scores:
    """The sum of the squares of all weights that go with each channel."""
    total = np.zeros(group.size)
    for member in group.members:
        if member.role in roles:
            layer: Any = network.get_submodule(member.name)
            squares = layer.weight.detach().double().square()
            squares = squares.transpose(0, 1) if member.role == 'inputs' else squares
            np.add.at(total, member.roots, squares.reshape(len(squares), -1).sum(1).numpy()[member.channels])
    return total


def _relative(scores: Scores) -> Scores:
    """Scores in units of their group's mean (Fang et al. 2023, DepGraph)."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def lamp(values: Scores) -> Scores:
    """Layer-adaptive magnitude: w_u² / Σ w_v² over all v with |w_v| ≥ |w_u| (Lee et al. 2021, equation 4).

    Args:
        values: (n,) weights, or norms of channels.

    Example:
        >>> import numpy as np
        >>> lamp(np.array([0.5, -1.0, 2.0, 0.1])).round(9).tolist()
        [0.047619048, 0.2, 1.0, 0.001901141]
    """
    squares = values.astype(np.float64) ** 2
    falling = np.argsort(-squares, kind='stable')
    tails = np.cumsum(squares[falling])
    scores = np.empty_like(squares)
    scores[falling] = np.divide(squares[falling], tails, out=np.zeros_like(tails), where=tails > 0)
    return scores


def choose(scores: Sequence[Scores], ratio: float, settings: PruneSettings) -> list[Indices]:
    """For each group the channels that go, in rising order.

    Args:
        scores: see `importance`.
        ratio: the share of the channels that goes, of each group or of all together.
    """
    wanted = [len(values) * (1 - ratio) for values in scores]
    if settings.scope == 'global':
        everything = np.concatenate(scores)
        going = round(ratio * len(everything))
        ranks = np.empty(len(everything), np.int64)
        ranks[np.argsort(everything, kind='stable')] = np.arange(len(everything))
        ends = np.cumsum([len(values) for values in scores])[:-1]
        wanted = [float((part >= going).sum()) for part in np.split(ranks, ends)]
    return [
        np.sort(np.argsort(values, kind='stable')[: len(values) - _rounded(count, len(values), settings)])
        for values, count in zip(scores, wanted, strict=True)
    ]


def _rounded(wanted: float, size: int, settings: PruneSettings) -> int:
    """The number of channels that stay: the multiple nearest to what is wanted that keeps enough of the group."""
    least = max(1, math.ceil(size * (1 - settings.max_ratio) - 1e-9))
    multiple = settings.round_to
    count = multiple * math.floor(wanted / multiple + 0.5)
    count = max(count, multiple * math.ceil(least / multiple))
    return min(count, size)


def _ratio(plan: _Plan, settings: PruneSettings, before: Cost, width: int, height: int) -> float:
    if settings.ratio is not None:
        return settings.ratio
    if settings.latency_ms is not None:
        return _search(
            lambda ratio: _milliseconds(plan.carry_out(ratio)[0], width, height),
            settings.latency_ms,
            LATENCY_STEPS,
            'ms on this CPU',
        )
    if settings.cut_parameters is not None:
        most = (1 - settings.cut_parameters) * before.parameters
        return _search(lambda ratio: count_parameters(plan.carry_out(ratio)[0]), most, SEARCH_STEPS, 'parameters')
    assert settings.cut_gflops is not None
    most = (1 - settings.cut_gflops) * before.gflops
    return _search(lambda ratio: count_gflops(plan.carry_out(ratio)[0], width, height), most, SEARCH_STEPS, 'GFLOPs')


def _search(measure: Callable[[float], float], most: float, steps: int, unit: str) -> float:
    """The smallest ratio found by bisection at which `measure`, which falls with the ratio, is at most `most`."""
    low, high = 0.0, 0.99
    reached = measure(high)
    if reached > most:
        raise PruneError(f'pruning reaches {reached:.4g} {unit} at most, not {most:.4g}; raise max_ratio or skip less')
    for _ in tqdm(range(steps), desc=f'searching the ratio for {most:.4g} {unit}', unit='step'):
        middle = (low + high) / 2
        low, high = (low, middle) if measure(middle) <= most else (middle, high)
    return high


def _milliseconds(network: nn.Module, width: int, height: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'candidate.onnx'
        export(network, width, height, file)
        return measure_latency({'it': file}, rounds=LATENCY_ROUNDS, progress=False)['it'].median


def _check(network: nn.Module, width: int, height: int) -> None:
    """Run the pruned network once on shapes alone."""
    try:
        with torch.no_grad():
            head_maps(copy.deepcopy(network).to('meta'), torch.zeros(1, 3, height, width, device='meta'))
    except RuntimeError as error:
        raise PruneError(f'the pruned network does not run, a block of its kind cannot be pruned: {error}') from error
