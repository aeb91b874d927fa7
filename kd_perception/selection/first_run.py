"""The first run of a network on this machine happens in a process of its own: what crashes there cannot end a robot's node.

A network from elsewhere may crash its engine, run for ever, or take all memory, and no check of the file can tell. What has run
once is remembered by its hash, and is loaded at once from then on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from kd_perception import engines
from kd_perception.engines import cache
from kd_perception.errors import EngineError
from kd_perception.machine import host
from kd_perception.selection import trial
from kd_perception.selection.selection import Selection

CPU_LOAD_LIMIT_S, CPU_RUN_LIMIT_S = 120.0, 10.0
"""On a CPU no network of use takes longer to load, or for one frame; devices may build for long, see `trial.Limits`."""

MEMORY_SHARE = 0.75
"""A network may take so much of the memory that is available."""

_CPU = ('CPUExecutionProvider', 'CPU')


def check(selection: Selection, report: Callable[[str], None]) -> None:
    """Run what was selected once in a process of its own, unless it has run here before, or was timed for the selection.

    Raises:
        EngineError: it crashed, hung, took too much memory, or was refused; says which.
    """
    if any(row.chosen and row.timing is not None for row in selection.rows):
        return

    def run() -> bytes:
        report(f'the first run of {_name(selection)} on this machine is in a process of its own')
        _run(selection, report)
        return b'ran'

    cache.cached(_conditions(selection), run, report)


def _run(selection: Selection, report: Callable[[str], None]) -> None:
    artifact, options = selection.artifact, selection.options
    available = host.available_memory_mb()
    memory = None if available is None else MEMORY_SHARE * available
    on_cpu = selection.engine != 'tensorrt' and all(provider in _CPU for provider in options.providers)
    limits = trial.Limits(CPU_LOAD_LIMIT_S, CPU_RUN_LIMIT_S, memory) if on_cpu else trial.Limits(memory_mb=memory)
    spec = selection.bundle.input
    try:
        trial.run(
            trial.Trial(
                folder=str(selection.bundle.folder),
                artifact=(artifact.engine, artifact.precision),
                engine=selection.engine,
                precision=options.precision,
                threads=options.threads,
                providers=options.providers,
                device_id=options.device_id,
                frames=1,
                seconds=0.0,
                warm_up=0,
            ),
            [np.full((spec.height, spec.width, 3), spec.pad, np.uint8)],
            report,
            limits,
        )
    except EngineError as error:
        raise EngineError(f'{_name(selection)} failed in its first run, in a process of its own: {error}') from error


def _name(selection: Selection) -> str:
    return f'{selection.bundle.name} {selection.artifact.precision} on {selection.engine}'


def _conditions(selection: Selection) -> dict[str, str]:
    """Everything that the verdict depends on."""
    options = selection.options
    return {
        'engine': 'first_run',  # what the cache calls its entries by
        'model': selection.artifact.sha256,
        'precision': options.precision,
        'runs_on': f'{selection.engine} {engines.availability(selection.engine).version}',
        'providers': f'{options.providers} {options.device_id}',
        'frame': json.dumps([asdict(selection.bundle.input), asdict(selection.bundle.output)]),
        'host': json.dumps({'machine': host.describe()['machine'], 'cpu': host.cpu_model(), 'gpus': host.gpus()}),
    }
