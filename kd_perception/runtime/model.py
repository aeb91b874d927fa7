"""A model ready to run: the settings that ask for it, what can be said of them at once, and the long way to a warm detector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from kd_perception.bundles.bundle import Artifact, Bundle, find_bundle, load_bundle
from kd_perception.detection.detector import Detector
from kd_perception.detection.engine import EngineInfo
from kd_perception.detection.tiles import OFF, OVERLAP, Tiling, most_passes, parse
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.selection import first_run
from kd_perception.selection.fallbacks import find_fallbacks
from kd_perception.selection.selection import AUTO, Request, Selection, select

CPU_PROVIDER = 'CPUExecutionProvider'


@dataclass(frozen=True)
class ModelSettings:
    """What the user asks for.

    Attributes:
        model: a bundle's folder, or the name of an installed one.
        engine: registry name, or `auto`.
        precision: `auto`, or one that the bundle has.
        max_map_drop: the accuracy gate, see `selection.Request`.
        threads: CPU threads inside one inference; 0 means one per physical core.
        providers: see `EngineOptions`.
        budget_ms: what `engine: auto` and `tiles: auto` have to fit; None where neither is asked for.
        with_fallbacks: find quicker networks to fall back to; needs `engine: auto`, for an explicit choice is never replaced.
        fallback: 0 for the selection itself, else which of its fallbacks, from 1.
        tiles: `off`, `auto` or a grid, see `kd_perception.detection.tiles.parse`.
        tile_overlap: see `kd_perception.detection.tiles.Tiling`.
    """

    model: str
    engine: str
    precision: str = 'auto'
    max_map_drop: float = 0.02
    threads: int = 0
    providers: tuple[str, ...] = ()
    budget_ms: float | None = None
    with_fallbacks: bool = False
    fallback: int = 0
    tiles: str = OFF
    tile_overlap: float = OVERLAP

    def tiling(self, report: Callable[[str], None]) -> Tiling | None:
        """How frames are cut into tiles; raises TilesError where the text cannot be read."""
        return parse(self.tiles, self.tile_overlap, math.inf if self.budget_ms is None else self.budget_ms, report)

    def request(self, report: Callable[[str], None]) -> Request:
        """The same as the selection knows it. It times single passes: a grid leaves each its share of the budget."""
        request = Request(
            engine=self.engine,
            precision=self.precision,
            max_map_drop=self.max_map_drop,
            options=EngineOptions(threads=self.threads, providers=self.providers, report=report),
        )
        return (
            request if self.budget_ms is None else replace(request, budget_ms=self.budget_ms / most_passes(self.tiles))
        )


@dataclass(frozen=True)
class Model:
    """A detector that was warmed up, and where it comes from.

    Attributes:
        settings: what was asked for.
        selection: what the choice fell on, and why.
        detector: what runs it.
        warm_ms: the engine's time for a frame when warm.
        fallbacks: quicker networks to fall back to, the most accurate first.
    """

    settings: ModelSettings
    selection: Selection
    detector: Detector
    warm_ms: float
    fallbacks: tuple[Selection, ...] = ()

    @property
    def bundle(self) -> Bundle:
        """Where the artifact is from."""
        return self.selection.bundle

    @property
    def artifact(self) -> Artifact:
        """The file that runs."""
        return self.selection.artifact

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self.detector.engine.info

    def describe(self) -> str:
        """One line for a log; where there are tiles, the time is that of one of them."""
        measured = self.artifact.measured_map
        accuracy = 'mAP not measured' if measured is None else f'mAP50-95 {measured:.3f}'
        return (
            f'{self.bundle.name} {self.info.precision} ({accuracy}) on {self.info.engine} {self.info.provider}, '
            f'{self.info.threads} threads: {self.warm_ms:.1f} ms a frame when warm'
        )

    def warnings(self) -> tuple[str, ...]:
        """What is not as it was asked for, each with what to do about it."""
        warnings = self.info.warnings
        if not self.selection.within_budget:
            warnings += (self.selection.reason,)
        if self.settings.with_fallbacks and not self.fallbacks:
            warnings += (
                'degradation step_down has nowhere to go: nothing that may run is quicker; add a smaller bundle of the family',
            )
        return warnings

    def close(self) -> None:
        """Free the engine."""
        self.detector.close()


def check(settings: ModelSettings) -> None:
    """What can be said at once: the bundle is valid, and an engine that was named can run it within the accuracy gate.

    Raises:
        KdPerceptionError: the settings cannot be met; says why.
    """
    settings.tiling(_say_nothing)
    bundle = load_bundle(find_bundle(settings.model))
    if settings.engine == AUTO:
        return
    if settings.with_fallbacks:
        raise EngineError(
            f'degradation step_down needs engine auto: {settings.engine} was asked for, and is never replaced by another'
        )
    select(bundle, settings.request(_say_nothing))


def load(settings: ModelSettings, report: Callable[[str], None], known: tuple[Selection, ...] = ()) -> Model:
    """Verify, select, load and warm up. Timing candidates and building an engine may take minutes on a board.

    Args:
        settings: what to load.
        report: takes a line about what takes long.
        known: the fallbacks as they were found when the selection itself was loaded; one of them needs no new selection.

    Raises:
        KdPerceptionError: the model cannot be had; says why.
    """
    check(settings)
    if 0 < settings.fallback <= len(known):
        return _load(settings, known[settings.fallback - 1], known, report)
    selection = select(load_bundle(find_bundle(settings.model)), settings.request(report), report)
    return _load(settings, selection, find_fallbacks(selection, report) if settings.with_fallbacks else (), report)


def _load(
    settings: ModelSettings, selection: Selection, fallbacks: tuple[Selection, ...], report: Callable[[str], None]
) -> Model:
    first_run.check(selection, report)
    detector = Detector(selection.bundle, selection.load(), tiling=settings.tiling(report))
    try:
        return Model(settings, selection, detector, detector.warm_up(), fallbacks)
    except KdPerceptionError:
        detector.close()
        raise


def load_on_cpu(settings: ModelSettings, report: Callable[[str], None]) -> Model:
    """The same model on the CPU, for when a device failed: in the same precision if the bundle has it for the CPU.

    Raises:
        KdPerceptionError: there is no such artifact, or it fails as well.
    """
    on_cpu = replace(settings, engine='onnxruntime', providers=(CPU_PROVIDER,), with_fallbacks=False)
    try:
        check(on_cpu)
    except KdPerceptionError:
        on_cpu = replace(on_cpu, precision='auto')
    return replace(load(on_cpu, report), settings=settings)


def _say_nothing(line: str) -> None:
    pass
