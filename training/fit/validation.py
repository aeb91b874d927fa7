"""Measuring while a detector is trained: mAP on a fixed part of the validation images, the best weights, an early end."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.engine import EngineInfo
from kd_perception.detection.thresholds import Thresholds
from kd_perception.metrics.accuracy import measure
from training.data.dataset import image_files, read_split
from training.data.spread import spread
from training.errors import DataError
from training.export.heads import BoxesScores, boxes_scores
from training.export.parity import Array, bare_bundle
from training.models.weights import save_weights

BEST = 'best.pt'
RECORD = 'validation.csv'
COLUMNS = ('step', 'map50', 'map')
LOWEST_SCORE = 0.001


@dataclass
class Validation:
    """The measurements of a training so far.

    Args:
        folder: of the training; gets the best weights and the record.
        dataset: a prepared set, of whose `val` split images are taken.
        classes: of the detector.
        size: side of the training's square input in pixels.
        count: images at most, evenly spread.
        device: that computes.

    Attributes:
        best: highest mAP50-95 so far, 0 … 1; below 0 before the first.
        worse: measurements since then.
        rows: step, mAP50 and mAP50-95 of each.

    Raises:
        DataError: the set has no such images.
    """

    folder: Path
    dataset: Path
    classes: tuple[str, ...]
    size: int
    count: int
    device: torch.device
    best: float = -1.0
    worse: int = 0
    rows: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        self._files = spread(image_files(self.dataset, 'val'), self.count)
        if not self._files:
            raise DataError(f'{self.dataset} has no validation images: set validate_epochs: 0, or give it a val split')

    def measure(self, network: Any, step: int) -> Mapping[str, float]:
        """Measure a network, a copy that is not trained on, and keep it where it is the best so far."""
        spec = bare_bundle(self.classes, self.size, self.size)
        detector = Detector(
            spec,
            _OnDevice(boxes_scores(network.cpu(), self.size, self.size), self.device),
            Thresholds(score=LOWEST_SCORE, iou=spec.thresholds.iou),
        )
        found: list[Detections] = []
        truth: list[GroundTruth] = []
        for item in read_split(self.dataset, 'val', self._files):
            found.append(detector.detect(item.image)[0])
            truth.append(item.truth())
        accuracy = measure(found, truth, self.classes, score_threshold=spec.thresholds.score)
        self._note(network, step, accuracy.map50, accuracy.map)
        return {'val/map50': accuracy.map50, 'val/map': accuracy.map}

    def _note(self, network: nn.Module, step: int, map50: float, accuracy: float) -> None:
        self.rows = [*self.rows, (step, round(map50, 6), round(accuracy, 6))]
        if accuracy > self.best:
            self.best, self.worse = accuracy, 0
            save_weights(network, self.folder / BEST, self.classes)
        else:
            self.worse += 1
        with (self.folder / RECORD).open('w', newline='', encoding='utf-8') as file:
            csv.writer(file, lineterminator='\n').writerows([COLUMNS, *self.rows])

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {'best': self.best, 'worse': self.worse, 'rows': [list(row) for row in self.rows]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.best, self.worse, self.rows = state['best'], state['worse'], [tuple(row) for row in state['rows']]


class _OnDevice:
    """A network as an engine of the runtime: its body on the device that trains, its small head on the CPU, where it was made."""

    def __init__(self, module: BoxesScores, device: torch.device) -> None:
        self._body, self._head, self._device = module.body.to(device), module.head, device
        self.info = EngineInfo('torch', 'fp32', device.type, 'torch', torch.get_num_threads())

    @torch.no_grad()
    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        image = torch.from_numpy(batch).to(self._device).float().permute(0, 3, 1, 2)
        boxes, scores = self._head(_on_cpu(self._body(image)))
        return {'boxes': boxes.numpy(), 'scores': scores.numpy()}

    def close(self) -> None:
        """Nothing is held."""


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else [_on_cpu(item) for item in value]


def is_due(step: int, steps: int, epochs_per_step: float, every: float) -> bool:
    """Whether a measurement is due after that many of a run's steps: each `every` epochs, and at the end.

    Example:
        >>> [step for step in range(1, 9) if is_due(step, 8, 0.25, 1.0)]
        [4, 8]
    """
    if not every:
        return False
    return step == steps or int(step * epochs_per_step / every + 1e-9) > int(
        (step - 1) * epochs_per_step / every + 1e-9
    )


@torch.no_grad()
def with_state(network: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A network's weights replaced, in evaluation mode."""
    network.load_state_dict(state)
    return network.eval()
