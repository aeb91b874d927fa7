"""How a bag is replayed: one list of options for the command line and the node's parameters. Light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kd_perception.errors import KdPerceptionError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={'help': text})


@dataclass(frozen=True)
class ReplayOptions:
    """Every field's meaning is its `help` in the metadata, shown by `kd_perception replay --help` and as ROS parameter."""

    bag: str = _option('', 'the bag: a folder, .mcap or .db3 file')
    topic: str = _option('', 'image topic of the bag; may be empty where it has only one')
    rate: float = _option(1.0, 'how many times faster than recorded')
    step: bool = _option(False, 'send each image when the last one was answered by detections of the same stamp')
    timeout: float = _option(5.0, 'with step: seconds to wait for an answer before the next image is sent')
    clock: bool = _option(False, "publish the bag's time on /clock, for nodes with use_sim_time")
    restamp: bool = _option(False, 'stamp the images anew when they are sent, as a live camera would')
    loop: bool = _option(False, 'begin again at the end')
    wait: float = _option(10.0, 'seconds to wait for a subscription to the images; 0 begins at once')

    def __post_init__(self) -> None:
        if not self.bag:
            raise KdPerceptionError('no bag given: set the parameter bag to a folder, .mcap or .db3 file')
        if not 0 < self.rate < math.inf:
            raise KdPerceptionError(f'rate is {self.rate:g}; it must be above 0')
        if not (0 < self.timeout < math.inf and 0 <= self.wait < math.inf):
            raise KdPerceptionError(f'timeout is {self.timeout:g} and wait {self.wait:g} s; they must not be negative')
        if self.clock and self.restamp:
            raise KdPerceptionError(
                "clock and restamp exclude each other: images have the bag's time or the present one"
            )
