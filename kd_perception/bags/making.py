"""Makes bags with ground truth of what is no bag yet: videos, folders of images, synthetic flights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from kd_perception.bags.sources import FrameSource, SourceFrame
from kd_perception.bags.truth_sources import CROWD
from kd_perception.bags.writer import BagWriter, StorageName
from kd_perception.detection.detections import Detections

TRUTH_TOPIC = '/ground_truth'
Truth = Callable[[int, SourceFrame], Sequence[AnnotatedObject] | None]
"""From a frame's number and the frame to what is in it; None where nobody looked."""


@dataclass(frozen=True)
class BagForm:
    """How the new bag looks.

    Attributes:
        storage: mcap or sqlite3.
        topic: of the images; JPEG images go to `<topic>/compressed`, where image_transport expects them.
        jpeg_quality: 1 … 100; 0 writes raw bgr8 images.
        frame_id: of every header.
        fps: frames per second; 0 takes the frames' own times, or the source's own rate.
        start_ns: stamp of the first frame. Not 0, which means unstamped in ROS.
        frames: most frames written; 0 takes all.
        overwrite: replace a bag that is already there.
    """

    storage: StorageName = 'mcap'
    topic: str = '/image'
    jpeg_quality: int = 0
    frame_id: str = 'camera'
    fps: float = 0.0
    start_ns: int = 1_000_000_000
    frames: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class MadeBag:
    """What was written: frames in all, and how many of them with ground truth and with how many objects, ignored ones apart."""

    frames: int
    annotated: int
    objects: int


def make_bag(
    source: FrameSource,
    target: Path,
    form: BagForm,
    truth: Truth | None = None,
    class_names: Sequence[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> MadeBag:
    """Write a source's frames, and their ground truth to `/ground_truth`, as a bag.

    Args:
        source: the frames.
        target: the bag's folder, made by us.
        form: how it looks.
        truth: what is in each frame.
        class_names: every class that `truth` knows; their order makes the class ids, which LabelInfo explains.
        progress: called after every frame.

    Raises:
        BagError: it cannot be written; nothing is left behind.
    """
    ids = {name: index for index, name in enumerate(class_names)}
    period = 1e9 / (form.fps or source.fps)
    frames = annotated = objects = 0
    with BagWriter(target, form.storage, overwrite=form.overwrite) as bag:
        if truth:
            bag.label_info(f'{TRUTH_TOPIC}/label_info', form.start_ns, class_names)
        for number, frame in enumerate(islice(source.frames(), form.frames or None)):
            own = None if form.fps else frame.seconds
            stamp = form.start_ns + round(number * period if own is None else 1e9 * own)
            if form.jpeg_quality:
                bag.jpeg(f'{form.topic}/compressed', stamp, frame.image, form.frame_id, quality=form.jpeg_quality)
            else:
                bag.image(form.topic, stamp, frame.image, form.frame_id)
            there = truth(number, frame) if truth else None
            if there is not None:
                boxes, marks = _as_detections(there, ids)
                bag.detections(TRUTH_TOPIC, stamp, boxes, form.frame_id, ids=marks)
                annotated += 1
                objects += sum(mark != IGNORED for mark in marks)
            frames += 1
            progress()
    return MadeBag(frames, annotated, objects)


def truth_of_scene(class_names: Sequence[str]) -> Truth:
    """What a source of synthetic flights knows of its own frames."""

    def there(_: int, frame: SourceFrame) -> list[AnnotatedObject] | None:
        if frame.truth is None:
            return None
        truth = frame.truth.objects
        tracks = [''] * len(truth) if truth.track_ids is None else map(str, truth.track_ids.tolist())
        rows = zip(truth.boxes.tolist(), truth.class_ids.tolist(), tracks, strict=True)
        objects = [
            AnnotatedObject((x1, y1, x2, y2), class_names[class_id], track=track)
            for (x1, y1, x2, y2), class_id, track in rows
        ]
        return objects + [AnnotatedObject((x1, y1, x2, y2), IGNORED) for x1, y1, x2, y2 in frame.truth.ignored.tolist()]

    return there


def _as_detections(objects: Sequence[AnnotatedObject], ids: dict[str, int]) -> tuple[Detections, list[str]]:
    boxes = Detections(
        np.array([entry.box for entry in objects], np.float32),
        np.ones(len(objects), np.float32),
        np.array([ids.get(entry.class_name, 0) for entry in objects], np.int32),
    )
    return boxes, [
        IGNORED if entry.class_name == IGNORED else CROWD if entry.crowd else entry.track for entry in objects
    ]
