"""An engine that fails on command, to be registered in the place of a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines import EngineKind, onnxruntime
from kd_perception.engines.options import EngineOptions

KIND = EngineKind(
    module='faulty_engine',
    library='numpy',
    packages=('numpy',),
    install='',
    runs={'fp32': ('fp32',), 'int8': ('int8',)},
)
GPU = 'CUDAExecutionProvider'

before_inference: list[Callable[[EngineInfo], None]] = []
"""Called before every inference; may raise, or take its time."""


class FaultyEngine:
    """ONNX Runtime on the CPU, which says that it is a GPU where one was asked for."""

    def __init__(self, engine: onnxruntime.OnnxRuntimeEngine, provider: str) -> None:
        device = 'cuda' if provider == GPU else 'cpu'
        self.info = replace(engine.info, provider=provider, device=device)
        self._engine = engine

    def infer(self, batch: Array) -> dict[str, Array]:
        for fault in before_inference:
            fault(self.info)
        return self._engine.infer(batch)

    def close(self) -> None:
        self._engine.close()


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions) -> FaultyEngine:
    """Load on the CPU whatever is asked for."""
    provider = options.providers[0] if options.providers else 'CPUExecutionProvider'
    return FaultyEngine(onnxruntime.load(bundle, artifact, replace(options, providers=())), provider)
