"""The ground truth of a bag, from wherever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_perception.evaluation.coco_file import is_coco_file, read_coco
from kd_perception.evaluation.ground_truth import GroundTruth
from kd_perception.evaluation.truth_topic import read_truth_topic


def read_ground_truth(
    bag: Path, source: str, classes: Sequence[str], class_map: Mapping[str, str] | None = None
) -> dict[int, GroundTruth]:
    """The ground truth of a bag by stamp (ns).

    Args:
        bag: the bag.
        source: a Detection2DArray topic of the bag or a COCO file; empty takes the bag's `ground_truth` topic, or its only
            Detection2DArray topic unless that is called `detections`, and gives nothing where there is none.
        classes: the detector's class names.
        class_map: see `Annotations.for_classes`.

    Raises:
        BagError, GroundTruthError: it cannot be read, or its classes are not the detector's.
    """
    annotations = read_coco(Path(source)) if is_coco_file(source) else read_truth_topic(bag, source)
    return annotations.for_classes(classes, class_map)
