"""The network with which a training begins: one at hand, a weights file of any classes, or an architecture."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception.bags.sources import read_image
from training.data.spread import letterboxed, spread
from training.errors import WeightsError
from training.models.bundle_weights import network_of_bundle
from training.models.transfer import with_classes
from training.models.weights import build_network, load_network
from training.models.yolov4.anchors import box_sizes, fit_anchors
from training.models.yolov4.classifier_files import take_backbone
from training.models.yolov4.network import YOLOv4
from training.seeding import seeded

_logger = logging.getLogger(__name__)


def start_network(start: nn.Module | Path | str | Mapping[str, Any], classes: Sequence[str], seed: int) -> Any:
    """The network with which a training begins.

    Args:
        start: a network, its weights file, or an architecture (see `training.models.weights`) for fresh weights.
        classes: their names; what tells others apart in a weights file begins afresh.
        seed: of what is drawn.

    Raises:
        WeightsError: a weights file that cannot be used.
    """
    if isinstance(start, nn.Module):
        return copy.deepcopy(start).float()
    if isinstance(start, Path):
        network, known = load_network(start)
        if known == tuple(classes):
            return network
        with seeded(seed, -1):
            transferred = with_classes(network, known, classes)
        _logger.warning('%s: %s', start, transferred)
        return transferred.network
    with seeded(seed, -1):
        return build_network(start, classes)


def fresh_yolov4(
    architecture: str,
    classes: Sequence[str],
    backbone: Path | None,
    images: Sequence[Path],
    image_size: int,
    seed: int,
) -> Any:
    """A YOLOv4 with fresh weights but for the backbone.

    Args:
        architecture: a model file.
        classes: their names.
        backbone: a classifier's weights; None leaves it fresh.
        images: whose boxes give the anchors; none takes the architecture's.
        image_size: of the training in pixels.
        seed: of the fresh weights.

    Raises:
        WeightsError: the classifier has another backbone, or the architecture is no YOLOv4.
        DataError: too few boxes for anchors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = build_network(architecture, classes)
        if not isinstance(network, YOLOv4):
            raise WeightsError(f'{architecture} is no YOLOv4: backbone and anchors are for that family')
        if images:
            anchors, _ = fit_anchors(box_sizes(images, len(classes), image_size), seed=seed)
            network = build_network({**network.yaml, 'anchors': anchors.reshape(3, 3, 2).round(1).tolist()}, classes)
    if backbone is not None:
        take_backbone(network, backbone)
    return network


MEASURED_PICTURES = 64
"""Of which the statistics of normalizations are measured, where a bundle holds none any more."""


def of_bundle(
    architecture: str, classes: Sequence[str], folder: Path, images: Sequence[Path], image_size: int, seed: int
) -> Any:
    """The float network of a bundle that our exporter wrote, to train on.

    Args:
        architecture: the one that it was exported from.
        classes: to detect.
        images: of the training; some of them say how the layers' values are spread.
        image_size: of the training in pixels.
        seed: of the outputs for classes that the bundle does not have.

    Raises:
        BundleError, WeightsError: see `training.models.bundle_weights`.
    """
    shown = letterboxed(map(read_image, spread(images, MEASURED_PICTURES)), image_size, image_size)
    pictures = [
        torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))[None] / 255 for image in shown
    ]
    with seeded(seed, -1):
        return network_of_bundle(folder, architecture, classes, pictures)
