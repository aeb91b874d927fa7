"""How long tests wait: for what must come in the end, and for what must not come while a machine is merely slow."""

from __future__ import annotations

import time

PATIENCE = 240.0
"""Seconds for whatever must come in the end: on a busy machine everything takes long, and nothing is decided by it."""

_SAMPLE_S = 0.02


def patient(seconds: float) -> float:
    """A limit in seconds on an idle machine, made longer by as much as this machine is slower now."""
    began, until = time.monotonic(), time.thread_time() + _SAMPLE_S
    while time.thread_time() < until:
        pass
    return seconds * max(1.0, (time.monotonic() - began) / _SAMPLE_S)
