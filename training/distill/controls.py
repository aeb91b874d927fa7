"""Controls of a distillation: a teacher that knows nothing, and one that speaks of another image.

A loss that gains as much from them as from the real teacher only regularises; it passes nothing on of what the teacher knows.
The third control needs no code: the plain student trained for as long as a distilled one takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.errors import FitError
from training.models.weights import build_network
from training.models.yolov4.network import YOLOv4

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

CONTROLS = ('none', 'random', 'shuffled')
"""`none`: the teacher as it is; `random`: the same network with fresh random weights; `shuffled`: what it says of another image
of the batch."""


def untrained(network: DetectionModel, classes: Sequence[str], seed: int) -> DetectionModel:
    """A network of the same architecture and channels with fresh random weights, in evaluation mode.

    Args:
        network: a detector of `build_network` or `load_network`, pruned or not.
        classes: its classes.
        seed: of the weights; what else torch draws stays as it would be.
    """
    architecture: Any = network.yaml
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: DetectionModel = build_network(architecture, classes)
    if not isinstance(network, YOLOv4):
        from training.models import structure

        structure.restore(fresh, structure.describe(network))
    fresh.eval()
    return fresh


def other_images(count: int, seed: int, step: int) -> list[int]:
    """For each image of a batch another one, each taken once; the same for the same step, so that a resumed run equals.

    Raises:
        FitError: a batch of one has no other image.
    """
    if count < 2:
        raise FitError('teacher_control: shuffled needs batches of at least two images')
    shift = int(np.random.default_rng((seed, step)).integers(1, count))
    return [(place + shift) % count for place in range(count)]
