"""What is really there in every image of a recording, and where nobody may be judged."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import NO_TRACK, Detections
from kd_perception.errors import GroundTruthError

IGNORED = 'ignore'
"""Instead of a class name: what is here counts neither as a hit nor as a false alarm."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of one image.

    Attributes:
        objects: boxes in source pixels with their classes; scores are ignored.
        crowd: bool (N,), true where the box is a crowd of its class (COCO's `iscrowd`): what is found inside counts neither
            as a hit nor as a false alarm.
        ignored: float32 (M, 4), regions in which detections of no class are judged.
    """

    objects: Detections
    crowd: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.float32]

    @classmethod
    def of(cls, objects: Detections, ignored: npt.ArrayLike = ()) -> GroundTruth:
        """Ground truth without crowds."""
        return cls(objects, np.zeros(len(objects), np.bool_), np.array(ignored, np.float32).reshape(-1, 4))

    def clipped(self, width: int, height: int) -> GroundTruth:
        """Boxes cut to an image of `width` × `height` pixels; those left without area are dropped."""
        limit = np.array([width, height, width, height], np.float32)
        boxes, ignored = np.clip(self.objects.boxes, 0, limit), np.clip(self.ignored, 0, limit)
        kept = _have_area(boxes)
        objects = replace(self.objects, boxes=boxes)
        return GroundTruth(objects.select(kept), self.crowd[kept], ignored[_have_area(ignored)])


@dataclass(frozen=True)
class AnnotatedObject:
    """One object as an annotator wrote it down.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        class_name: `ignore` for a region in which nobody is judged.
        crowd: whether the box holds many objects of the class.
        track: which object of the recording it is; empty where nobody says.
    """

    box: tuple[float, float, float, float]
    class_name: str
    crowd: bool = False
    track: str = ''


@dataclass(frozen=True)
class Annotations:
    """The annotated images of a recording, classes by name. Images without annotation are absent, not empty.

    Attributes:
        source: where they are from, for messages.
        frames: by the image's stamp in nanoseconds.
    """

    source: str
    frames: Mapping[int, Sequence[AnnotatedObject]]

    def class_names(self) -> list[str]:
        """The names that occur, sorted, without `ignore`."""
        return sorted({entry.class_name for objects in self.frames.values() for entry in objects} - {IGNORED})

    def for_classes(self, classes: Sequence[str], class_map: Mapping[str, str] | None = None) -> dict[int, GroundTruth]:
        """The ground truth in the class ids of a detector, by stamp. Boxes without area are left out.

        Args:
            classes: the detector's class names; upper and lower case are the same. A number for a name is a class id.
            class_map: the detector's name, or `ignore`, for names that it does not have.

        Raises:
            GroundTruthError: names that are in neither; the message lists them.
        """
        ids = {str(index): index for index in range(len(classes))}
        ids |= {name.casefold(): index for index, name in enumerate(classes)}
        renamed = {name.casefold(): target.casefold() for name, target in (class_map or {}).items()}
        wrong = sorted(target for target in renamed.values() if target not in (*ids, IGNORED))
        if wrong:
            raise GroundTruthError(
                f'--class-map leads to {", ".join(wrong)}; the detector knows {", ".join(classes)}, and {IGNORED}'
            )
        targets = {name: renamed.get(name.casefold(), name.casefold()) for name in (*self.class_names(), IGNORED)}
        unknown = [name for name, target in targets.items() if target not in (*ids, IGNORED)]
        if unknown:
            raise GroundTruthError(
                f'{self.source}: the detector does not know the classes {", ".join(unknown)}; it knows {", ".join(classes)}. '
                f'Map them: --class-map {unknown[0]}={classes[0]}, or {unknown[0]}={IGNORED}'
            )
        tracks = self._track_ids()
        return {stamp: _ground_truth(objects, targets, ids, tracks) for stamp, objects in self.frames.items()}

    def _track_ids(self) -> dict[str, int]:
        """Every track's number; the annotator's own where all are numbers."""
        names = sorted({entry.track for objects in self.frames.values() for entry in objects} - {''})
        if all(name.isascii() and name.isdecimal() and len(name) < 18 and int(name) > NO_TRACK for name in names):
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(names, 1)}


def align(truth: Mapping[int, GroundTruth], stamps: Iterable[int], tolerance_ns: int) -> dict[int, GroundTruth]:
    """Give the images their ground truth: of the same stamp, or of the nearest within a tolerance.

    No ground truth serves two images: of those in reach it goes to the nearest.

    Args:
        truth: by stamp.
        stamps: of the images.
        tolerance_ns: largest difference between the two stamps.

    Returns:
        By the images' stamps; as many as `truth` where everything found its image.
    """
    frames = sorted(set(stamps))
    nearest: dict[int, int] = {}
    for there in truth:
        at = bisect_left(frames, there)
        here = min(frames[max(0, at - 1) : at + 1], key=lambda stamp: abs(stamp - there), default=None)
        if here is not None and abs(here - there) <= tolerance_ns:
            best = nearest.get(here, there)
            nearest[here] = min(best, there, key=lambda stamp: abs(stamp - here))
    return {here: truth[there] for here, there in sorted(nearest.items())}


def _ground_truth(
    objects: Sequence[AnnotatedObject], targets: Mapping[str, str], ids: Mapping[str, int], tracks: Mapping[str, int]
) -> GroundTruth:
    boxes = np.array([entry.box for entry in objects], np.float64).reshape(-1, 4).astype(np.float32)
    usable = _have_area(boxes)
    names = [targets[entry.class_name] for entry in objects]
    ignored = np.array([name == IGNORED for name in names], np.bool_)
    kept = usable & ~ignored
    detections = Detections(
        boxes,
        np.ones(len(boxes), np.float32),
        np.array([ids.get(name, 0) for name in names], np.int32),
        np.array([tracks.get(entry.track, NO_TRACK) for entry in objects], np.int64) if tracks else None,
    )
    crowd = np.array([entry.crowd for entry in objects], np.bool_)
    return GroundTruth(detections.select(kept), crowd[kept], boxes[usable & ignored])


def _have_area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
