"""Non-maximum suppression: of boxes that overlap on one object, the highest score stays."""

from __future__ import annotations

import cv2
import numpy as np

from kd_perception.detection.detections import Detections


def nms(detections: Detections, iou_threshold: float, max_detections: int, class_agnostic: bool = False) -> Detections:
    """Greedy NMS, by default class by class.

    Highest score first, equal scores in the order given, a box stays unless one that stayed before overlaps it with an
    IoU above the threshold.

    Args:
        detections: finite boxes with an area, as `decode_output` gives them.
        iou_threshold: 0 … 1.
        max_detections: the result holds at most so many.
        class_agnostic: let boxes of different classes suppress each other too.

    Returns:
        What stays, by descending score.
    """
    if len(detections) == 0:
        return detections
    order = (-detections.scores).argsort(kind='stable')
    # Classes are kept apart by shifting each out of reach of the others; float32 would lose the boxes' fractions there.
    boxes = detections.boxes[order].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    if not class_agnostic:
        reach = float(detections.boxes.max()) - float(detections.boxes.min()) + 1.0
        boxes[:, 0] += detections.class_ids[order] * reach
    # OpenCV skips scores that are not above its threshold and sorts by them; the rank says the same and is never 0.
    ranks = np.arange(len(order), 0, -1, dtype=np.float32)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), ranks, 0.0, iou_threshold)  # type: ignore[arg-type]
    return detections.select(order[np.asarray(kept, dtype=np.intp).reshape(-1)[:max_detections]])
