"""Writes detections back beside the images, as a bag that RViz plays."""

from __future__ import annotations

from pathlib import Path

from kd_perception.bags.reader import open_bag
from kd_perception.bags.writer import BagWriter
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.drawing import draw
from kd_perception.errors import ImageError
from kd_perception.evaluation.results import BagResult


def write_detections(result: BagResult, bundle: Bundle, target: Path) -> None:
    """Write the images, the detections at the bundle's threshold, their labels, and the annotated images as JPEG.

    Raises:
        BagError: the bag cannot be read any more, or the new one cannot be written.
    """
    by_stamp = {frame.stamp_ns: frame for frame in result.frames}
    with BagWriter(target, overwrite=True) as bag:
        for index, frame in enumerate(open_bag(result.path, result.topic)):
            found = by_stamp.get(frame.key)
            if found is None:
                continue
            bag.copy(frame.message)
            kept = found.detections.select(bundle.thresholds.reported(found.detections, bundle.classes))
            if index == 0:
                bag.label_info('/label_info', found.stamp_ns, bundle.classes, bundle.thresholds.score)
            bag.detections('/detections', found.stamp_ns, kept, frame.frame_id, frame.received_ns)
            try:
                picture = draw(frame.decode().copy(), kept, bundle.classes)
            except ImageError:
                continue
            bag.jpeg('/image_annotated/compressed', found.stamp_ns, picture, frame.frame_id, frame.received_ns)
