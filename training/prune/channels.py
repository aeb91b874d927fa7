"""Which channels of a network can only go together, by torch-pruning's dependency graph, and their removal.

A convolution's output channel goes with its batch normalization, with the inputs of the convolutions that read it, and, behind a
shortcut addition, with the same channel of every addend. Such a set is one channel of a `Group`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from torch import nn

from training.errors import PruneError
from training.models import structure
from training.models.kept_channels import keep_features, keep_inputs, keep_outputs
from training.prune.heads import blocks_of_fixed_width, branches, head_maps, last_layers

Indices = npt.NDArray[np.int64]
Role = Literal['outputs', 'inputs', 'features']

TRACED_SIDE = 64
"""Pixels of the square image that the graph is traced with."""


@dataclass(frozen=True, eq=False)
class Member:
    """One layer's part in a group.

    Attributes:
        name: the layer.
        role: which of its channels: a convolution's outputs or inputs (of a depthwise one outputs, which are its inputs too), or
            a batch normalization's features.
        channels: (n,) numbers of the layer's channels.
        roots: (n,) for each, the group's channel that it belongs to. Behind a concatenation one may occur more than once.
    """

    name: str
    role: Role
    channels: Indices
    roots: Indices


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of several layers that can only be removed together.

    Attributes:
        name: the first convolution that makes the channels.
        size: the number of its channels.
        members: every layer with a part in it.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    def of(self, role: Role) -> list[Member]:
        """The members of one role."""
        return [member for member in self.members if member.role == role]

    def sources(self) -> Indices:
        """(size,) how many layers make each channel; more than one: a shortcut adds them up."""
        counts = np.zeros(self.size, np.int64)
        for member in self.of('outputs'):
            counts[np.unique(member.roots)] += 1
        return counts


def groups(network: nn.Module) -> list[Group]:
    """The groups that may be pruned, in the order of the forward pass.

    Left out are the last convolutions of the head, whatever touches attention, layers other than convolutions and batch
    normalizations, and what torch-pruning cannot number. With unsplit C2f blocks a group holds both halves of their first
    convolution, so split them first to prune.

    Raises:
        PruneError: the network's head is of an unknown kind, or it does what torch-pruning cannot follow.
    """
    network = copy.deepcopy(network).float().cpu().eval().requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter('ignore')
        image = torch.zeros(1, 3, TRACED_SIDE, TRACED_SIDE)
        try:
            graph.build_dependency(
                network, image, forward_fn=lambda network, image: head_maps(network, image), verbose=False
            )
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
            raise PruneError(f'torch-pruning cannot follow this network: {type(error).__name__}: {error}') from error
    names = {module: name for name, module in network.named_modules()}
    fixed = _fixed(network)
    found = []
    for traced in graph.get_all_groups(ignored_layers=list(fixed), root_module_types=(nn.Conv2d,)):
        group = _group(graph, traced, names)
        if group is not None and not any(_touches(member, network, fixed) for member in group.members):
            found.append(group)
    order = {name: number for number, name in enumerate(structure.convolutions(network))}
    named = [
        replace(group, name=min((part.name for part in group.of('outputs')), key=order.__getitem__)) for group in found
    ]
    return sorted(named, key=lambda group: order[group.name])


def _fixed(network: nn.Module) -> set[nn.Module]:
    """Layers whose outputs must keep their number."""
    whole = blocks_of_fixed_width(network)
    lasts = [*last_layers(network), *(module for module in network.modules() if isinstance(module, whole))]
    return {module for last in lasts for module in last.modules()}


def _touches(member: Member, network: nn.Module, fixed: set[nn.Module]) -> bool:
    """Whether a member must keep its channels."""
    layer = network.get_submodule(member.name)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not structure.is_depthwise(layer):
        return True
    whole = blocks_of_fixed_width(network)
    inside = any(isinstance(network.get_submodule(parent), whole) for parent in _parents(member.name))
    return inside or (member.role == 'outputs' and layer in fixed)


def _parents(name: str) -> list[str]:
    parts = name.split('.')
    return ['.'.join(parts[:count]) for count in range(1, len(parts))]


def _group(graph: Any, traced: Any, names: Mapping[nn.Module, str]) -> Group | None:
    """torch-pruning's group as ours, None where a layer of another kind has a part in it."""
    members = []
    for item in traced:
        layer = item.dep.target.module
        if isinstance(layer, nn.Conv2d):
            is_output = structure.is_depthwise(layer) or graph.is_out_channel_pruning_fn(item.dep.handler)
            role: Role = 'outputs' if is_output else 'inputs'
        elif isinstance(layer, nn.BatchNorm2d):
            role = 'features'
        elif isinstance(layer, nn.Parameter) or any(True for _ in layer.parameters()):
            return None
        else:
            continue
        channels = np.asarray(item.idxs, np.int64)
        if channels.max() >= _width(
            layer, role
        ):  # torch-pruning loses count where a map is cut in parts of several widths
            return None
        members.append(Member(names[layer], role, channels, np.asarray(item.root_idxs, np.int64)))
    return Group(members[0].name, len(members[0].channels), tuple(members))


def remove(network: nn.Module, found: Sequence[Group], removed: Sequence[Indices]) -> dict[str, Indices]:
    """Take channels out of a network, in place.

    Args:
        found: groups of this network.
        removed: for each group, the numbers of its channels that go.

    Returns:
        For each convolution that lost some, the numbers of the output channels that stay.
    """
    gone: dict[tuple[str, Role], list[Indices]] = {}
    for group, channels in zip(found, removed, strict=True):
        for member in group.members:
            chosen = member.channels[np.isin(member.roots, channels)]
            if len(chosen):
                gone.setdefault((member.name, member.role), []).append(chosen)
    kept_outputs = {}
    for (name, role), parts in gone.items():
        layer: Any = network.get_submodule(name)
        kept = np.setdiff1d(np.arange(_width(layer, role)), np.concatenate(parts))
        if not len(kept):
            raise PruneError(f'{name} would lose all its {role}; ask for less')
        if role == 'features':
            keep_features(layer, kept)
        elif role == 'inputs':
            keep_inputs(layer, kept)
        else:
            keep_outputs(layer, kept)
            kept_outputs[name] = kept
    return kept_outputs


def _width(layer: nn.Conv2d | nn.BatchNorm2d, role: Role) -> int:
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    return layer.in_channels if role == 'inputs' else layer.out_channels


def kept_levels(network: nn.Module, found: Sequence[Group], removed: Sequence[Indices]) -> list[list[int]]:
    """For each level that the head reads, which of its channels stay."""
    names = {layer: name for name, layer in structure.convolutions(network).items()}
    kept = []
    for level in branches(network)[0]:
        first = next(layer for layer in level.modules() if isinstance(layer, nn.Conv2d))
        role = 'outputs' if structure.is_depthwise(first) else 'inputs'
        gone = [
            member.channels[np.isin(member.roots, channels)]
            for group, channels in zip(found, removed, strict=True)
            for member in group.of(role)
            if member.name == names[first]
        ]
        all_gone = np.concatenate(gone) if gone else np.empty(0, np.int64)
        kept.append([int(channel) for channel in np.setdiff1d(np.arange(first.in_channels), all_gone)])
    return kept
