"""Networks with which a stage begins to train, beyond what a weights file or an architecture says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data.dataset import Image
from training.errors import WeightsError
from training.quantize.qdq import QuantizeSettings


def widened(architecture: str, classes: Sequence[str], narrow: Path, seed: int) -> Any:
    """A network of that architecture that knows what a narrower one knows.

    Raises:
        WeightsError: the narrow one has other classes or other layers.
    """
    from training.models.weights import build_network, load_network
    from training.models.widening import widen

    network, known = load_network(narrow)
    if known != tuple(classes):
        raise WeightsError(f'{narrow} knows the classes {", ".join(known)}, not {", ".join(classes)}')
    wide = build_network(architecture, classes)
    widen(wide, network, seed)
    return wide


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
    import torch

    from training.models.weights import build_network
    from training.models.yolov4.anchors import box_sizes, fit_anchors
    from training.models.yolov4.classifier_files import take_backbone
    from training.models.yolov4.network import YOLOv4

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
"""Of which the statistics of normalisations are measured, where a bundle holds none any more."""


def of_bundle(architecture: str, classes: Sequence[str], folder: Path, images: Sequence[Path], image_size: int) -> Any:
    """The float network of a bundle that our exporter wrote, to train on.

    Args:
        architecture: the one that it was exported from.
        classes: to detect.
        images: of the training; some of them say how the layers' values are spread.
        image_size: of the training in pixels.

    Raises:
        BundleError, WeightsError: see `training.models.bundle_weights`.
    """
    import numpy as np
    import torch

    from kd_perception.bags.sources import read_image
    from training.data.spread import letterboxed, spread
    from training.models.bundle_weights import network_of_bundle

    shown = letterboxed(map(read_image, spread(images, MEASURED_PICTURES)), image_size, image_size)
    pictures = [
        torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))[None] / 255 for image in shown
    ]
    return network_of_bundle(folder, architecture, classes, pictures)


def quantization_aware(file: Path, calibration: Sequence[Image], settings: QuantizeSettings) -> Any:
    """A trained network that computes as INT8 with these settings will, its ranges set by those images."""
    from training.models.weights import load_network
    from training.quantize.qat import prepare_qat

    return prepare_qat(load_network(file)[0], calibration, settings)
