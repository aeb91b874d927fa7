"""The inference engines: which are installed, whether their libraries load, and which this board should have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata

from kd_perception import engines
from kd_perception.doctor.findings import Finding, Level
from kd_perception.engines import Availability

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
    return [*findings, _opencv(), Finding('libraries', ', '.join(f'{name} {_version(name)}' for name in _LIBRARIES))]


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
