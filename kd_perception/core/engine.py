"""The interface behind which every inference engine runs one network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, as the engine itself reports it, not as it was asked for.

    Attributes:
        engine: registry name, e.g. `onnxruntime`.
        precision: precision of the artifact, e.g. `fp32` or `int8`.
        device: where it runs, e.g. `cpu`.
        provider: the library's own name of the back end, e.g. `CPUExecutionProvider`.
        threads: CPU threads inside one inference; 0 where the engine does not tell.
        versions: library name → version.
        nodes: back end (OpenVINO: precision) → number of the graph's nodes that run there; empty where the engine does not tell.
        warnings: what is not as it was asked for, each with what to do about it.
    """

    engine: str
    precision: str
    device: str
    provider: str
    threads: int
    versions: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


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


class Engine(Protocol):
    """One loaded network."""

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        ...

    def infer(self, batch: Array) -> dict[str, Array]:
        """Run the network once.

        Args:
            batch: contiguous array of the bundle's input shape and dtype. Pass the same buffer every time: it is then bound once
                and never copied.

        Returns:
            Output name → array. The arrays are the engine's own buffers, valid until the next call.

        Raises:
            EngineError: the engine failed, or the batch has the wrong shape or dtype.
        """
        ...

    def close(self) -> None:
        """Free the network. Calling it twice does nothing."""
        ...
