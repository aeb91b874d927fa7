"""Inference engines: one file each, all behind `kd_perception.detection.engine.Engine`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.detection.engine import Engine
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError


@dataclass(frozen=True)
class EngineKind:
    """What is known of an engine without loading it.

    Attributes:
        module: offers `load(bundle, artifact, options) -> Engine`; imported only when it is asked for.
        library: the Python module that must be installed.
        packages: the distributions that may bring it, for the version.
        install: what to do where it is missing.
        runs: precision of an ONNX artifact → precisions in which the engine can run it, its own choice first.
        why_not: precision of an ONNX artifact that it cannot run → the reason.
        arm: precisions that it has on Arm processors only.
    """

    module: str
    library: str
    packages: tuple[str, ...]
    install: str
    runs: Mapping[str, tuple[str, ...]]
    why_not: Mapping[str, str] = field(default_factory=dict)
    arm: tuple[str, ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether an engine's library is installed: its version, or what to do about it."""

    version: str
    reason: str

    def __bool__(self) -> bool:
        return not self.reason


_ARM = ('aarch64', 'arm64', 'armv7l', 'armv8l')
_AS_IT_IS = {'fp32': ('fp32',), 'fp16': ('fp16',), 'int8': ('int8',)}

ENGINES: dict[str, EngineKind] = {
    'onnxruntime': EngineKind(
        module='kd_perception.engines.onnxruntime',
        library='onnxruntime',
        packages=('onnxruntime', 'onnxruntime-gpu'),
        install='pip install onnxruntime',
        runs=_AS_IT_IS,
    ),
    'openvino': EngineKind(
        module='kd_perception.engines.openvino',
        library='openvino',
        packages=('openvino',),
        install='pip install openvino',
        runs={**_AS_IT_IS, 'fp32': ('fp32', 'bf16', 'fp16')},
        arm=('fp16',),
    ),
    'ncnn': EngineKind(
        module='kd_perception.engines.ncnn',
        library='ncnn',
        packages=('ncnn',),
        install='pip install ncnn',
        runs={'fp32': ('fp32', 'fp16', 'bf16')},
        arm=('fp16',),
        why_not={
            'int8': 'ncnn quantizes otherwise than ONNX files do (symmetric, per layer); ask for precision fp32, on Arm for fp16',
            'fp16': 'ncnn makes its own half precision from the fp32 artifact',
        },
    ),
    'tensorrt': EngineKind(
        module='kd_perception.engines.tensorrt',
        library='tensorrt',
        packages=('tensorrt', 'tensorrt_cu13', 'tensorrt_cu12'),
        install='on a Jetson it comes with JetPack (apt install python3-libnvinfer), on a PC pip install tensorrt',
        runs={**_AS_IT_IS, 'fp32': ('fp32', 'fp16')},
        why_not={
            'int8': 'TensorRT takes symmetric INT8 only, of an artifact made for tensorrt; ask for precision fp16 instead'
        },
    ),
}
"""Every engine by its name. All of them take ONNX files; adding an engine is one new file and one entry here."""


def can_run(engine: str, artifact: Artifact, precision: str = '') -> bool:
    """Whether an engine takes an artifact (in `precision`, where one is named); says nothing about its library."""
    return not obstacle(engine, artifact, precision)


def obstacle(engine: str, artifact: Artifact, precision: str = '') -> str:
    """Why an engine cannot run an artifact; empty when it can.

    Raises:
        EngineError: there is no such engine.
    """
    kind = _kind(engine)
    if not artifact.file.endswith('.onnx'):
        return f'{engine} takes ONNX files, and {artifact.file} is none'
    if artifact.precision in kind.why_not and artifact.engine != engine:
        return kind.why_not[artifact.precision]
    offered = precisions(engine, artifact)
    if precision and precision not in offered:
        return f'{engine} runs an artifact of {artifact.precision} in {" or ".join(offered)} here, not in {precision}'
    return ''


def precisions(engine: str, artifact: Artifact) -> tuple[str, ...]:
    """The precisions in which an engine can run an artifact here, its default first; see `EngineOptions.precision`."""
    kind = _kind(engine)
    offered = kind.runs.get(artifact.precision, (artifact.precision,))
    missing = () if platform.machine() in _ARM else kind.arm
    return tuple(precision for precision in offered if precision not in missing or precision == artifact.precision)


def available() -> dict[str, Availability]:
    """Every engine with its library's version, or the reason why it cannot be loaded. No library is imported."""
    return {name: availability(name) for name in ENGINES}


def availability(engine: str) -> Availability:
    """See `available`."""
    kind = _kind(engine)
    if importlib.util.find_spec(kind.library) is None:
        return Availability('', f'the engine {engine} needs the library {kind.library}: {kind.install}')
    for package in kind.packages:
        try:
            return Availability(metadata.version(package), '')
        except metadata.PackageNotFoundError:
            continue
    return Availability('unknown', '')


def check_options(engine: str, options: EngineOptions) -> None:
    """What an engine can say of options before it loads anything; its library is imported for it.

    Raises:
        EngineError: they cannot be met here.
    """
    check = getattr(importlib.import_module(_kind(engine).module), 'check_options', None)
    if check is not None:
        check(options)


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions | None = None, engine: str = '') -> Engine:
    """Load one artifact of a bundle, its hash checked.

    Args:
        bundle: where the artifact is from.
        artifact: which file.
        options: what the user asks of the engine.
        engine: which engine; empty means the one that the artifact was made for.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: no such engine, its library is not installed, or it refuses the network.
    """
    options = options or EngineOptions()
    name = engine or artifact.engine
    reason = obstacle(name, artifact, options.precision)
    if reason:
        raise EngineError(reason)
    state = availability(name)
    if not state:
        raise EngineError(state.reason)
    if name != 'onnxruntime':  # whose vocabulary no other engine speaks
        own = tuple(provider for provider in options.providers if not provider.endswith('ExecutionProvider'))
        options = replace(options, providers=own)
    # Read by OpenMP when a library loads it: idle threads that spin take the cores from camera and executor.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    try:
        module = importlib.import_module(ENGINES[name].module)
        loaded: Engine = module.load(bundle, artifact, options)
    except ImportError as error:
        raise EngineError(
            f'the library {ENGINES[name].library} is installed and cannot be imported ({error}): {ENGINES[name].install}'
        ) from error
    return loaded


def _kind(engine: str) -> EngineKind:
    if engine not in ENGINES:
        raise EngineError(f'there is no engine {engine!r}; choose one of {", ".join(sorted(ENGINES))}')
    return ENGINES[engine]
