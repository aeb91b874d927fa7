"""Where and with what a cell was run: what a table of results must say beside its figures."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from kd_perception.machine import host

LIBRARIES = ('torch', 'ultralytics', 'onnxruntime', 'numpy')


def circumstances(threads: int) -> dict[str, Any]:
    """Machine, threads, GPU if torch has one, commit, versions and the time now."""
    gpu = gpu_name()
    return {
        'cpu': host.cpu_model(),
        'cores': len(os.sched_getaffinity(0)),
        'threads': threads,
        **({'gpu': gpu} if gpu else {}),
        'commit': commit(),
        'versions': {'python': sys.version.split()[0], **versions()},
        'finished': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }


def gpu_name() -> str:
    """Of the GPU that torch would use in this process; empty without one, or where nothing has loaded torch."""
    torch: Any = sys.modules.get('torch')
    return str(torch.cuda.get_device_name()) if torch and torch.cuda.is_available() else ''


def versions() -> dict[str, str]:
    """Of the libraries that decide the figures, as far as they are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """The checkout's commit, with `+changes` where files of `training` or `kd_perception` differ from it."""
    root = Path(__file__).parents[2]
    try:
        head = _git(root, 'rev-parse', '--short=12', 'HEAD')
        changed = _git(root, 'status', '--porcelain', '--untracked-files=no', 'training', 'kd_perception')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head + ('+changes' if changed else '')


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(['git', *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
