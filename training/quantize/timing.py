"""How long networks take on an engine, all in turn; OpenVINO's with AMX and without, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle
from kd_perception.engines import amx
from kd_perception.engines.options import EngineOptions
from training.measure import with_file

Networks = Mapping[str, tuple[Path, str]]
"""By name the file and its precision."""


@dataclass(frozen=True)
class Times:
    """Median times.

    Attributes:
        ms: by the name of a network, of one inference.
        amx: whether OpenVINO was allowed to use AMX.
    """

    ms: dict[str, float]
    amx: bool = True

    @property
    def speed(self) -> float:
        """How many times as fast as `float` the fastest other one is."""
        return self.ms['float'] / min(ms for name, ms in self.ms.items() if name != 'float')


def measure_times(
    bundle: Bundle,
    engine: str,
    networks: Networks,
    picture: np.ndarray[Any, Any],
    rounds: int,
    threads: int,
    amx_allowed: bool | None = None,
) -> Times:
    """See `interleaved_times`. Where the processor has AMX, OpenVINO runs with it or without, or both to find the faster way.

    Args:
        amx_allowed: None tries both, unless the user's environment has decided.
    """
    arguments = (bundle, engine, dict(networks), picture, rounds, threads)
    if engine != 'openvino' or not amx.has_amx() or amx.VARIABLE in os.environ:
        return Times(interleaved_times(*arguments))
    tried = []
    for allowed in (True, False) if amx_allowed is None else (amx_allowed,):
        # oneDNN looks at the processor once in the life of a process.
        fresh = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, fresh, initializer=_choose, initargs=(allowed,)) as child:
            tried.append(Times(child.submit(interleaved_times, *arguments).result(), allowed))
    return max(tried, key=lambda times: times.speed)


def _choose(amx_allowed: bool) -> None:
    if not amx_allowed:
        os.environ[amx.VARIABLE] = amx.WITHOUT


def interleaved_times(
    bundle: Bundle,
    engine: str,
    networks: Networks,
    picture: np.ndarray[Any, Any],
    rounds: int,
    threads: int,
) -> dict[str, float]:
    """Median time of an inference of each network in ms, all in turn, so that what disturbs one disturbs all.

    With one thread it is the process's time on the CPU, which other programs disturb least; with more it is the clock's.

    Args:
        bundle: whose input the networks take.
        engine: that runs them.
        networks: what is timed.
        picture: as the network takes it.
        rounds: timed inferences of each.
        threads: CPU threads of an inference.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    loaded = {}
    for name, (file, precision) in networks.items():
        one = with_file(bundle, file, precision, engine)
        loaded[name] = engines.load(one, one.artifacts[0], EngineOptions(threads=threads))
    batch = np.ascontiguousarray(picture[None])
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(rounds + 2):
        for name, running in loaded.items():
            started = clock()
            running.infer(batch)
            if number > 1:  # the first two warm up
                times[name].append(1e3 * (clock() - started))
    for running in loaded.values():
        running.close()
    return {name: statistics.median(values) for name, values in times.items()}
