"""Controls of a distillation study: teachers that know nothing, or that speak of another image.

A loss that gains as much from them as from the real teacher regularises; it does not pass on what the teacher knows. The
third control needs no code: an arm that trains the plain student for as long as a distilled one takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from training.errors import StudyError
from training.models.weights import build_network, load_network, save_weights
from training.prune import structure

CONTROLS = ('none', 'random', 'shuffled')
"""`none`: the teacher as it is; `random`: the same network with fresh weights; `shuffled`: its outputs for another image of
the batch."""

Outputs = TypeVar('Outputs')


def random_teacher(teacher: Path, file: Path, seed: int) -> None:
    """Write the network of a weights file, pruned or not, with fresh random weights.

    Args:
        teacher: weights file.
        file: the one that is written.
        seed: of the weights.

    Raises:
        WeightsError: a file cannot be read or written.
    """
    network, classes = load_network(teacher)
    save_weights(untrained(network, classes, seed), file, classes)


def untrained(network: nn.Module, classes: Sequence[str], seed: int) -> nn.Module:
    """A network of the same architecture and channels with fresh random weights, in evaluation mode.

    Args:
        network: a detector of `build_network` or `load_network`.
        classes: its classes.
        seed: of the weights; what else torch draws stays as it would be.
    """
    architecture: Any = network.yaml
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_network(architecture, classes)
    structure.restore(fresh, structure.describe(network))
    if getattr(network, 'kept', None) is not None:
        fresh.kept = network.kept
    return fresh.eval()


def other_images(count: int, seed: int, step: int) -> list[int]:
    """For each image of a batch another one, each taken once; the same for the same step, so that a resumed run equals.

    Raises:
        StudyError: a batch of one has no other image.
    """
    if count < 2:
        raise StudyError('a shuffled teacher needs batches of at least two images')
    shift = int(np.random.default_rng((seed, step)).integers(1, count))
    return [(place + shift) % count for place in range(count)]


def shuffled(outputs: Outputs, order: Sequence[int]) -> Outputs:
    """A teacher's outputs with the images of the batch exchanged: item i becomes what was said of `order[i]`.

    Args:
        outputs: tensors whose first dimension is the batch, alone or in (nested) lists, tuples and mappings.
        order: see `other_images`.

    Raises:
        StudyError: a tensor is not of this batch.
    """
    return cast(Outputs, _shuffled(outputs, list(order)))


def _shuffled(outputs: Any, order: list[int]) -> Any:
    if isinstance(outputs, torch.Tensor):
        if outputs.ndim == 0 or len(outputs) != len(order):
            raise StudyError(f'a teacher output of shape {tuple(outputs.shape)} is not of a batch of {len(order)}')
        return outputs[order]
    if isinstance(outputs, Mapping):
        return {name: _shuffled(value, order) for name, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_shuffled(value, order) for value in outputs)
    return outputs
