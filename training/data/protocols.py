"""Whose rules a measurement follows: COCO's, or those of a data set's own evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from training.data import visdrone
from training.errors import DataError
from training.schema import nearest

Judged = tuple[Detections, GroundTruth]


@dataclass(frozen=True)
class Protocol:
    """Rules of a measurement.

    Attributes:
        max_detections: of an image, the best first; None: as many as the bundle gives.
        seen: what counts of the detections and the truth of an image, whose width and height in pixels are given.
    """

    max_detections: int | None
    seen: Callable[[Detections, GroundTruth, int, int], Judged]


PROTOCOLS: Mapping[str, Protocol] = {
    'coco': Protocol(None, lambda found, truth, width, height: (found, truth)),
    'visdrone': Protocol(visdrone.MAX_DETECTIONS, visdrone.as_evaluated),
}
"""By name. `visdrone` leaves out what lies in ignored regions and counts 500 detections of an image."""


def protocol_of(name: str) -> Protocol:
    """The rules of that name.

    Raises:
        DataError: there are none.
    """
    if name not in PROTOCOLS:
        raise DataError(
            f'there is no protocol {name!r}{nearest(name, PROTOCOLS)}; protocols are {", ".join(PROTOCOLS)}'
        )
    return PROTOCOLS[name]
