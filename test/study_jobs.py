"""Jobs of studies for tests: a real fit in closed form, small enough for a cell to take milliseconds."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np


def ridge(strength: float, seed: int, threads: int, calls: str = '') -> dict[str, Any]:
    """Ridge regression on 20 noisy samples of 10 features; metrics on 200 clean ones."""
    if calls:
        with Path(calls).open('a') as stream:
            stream.write(f'{strength} {seed}\n')
    print(f'ridge regression, strength {strength}')
    random = np.random.default_rng(seed)
    truth = random.normal(size=10)
    features, unseen = random.normal(size=(20, 10)), random.normal(size=(200, 10))
    targets = features @ truth + random.normal(size=20)
    weights = np.linalg.solve(features.T @ features + strength * np.eye(10), features.T @ targets)
    error = float(np.mean((unseen @ (weights - truth)) ** 2))
    return {
        'r2': 1 - error / float(np.var(unseen @ truth)),
        'test_loss': error,
        'omp_threads': os.environ.get('OMP_NUM_THREADS', 'unset'),
        'gpu': os.environ.get('CUDA_VISIBLE_DEVICES', 'unset'),
        'process': str(os.getpid()),
    }


def ridge_that_fails(strength: float, seed: int, threads: int, calls: str = '') -> dict[str, Any]:
    """Strength −1 raises with seed 1, strength −2 kills its own process, as the kernel does when memory is short."""
    if strength == -1 and seed == 1:
        raise ArithmeticError('the loss is NaN at step 7')
    if strength == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    return ridge(abs(strength), seed, threads, calls)


def ridge_that_waits(strength: float, seed: int, threads: int, gate: str, calls: str = '') -> dict[str, Any]:
    """Seed 1 notes that it has begun and sleeps until SIGTERM, on which it leaves a checkpoint; not so once `gate` exists."""
    if seed == 1 and not Path(gate).exists():
        signal.signal(signal.SIGTERM, lambda *_: Path(f'{gate}.checkpoint').touch() or sys.exit(1))
        Path(f'{gate}.begun').write_text(str(os.getpid()))
        signal.pause()
    return ridge(strength, seed, threads, calls)


def ridge_that_stays(strength: float, seed: int, threads: int, begun: str) -> dict[str, Any]:
    """Does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(f'{begun}.partial').write_text(str(os.getpid()))
    os.replace(f'{begun}.partial', begun)
    signal.pause()
    return {}
