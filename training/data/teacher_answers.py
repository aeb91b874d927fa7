"""What detectors say of pictures: a bundle is asked once a picture, through the robot's path, and its answer is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle, load_bundle
from kd_perception.detection import tiles
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.image import BgrImage
from kd_perception.detection.nms import nms
from kd_perception.detection.tiles import Tiling
from kd_perception.engines.options import EngineOptions
from training.data.box_fusion import Answer, Look, fused
from training.data.picture import Picture
from training.errors import DataError
from training.ranges import Range
from training.schema import added, nearest
from training.steps import fingerprint

LEAST_SCORE = 0.05
"""From here on boxes are kept on disk, whatever is then made of them."""
MOST = 300


@dataclass(frozen=True)
class TeacherBundle:
    """A detector that is asked.

    Attributes:
        bundle: its folder, relative to where the training runs.
        class_map: a class of the set by the teacher's; equal names need no entry, what else it detects says nothing.
        tiles: how it looks at pictures, `off`, or `2x2+whole`, see `kd_perception.detection.tiles`.
        flip: it looks at the mirror image too; both answers are joined as those of two detectors are.
        weight: how much it counts among several.
    """

    bundle: str
    class_map: Mapping[str, str] = field(default_factory=dict)
    tiles: str = 'off'
    flip: bool = added(False)
    weight: float = added(1.0)

    def __post_init__(self) -> None:
        Range(above=0).check(weight=self.weight)


class Teachers:
    """Bundles that are asked about pictures, and what they said before.

    Attributes:
        classes: what they can name, in the set's words.
    """

    def __init__(self, bundles: Sequence[TeacherBundle], kept: Path, classes: Collection[str] = ()) -> None:
        """Load the bundles.

        Args:
            bundles: who is asked.
            kept: folder of their boxes and scores; a picture whose answers are there is not looked at again.
            classes: of the set; none given takes all that the bundles know.

        Raises:
            BundleError: one cannot be loaded.
            DataError: a class map names a class that the bundle does not have, or a bundle knows none of the set's.
        """
        self._askers = [_Asker(settings, kept, classes) for settings in bundles]
        self.classes = tuple(dict.fromkeys(name for asker in self._askers for name in asker.knows))

    def answer(self, picture: Picture) -> Answer:
        """What all of them say; see `box_fusion.fused`.

        Raises:
            EngineError: the network cannot run.
            DataError: the picture cannot be read.
        """
        looks = [look for asker in self._askers for look in asker.looks(picture)]
        return looks[0].answer if len(looks) == 1 else fused(looks)


def low_detector(bundle: Bundle, most: int, threads: int, tiling: Tiling | None = None) -> Detector:
    """A bundle run as on the robot, but for its scores: it also says what it is not sure of, and so teaches.

    Args:
        most: detections of a picture, the best first.
        threads: of the engine.

    Raises:
        BundleError, EngineError: it cannot be loaded.
    """
    artifact = bundle.artifact('onnxruntime', 'auto')
    engine = engines.load(bundle, artifact, EngineOptions(threads=threads))
    return Detector(bundle, engine, bundle.thresholds_of(artifact).down_to(LEAST_SCORE), most, tiling)


class _Asker:
    """One bundle, and what it said of pictures, as they are and mirrored."""

    def __init__(self, settings: TeacherBundle, kept: Path, classes: Collection[str]) -> None:
        folder = Path(settings.bundle)
        self._bundle = load_bundle(folder)
        self._names = [settings.class_map.get(name, name) for name in self._bundle.classes]
        unknown = [name for name in settings.class_map if name not in self._bundle.classes]
        if unknown:
            raise DataError(f'{folder} has no class {unknown[0]!r}{nearest(unknown[0], self._bundle.classes)}')
        known = {*settings.class_map.values(), *(classes or self._names)}
        self.knows = tuple(dict.fromkeys(name for name in self._names if name in known))
        if not self.knows:
            raise DataError(
                f'{folder} detects none of {", ".join(classes)}; a class_map says which of its classes are meant: '
                f'{", ".join(self._bundle.classes)}'
            )
        self._tiling = tiles.parse(settings.tiles)
        self._detector: Detector | None = None
        file = kept / f'teacher-{fingerprint(folder)[:12]}-{settings.tiles.replace("+", "_")}.jsonl'
        self._said = [_Said(file)]
        if settings.flip:
            self._said.append(_Said(file.with_stem(f'{file.stem}-mirrored'), mirrored=True))
        self._weight = settings.weight / len(self._said)

    def looks(self, picture: Picture) -> list[Look]:
        """Boxes of the mapped classes in that picture."""
        return [self._look(said.of(picture, self._ask)) for said in self._said]

    def _look(self, said: Mapping[str, Any]) -> Look:
        named = [(place, self._names[index]) for place, index in enumerate(said['class_ids'])]
        chosen = [place for place, name in named if name in self.knows]
        found = Detections(
            np.array(said['boxes'], np.float32).reshape(-1, 4)[chosen],
            np.array(said['scores'], np.float32)[chosen],
            np.array([self.knows.index(self._names[said['class_ids'][place]]) for place in chosen], np.int32),
        )
        # Of two of the teacher's classes that are one here, both may have a box at an object.
        found = nms(found, self._bundle.thresholds.iou, MOST)
        boxes, scores = found.boxes.astype(np.float64).round(1), found.scores.astype(np.float64).round(4)
        return Look(
            Answer(boxes, scores, tuple(self.knows[index] for index in found.class_ids)), self.knows, self._weight
        )

    def _ask(self, image: BgrImage) -> Detections:
        if self._detector is None:
            self._detector = low_detector(self._bundle, MOST, 1, self._tiling)
        return self._detector.detect(image)[0]


class _Said:
    """A bundle's answers by picture, those of earlier runs from their file; boxes in pixels of the picture as it is."""

    def __init__(self, file: Path, *, mirrored: bool = False) -> None:
        self._file, self._mirrored = file, mirrored
        self._known = _read_answers(file)

    def of(self, picture: Picture, ask: Callable[[BgrImage], Detections]) -> Mapping[str, Any]:
        """Boxes, scores and class ids; what is not known yet is asked and kept."""
        identity = _identity(picture)
        if identity not in self._known:
            said = self._known[identity] = self._asked(picture.read(), ask)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open('a', encoding='utf-8') as stream:
                stream.write(json.dumps({'picture': identity, **said}) + '\n')
        return self._known[identity]

    def _asked(self, image: BgrImage, ask: Callable[[BgrImage], Detections]) -> dict[str, Any]:
        found = ask(np.ascontiguousarray(image[:, ::-1]) if self._mirrored else image)
        boxes = found.boxes
        if self._mirrored:
            boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (image.shape[1], 0, image.shape[1], 0)
        return {
            'boxes': boxes.round(1).tolist(),
            'scores': found.scores.round(4).tolist(),
            'class_ids': found.class_ids.tolist(),
        }


def _identity(picture: Picture) -> str:
    size = picture.file.stat().st_size if picture.file is not None and picture.file.is_file() else 0
    return f'{picture.session}/{picture.name}/{size}'


def _read_answers(file: Path) -> dict[str, dict[str, Any]]:
    """Whole lines; the last one may have been cut off."""
    known: dict[str, dict[str, Any]] = {}
    if file.is_file():
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
                known[entry.pop('picture')] = entry
            except (ValueError, KeyError, AttributeError):
                break
    return known
