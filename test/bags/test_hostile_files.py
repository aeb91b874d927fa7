"""Whatever a file holds ends in a result or in an error of the package's own, in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[1] / 'hostile_files.py'
EXAMPLES = int(os.environ.get('KD_FUZZ_EXAMPLES', '100'))
A_RUN = 20
"""Mutations for every example of hypothesis: the process takes a second to begin."""


def run(kind: str, count: int, seed: int, *corpus: Path) -> None:
    words = [sys.executable, str(SCRIPT), kind, str(count), str(seed), *map(str, corpus)]
    done = subprocess.run(words, capture_output=True, text=True, errors='replace', timeout=3600)
    assert done.returncode == 0, f'{" ".join(words)}\n{done.stderr[-3000:]}'
    assert f'{count} mutations' in done.stdout


@pytest.mark.fuzz
@settings(max_examples=1, deadline=None)
@given(st.integers(0, 1 << 30))
def test_mutated_pictures(shared_data: Path, seed: int) -> None:
    run('pictures', A_RUN * EXAMPLES, seed, shared_data / 'odd_images')


@pytest.mark.fuzz
@settings(max_examples=1, deadline=None)
@given(st.integers(0, 1 << 30))
def test_mutated_bags(seed: int) -> None:
    run('bags', 2 * EXAMPLES, seed)
