"""Stage times of one frame."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class StageTimes:
    """How long one frame spent in each stage, in milliseconds.

    `transport`, `queue`, `decode`, `track` and `publish` are the node's; a bare `Detector` leaves them at 0.

    Attributes:
        transport: camera stamp → callback.
        queue: callback → worker.
        decode: message bytes → BGR image.
        preprocess: letterbox into the network's input.
        infer: the engine.
        postprocess: output decoding, NMS, back to source pixels.
        track: ids of objects, and which boxes are published.
        publish: detections → message → middleware.
        age: camera stamp → published.
    """

    transport: float = 0.0
    queue: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    infer: float = 0.0
    postprocess: float = 0.0
    track: float = 0.0
    publish: float = 0.0
    age: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Stage name → milliseconds, in the order in which a frame passes them."""
        return {stage: float(getattr(self, stage)) for stage in STAGES}


STAGES: tuple[str, ...] = tuple(f.name for f in fields(StageTimes))
"""All stages in the order in which a frame passes them; `age` is the whole way."""
