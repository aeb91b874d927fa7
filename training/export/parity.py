"""Parity of what a bundle would hold: torch, the float network and the quantized ones on real images, on the runtime's own path.

Every network detects through `kd_perception.detection.detector.Detector`; what the float reference detects is looked for
again in what the others detect. A bundle whose parity fails is not written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.engine import EngineInfo
from kd_perception.detection.network import InputSpec, OutputSpec
from kd_perception.detection.overlap import iou
from kd_perception.detection.thresholds import Thresholds
from kd_perception.engines.options import EngineOptions
from kd_perception.metrics.matching import assign
from training.errors import ExportError
from training.export.heads import BoxesScores
from training.measure import with_file

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

MATCH_IOU = 0.5
"""A detection was found again where one of its class lies like this or better."""


@dataclass(frozen=True)
class ParityLimits:
    """What is still the same detector.

    Attributes:
        asked_score: detections of the reference from this score on are looked for.
        found: the least share of them that is found again.
        score: the largest mean difference of their scores.
        overlap: the least mean IoU with them.
    """

    asked_score: float = 0.5
    found: float = 1.0
    score: float = 1e-3
    overlap: float = 0.999


EXACT = ParityLimits()
"""Of the float network against torch: the same arithmetic in another order."""
HALF_WEIGHTS = ParityLimits(score=5e-3, overlap=0.99)
"""Of a float network whose weights were stored in float16, against torch: eleven bits of each weight are left."""
QUANTIZED = ParityLimits(found=0.95, score=0.05, overlap=0.85)
"""Of INT8 against float: one in twenty sure detections may fall away, and a box may move by a tenth of its side."""


@dataclass(frozen=True)
class Parity:
    """How well detections were found again.

    Attributes:
        images: number of images.
        asked: detections of the reference with the asked score.
        found: share of them found again; 1 where none was asked.
        score: mean difference of the scores of those found.
        worst_score: the largest.
        overlap: mean IoU of those found.
        worst_overlap: the smallest.
    """

    images: int
    asked: int
    found: float
    score: float
    worst_score: float
    overlap: float
    worst_overlap: float

    @property
    def compared(self) -> bool:
        """Whether there was anything to look for: without, nothing is known of the network."""
        return self.asked > 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a bundle's record keeps them."""
        return {'compared': self.compared} | {name: round(value, 6) for name, value in asdict(self).items()}


class TorchEngine:
    """A module as an engine of the runtime, so that torch too detects on the runtime's path."""

    def __init__(self, module: BoxesScores) -> None:
        self._module = module
        self.info = EngineInfo('torch', 'fp32', 'cpu', 'torch', torch.get_num_threads())

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        with torch.no_grad():
            boxes, scores = self._module(torch.from_numpy(batch))
        return {'boxes': boxes.numpy(), 'scores': scores.numpy()}

    def close(self) -> None:
        """Nothing is held."""


def check_bundle_parity(
    module: BoxesScores,
    networks: Mapping[str, Path],
    images: Sequence[Image],
    *,
    classes: Sequence[str],
    width: int,
    height: int,
    limits: ParityLimits = QUANTIZED,
    float_limits: ParityLimits = EXACT,
) -> dict[str, dict[str, Any]]:
    """Hold the float network against torch, and every other network against the float one.

    Args:
        module: what was exported.
        networks: files by precision, `fp32` among them; ONNX Runtime runs all of them.
        images: BGR uint8 of any size, as the camera gives them.
        classes: the detector's.
        width: input width in pixels.
        height: likewise.
        limits: of the networks that are not float.
        float_limits: of the float network.

    Returns:
        By precision, `Parity.to_json`; where it says `compared: false`, the network finds nothing yet, and a warning says so.

    Raises:
        ExportError: no image, no float network, or one that is not the same detector any more.
    """
    if 'fp32' not in networks:
        raise ExportError(f'parity needs the float network; given are {", ".join(networks) or "none"}')
    spec = bare_bundle(classes, width, height)
    wanted = _found(Detector(spec, TorchEngine(module)), images)
    reference = detections_of(spec, networks['fp32'], 'fp32', images)
    record = {'fp32': check(networks['fp32'], wanted, reference, float_limits)}
    for precision, file in networks.items():
        if precision != 'fp32':
            record[precision] = check(file, reference, detections_of(spec, file, precision, images), limits)
    return {precision: parity.to_json() for precision, parity in record.items()}


