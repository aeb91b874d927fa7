"""The interface behind which every inference engine runs one network."""

from __future__ import annotations

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
