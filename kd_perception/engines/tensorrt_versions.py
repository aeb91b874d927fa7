"""What differs between TensorRT 8.5, 8.6, 10 and 11; nothing else in this package asks for its version.

| | 8.5, 8.6 | 10 | 11 |
|---|---|---|---|
| networks | flag EXPLICIT_BATCH | no flag | no flag |
| precision | builder flags FP16, INT8 | flags, or strongly typed | strongly typed only: the flags are gone |
| progress | hasattr | IProgressMonitor | IProgressMonitor |

Sources: the Python API reference of each version, and "Migrating from TensorRT 10.x to 11.x" (removed Python APIs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kd_perception.errors import EngineError

KNOWN_BAD = ('10.2.0',)
"""Versions that Ultralytics excludes too (ultralytics/ultralytics pull request 24367)."""


@dataclass(frozen=True)
class Plan:
    """How a network is built in a precision.

    Attributes:
        creation_flags: of `create_network`, by name.
        builder_flags: switched on in the builder's configuration, by name.
        strongly_typed: the engine computes in the types that the ONNX file states.
    """

    creation_flags: tuple[str, ...]
    builder_flags: tuple[str, ...]
    strongly_typed: bool


def major(version: str) -> int:
    """First number of a version."""
    return int(version.partition('.')[0])


def plan(version: str, stated: str, wanted: str) -> Plan:
    """How to build.

    Args:
        version: TensorRT's.
        stated: precision of the ONNX file: `fp32`, `fp16` (its tensors are halves), or `int8` (QDQ).
        wanted: precision of the engine.

    Raises:
        EngineError: this version cannot do it; says what can be done instead.
    """
    number = major(version)
    if number < 8 or version.startswith(('8.0', '8.1', '8.2', '8.3', '8.4')):
        raise EngineError(f'TensorRT {version} is too old: 8.5 or newer is needed (JetPack 5.1)')
    if version.startswith(KNOWN_BAD):
        raise EngineError(f'TensorRT {version} is known to build wrong engines: install another version')
    if number < 10:
        flags = {'fp32': (), 'fp16': ('FP16',), 'int8': ('INT8',)}[wanted]
        return Plan(('EXPLICIT_BATCH',), flags, strongly_typed=False)
    if stated == wanted:
        typed = wanted != 'fp32' or number >= 11
        # From 11 on every network is strongly typed, and the flag that asks for it does nothing.
        return Plan(('STRONGLY_TYPED',) if typed and number < 11 else (), (), strongly_typed=typed)
    if number < 11:
        return Plan((), ('FP16',), strongly_typed=False)
    raise EngineError(
        f'TensorRT {version} computes in the types that the ONNX file states, and this one is {stated}: add an artifact of '
        f'{wanted} to the bundle, or choose precision {stated}'
    )


def creation_mask(trt: Any, names: tuple[str, ...]) -> int:
    """The flags of `create_network` as the bit mask that it takes."""
    return sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in names)


def keep_float32(trt: Any, config: Any) -> None:
    """Switch off TensorFloat-32, which is on by default and rounds FP32 convolutions to 10 bits on Ampere and later."""
    if hasattr(trt.BuilderFlag, 'TF32'):
        config.clear_flag(trt.BuilderFlag.TF32)


def follow_progress(trt: Any, config: Any, report: Callable[[str], None]) -> Any:
    """Report every tenth of the outermost phases, where this version tells. Keep what is returned until the engine is built."""
    if not hasattr(trt, 'IProgressMonitor'):
        return None

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._steps.get(phase_name, 0)
            if steps:
                tenth = 10 * (step + 1) // steps
                if tenth > self._told.get(phase_name, 0):
                    self._told[phase_name] = tenth
                    report(f'TensorRT: {phase_name}: {10 * tenth} %')
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    monitor = Progress()
    config.progress_monitor = monitor
    return monitor
