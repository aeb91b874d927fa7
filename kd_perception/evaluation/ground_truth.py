"""What is really there in one image, and where nobody may be judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.core.detections import Detections


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
    def of(cls, objects: Detections) -> GroundTruth:
        """Ground truth without crowds and ignored regions."""
        return cls(objects, np.zeros(len(objects), np.bool_), np.zeros((0, 4), np.float32))
