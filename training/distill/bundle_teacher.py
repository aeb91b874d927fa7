"""Any detector as a teacher: a bundle, run as on the robot; what it detects, boxes and scores after NMS, is what it says.

Its layers are out of reach, so it teaches by `query_targets`: every confident detection is a target for the anchors it covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from training.data.teacher_answers import low_detector
from training.distill.outputs import QUERIES, Outputs, Shape
from training.errors import FitError, LossError
from training.schema import nearest
from training.steps import fingerprint

MOST = 100
"""Detections of an image, the best first; the places that are left hold none."""
NOTHING = -20.0
"""Logit of a class that is not there."""


class BundleTeacher:
    """A detector behind the interface of `teacher.Teacher`.

    Attributes:
        file: the bundle's folder.
        sha256: of the folder's files.
        tensors: 0: its weights are not loaded here.
        precision: of what it says.
        layers: none.
        with_head: True: it is nothing but a head.
        head: None: its layers are out of reach.
    """

    layers: tuple[str, ...] = ()
    with_head = True
    precision = torch.float32
    tensors = 0
    head = None

    def __init__(self, folder: Path, classes: Sequence[str], class_map: Mapping[str, str]) -> None:
        """Load it.

        Args:
            folder: of the bundle.
            classes: the student's.
            class_map: the student's class by the teacher's, beside those of equal names; what has none is not taught.

        Raises:
            BundleError, EngineError: it cannot be loaded.
            FitError: no class in common, or a map that names an unknown class.
        """
        self.file = folder
        self.sha256 = fingerprint(folder)
        self._bundle = load_bundle(folder)
        self._places = class_places(self._bundle.classes, classes, class_map)
        self._classes = len(classes)
        self._detector = low_detector(self._bundle, MOST, torch.get_num_threads())

    def layer_names(self, layers: Sequence[int | str]) -> tuple[str, ...]:
        """It has none.

        Raises:
            LossError: some are asked for.
        """
        if layers:
            raise LossError(f'{self.file} is a bundle, whose layers are out of reach: take teacher_layers out')
        return ()

    def shape(self, layers: Sequence[str], image_size: int) -> Shape:
        """What it looks like: a set of queries."""
        return Shape({}, {}, (), classes=0, bins=0, branches=(QUERIES,), strides=())

    def watch(self, layers: Sequence[str], *, with_head: bool = True) -> None:
        """Nothing to choose."""

    def __call__(self, images: Tensor) -> Outputs:
        """What it detects in images (N, 3, H, W), RGB from 0 to 1."""
        pixels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).flip(1).permute(0, 2, 3, 1)
        found = [self._detector.detect(np.ascontiguousarray(image))[0] for image in pixels.cpu().numpy()]
        height, width = images.shape[2:]
        scores, boxes = zip(*(self._as_queries(detections, width, height) for detections in found), strict=True)
        branch = {
            'scores': torch.stack(scores).to(images.device),
            'boxes': torch.stack(boxes).to(images.device),
        }
        return Outputs({}, {QUERIES: branch})

    def _as_queries(self, found: Detections, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Logits (classes, MOST) and boxes (4, MOST) as shares of the image."""
        scores = torch.full((self._classes, MOST), NOTHING)
        boxes = torch.zeros(4, MOST)
        places = self._places[found.class_ids]
        taught = found.select(np.flatnonzero(places >= 0))
        count = len(taught)
        if count:
            logits = torch.from_numpy(taught.scores).double().clamp(1e-6, 1 - 1e-6).logit().float()
            scores[torch.from_numpy(places[places >= 0]), torch.arange(count)] = logits
            sides = np.array([width, height, width, height], np.float32)
            boxes[:, :count] = torch.from_numpy(taught.boxes / sides).T
        return scores, boxes

    def check_unchanged(self) -> None:
        """Make sure that its files are what they were.

        Raises:
            FitError: they are not.
        """
        if fingerprint(self.file) != self.sha256:
            raise FitError(f'the teacher {self.file} changed during the training: its results are worthless')


def class_places(own: Sequence[str], wanted: Sequence[str], class_map: Mapping[str, str]) -> Any:
    """For each of a teacher's classes its place among the student's, int64; -1 for what is not taught.

    Raises:
        FitError: the map names a class that one of them does not have, or none is in common.
    """
    for name, student in class_map.items():
        for said, known in ((name, own), (student, wanted)):
            if said not in known:
                raise FitError(f'class_map names {said!r}{nearest(said, known)}; classes are {", ".join(known)}')
    names = [class_map.get(name, name) for name in own]
    places = np.array([wanted.index(name) if name in wanted else -1 for name in names], np.int64)
    if (places < 0).all():
        raise FitError(
            f'teacher and student have no class in common: {", ".join(own)}; {", ".join(wanted)}. Say which are the same: '
            f'class_map: {{{own[0]}: {wanted[0]}}}'
        )
    return places
