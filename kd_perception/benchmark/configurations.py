"""What is measured: every engine × precision × number of threads that can run an artifact here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kd_perception import engines
from kd_perception.core.bundle import Artifact, Bundle
from kd_perception.engines.cores import physical_cores


@dataclass(frozen=True)
class Configuration:
    """One way to run one network.

    Attributes:
        bundle: where the artifact is from.
        artifact: the file.
        engine: registry name.
        precision: what the engine computes in.
        threads: CPU threads inside one inference.
    """

    bundle: Bundle
    artifact: Artifact
    engine: str
    precision: str
    threads: int

    @property
    def precision_text(self) -> str:
        """The artifact's precision, and the engine's where it is another one."""
        own = self.artifact.precision
        return own if self.precision == own else f'{own} as {self.precision}'

    def __str__(self) -> str:
        threads = '1 thread' if self.threads == 1 else f'{self.threads} threads'
        return f'{self.bundle.name} {self.precision_text} on {self.engine}, {threads}'


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