def check(file: Path, wanted: Sequence[Detections], found: Sequence[Detections], limits: ParityLimits) -> Parity:
    """Compare, and refuse what is over the limits. Where there is nothing to look for, a line on stderr says so.

    Raises:
        ExportError: it is another detector; the message says by how much.
    """
    parity = compare(wanted, found, limits.asked_score)
    if parity.found < limits.found or parity.score > limits.score or parity.overlap < limits.overlap:
        raise ExportError(
            f'{file.name} is not the detector that it was made from: of {parity.asked} detections with a score of '
            f'{limits.asked_score:g} it finds {100 * parity.found:.1f} % again (at least {100 * limits.found:g} % asked), '
            f'scores {parity.score:.2g} apart (at most {limits.score:g}), mean IoU {parity.overlap:.3f} '
            f'(at least {limits.overlap:g}). Leave more layers in float: python -m training sensitivity --help'
        )
    if not parity.compared:
        print(
            f'training: {file.name} was not compared: what it was made from detects nothing with a score of '
            f'{limits.asked_score:g} in {parity.images} pictures; train it longer, or give pictures of what it detects',
            file=sys.stderr,
        )
    return parity


def compare(wanted: Sequence[Detections], found: Sequence[Detections], asked_score: float) -> Parity:
    """Look for detections again, image by image, each found at most once.

    Args:
        wanted: of the reference.
        found: of the other network, detected down to a lower score.
        asked_score: of the wanted detections that are looked for.

    Raises:
        ExportError: no image.
    """
    if not wanted:
        raise ExportError('parity needs at least one image')
    scores, overlaps, asked = [np.zeros(0)], [np.zeros(0)], 0
    for reference, other in zip(wanted, found, strict=True):
        sure = reference.select(reference.scores >= asked_score)
        taken = assign(sure, other, MATCH_IOU)
        hits = taken >= 0
        asked += len(sure)
        scores.append(np.abs(sure.scores[hits] - other.scores[taken[hits]]))
        overlaps.append(iou(sure.boxes[hits], other.boxes[taken[hits]]).diagonal())
    off, over = np.concatenate(scores), np.concatenate(overlaps)
    return Parity(
        images=len(wanted),
        asked=asked,
        found=len(off) / asked if asked else 1.0,
        score=float(off.mean()) if len(off) else 0.0,
        worst_score=float(off.max(initial=0)),
        overlap=float(over.mean()) if len(over) else 1.0,
        worst_overlap=float(over.min(initial=1)),
    )


def bare_bundle(classes: Sequence[str], width: int, height: int) -> Bundle:
    """A bundle without artifacts, with a low score threshold: what is looked for may have fallen."""
    return Bundle(
        folder=Path(),
        name='parity',
        family='parity',
        description='',
        license='',
        attribution=(),
        classes=tuple(classes),
        input=InputSpec(width, height),
        output=OutputSpec('boxes_scores'),
        thresholds=Thresholds(score=0.1, iou=0.6),
        artifacts=(),
        provenance={},
    )


def detections_of(
    spec: Bundle, file: Path, precision: str, images: Iterable[Image], engine: str = 'onnxruntime'
) -> list[Detections]:
    """What a network file, run by an engine, detects on each image."""
    bundle = with_file(replace(spec, folder=file.parent), file, precision, engine)
    return _found(Detector(bundle, engines.load(bundle, bundle.artifacts[0], EngineOptions(threads=1))), images)


def _found(detector: Detector, images: Iterable[Image]) -> list[Detections]:
    try:
        return [detector.detect(image)[0] for image in images]
    finally:
        detector.close()
