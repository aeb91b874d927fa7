"""Python in a process of its own in which Ultralytics cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFUSAL = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'ultralytics':
            raise ImportError('Ultralytics was asked for')


sys.meta_path.insert(0, Refuse())
"""


def run_without_ultralytics(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script, which finds the arguments in `sys.argv`."""
    command = [sys.executable, '-c', REFUSAL + script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
