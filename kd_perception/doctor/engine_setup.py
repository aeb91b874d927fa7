"""The inference engines: which are installed, whether their libraries load, and which this board should have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from kd_perception import engines
from kd_perception.doctor.findings import Finding, Level
from kd_perception.engines import Availability
from kd_perception.selection.timing import Timing, kept_timings

IMPORT_LIMIT_S = 60.0
_BEST = {'jetson': 'tensorrt', 'raspberry_pi': 'ncnn', 'arm': 'ncnn', 'pc': 'openvino'}
"""Kind of machine → the engine that is made for it."""
_LIBRARIES = ('numpy', 'opencv-python-headless', 'PyYAML', 'jsonschema')
_OPENCVS = ('opencv-python', 'opencv-contrib-python', 'opencv-python-headless', 'opencv-contrib-python-headless')

ImportFault = Callable[[str], str]


def import_fault(module: str) -> str:
    """Import a library in a process of its own, since a wrong build ends the process; empty when it loads."""
    try:
        process = subprocess.run(
            [sys.executable, '-c', f'import {module}'],
            capture_output=True,
            text=True,
            errors='replace',
            timeout=IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f'the import takes longer than {IMPORT_LIMIT_S:g} s'
    if process.returncode < 0:
        return f'the import ends with signal {-process.returncode}: the library is built for another processor'
    said = process.stderr.strip().splitlines()
    return '' if process.returncode == 0 else (said[-1][:300] if said else f'status {process.returncode}')


def check(
    kind: str, available: Mapping[str, Availability] | None = None, fault: ImportFault = import_fault
) -> list[Finding]:
    """All engines.

    Args:
        kind: of machine, see `Machine.kind`.
        available: see `engines.available`.
        fault: tries a library and says what is wrong with it.
    """
    available = engines.available() if available is None else available
    findings = [_engine(name, state, kind, fault) for name, state in available.items()]
    if not any(available.values()):
        findings.append(Finding('engines', 'none is installed', Level.RED, 'pip install onnxruntime'))
    findings += _timings(kept_timings())
    return [*findings, _opencv(), Finding('libraries', ', '.join(f'{name} {_version(name)}' for name in _LIBRARIES))]


def _timings(kept: Sequence[Timing]) -> list[Finding]:
    """What `engine: auto` measured, and how much of it beside other programs."""
    if not kept:
        return []
    busy = [timing for timing in kept if timing.was_busy]
    found = f'engine auto keeps {len(kept)}'
    if not busy:
        return [Finding('timings', found)]
    worst = max(busy, key=lambda timing: timing.load)
    found += f', {len(busy)} from a busy machine (load up to {worst.load:.1f} on {worst.cores} cores)'
    advice = 'they are repeated at a quieter start, or at once by kd_perception select MODEL --measure-again'
    return [Finding('timings', found, Level.YELLOW, advice)]


def _engine(name: str, state: Availability, kind: str, fault: ImportFault) -> Finding:
    if not state:
        if _BEST.get(kind) != name:
            return Finding(name, 'not installed, and not needed here')
        return Finding(name, 'not installed, though made for this machine', Level.YELLOW, state.reason)
    wrong = fault(engines.ENGINES[name].library)
    if wrong:
        advice = f'reinstall it for this machine ({engines.ENGINES[name].install}), or remove it'
        return Finding(name, f'{state.version} does not load: {wrong}', Level.RED, advice)
    return Finding(name, state.version)


def _opencv() -> Finding:
    there = [name for name in _OPENCVS if _version(name) != 'not a wheel']
    if len(there) < 2:
        return Finding('OpenCV', ', '.join(there) or "the distribution's")
    advice = f'they overwrite each other: pip uninstall {" ".join(there)}, then install only opencv-python-headless'
    return Finding('OpenCV', f'installed several times: {", ".join(there)}', Level.YELLOW, advice)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'not a wheel'
