"""What is measured: every engine × precision × number of threads that can run an artifact here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kd_perception import engines
from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.machine.cores import physical_cores
from kd_perception.selection.selection import Candidate


@dataclass(frozen=True)
class Configuration(Candidate):
    """One way to run one network.

    Attributes:
        threads: CPU threads inside one inference.
    """

    threads: int

    def __str__(self) -> str:
        threads = '1 thread' if self.threads == 1 else f'{self.threads} threads'
        return f'{super().__str__()}, {threads}'


@dataclass(frozen=True)
class Wanted:
    """What the user restricts the benchmark to; empty means everything."""

    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()


def configurations(
    bundles: Iterable[Bundle], wanted: Wanted | None = None
) -> tuple[list[Configuration], dict[str, str]]:
    """What can run here, and for every engine that cannot the reason.

    Raises:
        EngineError: an engine was asked for that there is not.
    """
    wanted = wanted or Wanted()
    names = wanted.engines or tuple(engines.ENGINES)
    states = {name: engines.availability(name) for name in names}
    threads = wanted.threads or default_threads(physical_cores())
    found = [
        Configuration(bundle, artifact, engine, precision, count)
        for bundle in bundles
        for artifact in _unique(bundle.artifacts)
        for engine, state in states.items()
        if state and engines.can_run(engine, artifact)
        for precision in engines.precisions(engine, artifact)
        if not wanted.precisions or precision in wanted.precisions
        for count in threads
    ]
    return found, {name: state.reason for name, state in states.items() if not state}


def default_threads(cores: int) -> tuple[int, ...]:
    """One, every power of two, and all of the cores."""
    return tuple(sorted({1, cores, *(1 << n for n in range(cores.bit_length()) if 1 << n <= cores)}))


def _unique(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """A bundle may list one file for several engines."""
    return list({artifact.sha256: artifact for artifact in reversed(artifacts)}.values())[::-1]
