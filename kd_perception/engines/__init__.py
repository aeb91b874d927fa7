"""Inference engines: one file each, all behind `kd_perception.core.engine.Engine`."""

from __future__ import annotations

import importlib

from kd_perception.core.bundle import Artifact, Bundle
from kd_perception.core.engine import Engine, EngineOptions
from kd_perception.core.errors import EngineError

ENGINES: dict[str, str] = {
    'onnxruntime': 'kd_perception.engines.onnxruntime',
}
"""Engine name → module, imported only when it is asked for. A module offers `load(bundle, artifact, options) -> Engine`."""


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions | None = None) -> Engine:
    """Load one artifact of a bundle, its hash checked.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: no such engine, its library is not installed, or it refuses the network.
    """
    module = ENGINES.get(artifact.engine)
    if module is None:
        raise EngineError(f'there is no engine {artifact.engine!r}; choose one of {", ".join(sorted(ENGINES))}')
    engine: Engine = importlib.import_module(module).load(bundle, artifact, options or EngineOptions())
    return engine
