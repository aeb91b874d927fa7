"""Ground truth from a topic of a bag, as an annotation tool or the scene camera recorded it."""

from __future__ import annotations

from pathlib import Path

from kd_perception.core.errors import BagError
from kd_perception.evaluation.bag_storage import BagStorage
from kd_perception.evaluation.bags import DetectedObject, detections_topic, objects_of, read_labels
from kd_perception.evaluation.ground_truth import IGNORED, AnnotatedObject, Annotations
from kd_perception.evaluation.message_types import DETECTIONS

CROWD = 'crowd'
"""`Detection2D.id` of a box that holds many objects; `ignore` there marks a region in which nobody is judged."""


def read_truth_topic(bag: Path, topic: str = '') -> Annotations:
    """The objects of a Detection2DArray topic; class ids that are numbers are looked up in the bag's LabelInfo.

    Args:
        bag: the bag.
        topic: its name; empty takes the topic `ground_truth` wherever it lies, or the only one that is not called
            `detections` (a detector's output is no truth unless it is asked for by name), and nothing if there is none.

    Raises:
        BagError: not a readable bag, no such topic, or several to choose from.
    """
    storage = BagStorage(bag)
    name = detections_topic(storage, topic) if topic else _usual_topic(storage)
    if name is None:
        return Annotations(str(bag), {})
    labels = read_labels(storage, name)
    frames = objects_of(storage, name)
    return Annotations(
        f'{bag} {name}', {stamp: [_annotated(entry, labels) for entry in objects] for stamp, objects in frames.items()}
    )


def _usual_topic(storage: BagStorage) -> str | None:
    names = [topic.name for topic in storage.topics.values() if topic.type == DETECTIONS and topic.count]
    called_so = [name for name in names if name.endswith('/ground_truth')]
    candidates = called_so or [name for name in names if not name.endswith('/detections')]
    if len(candidates) > 1:
        raise BagError(f'{storage.path}: choose the topic of the ground truth: {", ".join(candidates)}')
    return candidates[0] if candidates else None


def _annotated(entry: DetectedObject, labels: dict[str, str]) -> AnnotatedObject:
    name = IGNORED if entry.id == IGNORED else labels.get(entry.class_id, entry.class_id)
    return AnnotatedObject(entry.box, name, crowd=entry.id == CROWD)
