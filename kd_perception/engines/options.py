"""What the user may ask of an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass


def _to_stderr(line: str) -> None:
    print(f'kd_perception: {line}', file=sys.stderr, flush=True)


@dataclass(frozen=True)
class EngineOptions:
    """What the user may ask of an engine.

    Attributes:
        threads: CPU threads inside one inference; 0 means one per physical core.
        providers: execution providers in order of preference; empty means the engine's default.
        precision: what the engine computes in, where it can do better or faster than the artifact says, such as `fp16` for an
            FP32 network on ncnn or TensorRT; empty means the artifact's own.
        device_id: which GPU, where there are several.
        report: takes a line about what takes long (an engine being built) while it happens; stderr by default.
    """

    threads: int = 0
    providers: tuple[str, ...] = ()
    precision: str = ''
    device_id: int = 0
    report: Callable[[str], None] = _to_stderr
