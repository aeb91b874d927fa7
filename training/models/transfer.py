"""What a trained detector knows, carried into one with other classes: all layers but those that tell classes apart.

Of these, the outputs of classes that both have go over by name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import WeightsError
from training.models import structure
from training.models.architecture import build_network
from training.models.yolov4.network import YOLOv4

FEW = 0.001
"""The score of fresh classes at first: nearly all anchors show none."""


@dataclass(frozen=True)
class Transferred:
    """A network with other classes.

    Attributes:
        network: in evaluation mode.
        taken: tensors that are the trained one's.
        tensors: of all.
        classes: names that both have; their outputs were taken, too.
    """

    network: Any
    taken: int
    tensors: int
    classes: tuple[str, ...]

    def __str__(self) -> str:
        shared = f', and the outputs of {", ".join(self.classes)}' if self.classes else ''
        return (
            f'{self.taken} of {self.tensors} tensors taken{shared}; the others, which tell classes apart, begin afresh'
        )


def with_classes(network: Any, own: Sequence[str], wanted: Sequence[str]) -> Transferred:
    """A network that detects `wanted`, with what one that detects `own` knows; fresh tensors are drawn from torch's generator.

    Raises:
        WeightsError: a pruned network of a kind whose head cannot be replaced.
    """
    fresh = _with_fresh_head(network, wanted) if structure_changed(network) else build_network(network.yaml, wanted)
    old, new = network.state_dict(), fresh.state_dict()
    by_class = class_outputs(fresh)
    shared = [(own.index(name), place) for place, name in enumerate(wanted) if name in own]
    taken = 0
    for name, value in new.items():
        if name not in old:
            continue
        if name in by_class:
            _take_classes(value, old[name], by_class[name], (len(own), len(wanted)), shared)
        elif old[name].shape == value.shape:
            value.copy_(old[name])
            taken += 1
    names = tuple(own[place] for place, _ in shared)
    # Where hidden layers of the head are as wide as there are classes, a class's output reads other features than before.
    usable = all(old[name].shape[1:] == new[name].shape[1:] for name in by_class if name in old)
    return Transferred(fresh.eval(), taken, len(new), names if usable else ())


def structure_changed(network: Any) -> bool:
    """Whether a network was pruned, so that its architecture alone does not build it."""
    return structure.is_split(network) or getattr(network, 'kept', None) is not None


def _with_fresh_head(network: Any, classes: Sequence[str]) -> Any:
    fresh = copy.deepcopy(network)
    fresh.names = dict(enumerate(classes))
    if isinstance(fresh, YOLOv4):
        fresh.begin_classes(len(classes))
        return fresh
    head = fresh.model[-1]
    if not hasattr(head, 'reg_max'):
        raise WeightsError('a pruned network of this kind keeps its classes')
    few = float(torch.logit(torch.tensor(FEW)))
    for branch in (head.cv3, getattr(head, 'one2one_cv3', None) or ()):
        for level in branch:
            level[-1] = nn.Conv2d(level[-1].in_channels, len(classes), 1)
            nn.init.constant_(level[-1].bias, few)
    head.nc, head.no = len(classes), len(classes) + 4 * head.reg_max
    fresh.yaml = {**network.yaml, 'nc': len(classes)}
    return fresh


def class_outputs(network: Any) -> dict[str, int]:
    """The tensors with a row for each class, and how many such rows in turn: 3 in a head of YOLOv4, one an anchor."""
    if isinstance(network, YOLOv4):
        return {f'heads.{level}.1.{kind}': 3 for level in range(3) for kind in ('weight', 'bias')}
    head, prefix = network.model[-1], f'model.{len(network.model) - 1}'
    if hasattr(head, 'reg_max'):
        branches = [name for name in ('cv3', 'one2one_cv3') if getattr(head, name, None) is not None]
        layers = [
            f'{name}.{level}.{len(part) - 1}' for name in branches for level, part in enumerate(getattr(head, name))
        ]
        return {f'{prefix}.{layer}.{kind}': 1 for layer in layers for kind in ('weight', 'bias')}
    heads = ['enc_score_head', *(f'dec_score_head.{layer}' for layer in range(len(head.dec_score_head)))]
    return {f'{prefix}.{layer}.{kind}': 1 for layer in heads for kind in ('weight', 'bias')}


def _take_classes(
    new: Tensor, old: Tensor, anchors: int, counts: tuple[int, int], shared: Sequence[tuple[int, int]]
) -> None:
    """Copy the rows of shared classes, and of a YOLOv4's head those of boxes and objectness, which stand before them."""
    if old.shape[1:] != new.shape[1:]:
        return
    others = old.shape[0] // anchors - counts[0]
    if others < 0 or others != new.shape[0] // anchors - counts[1]:
        return
    source, target = old.unflatten(0, (anchors, -1)), new.unflatten(0, (anchors, -1))
    target[:, :others] = source[:, :others]
    for before, place in shared:
        target[:, others + place] = source[:, others + before]
