"""Whether OpenVINO's CPU library may use AMX, Intel's matrix tiles: a choice for the process, made when the library is loaded.

A tile holds 64 bytes of each of 16 channels. Convolutions of 16 to 96 channels fill a part of it and are faster with AVX-512.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = 'ONEDNN_MAX_CPU_ISA'
"""oneDNN, inside of OpenVINO, reads it once."""
WITHOUT = 'AVX512_CORE_FP16'
"""All of AVX-512, and no AMX; less on a processor that has less."""

_loaded_with: list[bool] = []


def has_amx(root: Path = Path('/proc')) -> bool:
    """Whether the processor has AMX for INT8."""
    try:
        return ' amx_int8' in (root / 'cpuinfo').read_text(encoding='utf-8', errors='replace')
    except OSError:
        return False


@contextmanager
def loading(allowed: bool) -> Iterator[None]:
    """Load OpenVINO's CPU library inside. The first choice in a process stays; a variable that the user set goes before it."""
    if _loaded_with or VARIABLE in os.environ:
        yield
        return
    _loaded_with.append(allowed)
    if not allowed:
        os.environ[VARIABLE] = WITHOUT
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)  # child processes choose for themselves


def doubts(allowed: bool) -> tuple[str, ...]:
    """What differs from the choice, as a warning; nothing on a processor without AMX."""
    if not _loaded_with or _loaded_with[0] == allowed or not has_amx():
        return ()
    found, asked = ('with', 'without') if _loaded_with[0] else ('without', 'with')
    return (
        f'OpenVINO was loaded {found} AMX for an earlier network of this process and stays so; this one was measured faster '
        f'{asked}: start anew with it',
    )
