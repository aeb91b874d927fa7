"""Which network runs on which engine: the user's explicit choice, or the most accurate that is quick enough on this machine.

`engine: auto` times the artifacts of the bundle's family on every engine that is installed, and takes the most accurate whose
95th percentile fits the latency budget. What is compared with the budget is preprocess + infer + postprocess of one frame, since
that is what the choice can change; transport, queue and publish come on top of it in the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from kd_perception import engines
from kd_perception.bundles.bundle import Artifact, Bundle, bundles_on, load_bundle
from kd_perception.detection.engine import Engine
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import BundleError, EngineError
from kd_perception.selection import gate, timing
from kd_perception.selection.timing import Timing
from kd_perception.text_table import aligned

AUTO = 'auto'
HARMLESS = ('fp16',)
"""Precisions in which `engine: auto` may run an artifact of a higher one; all others need one that was measured so."""
NOT_TIMED = 'not timed: less accurate than one that fits'
Report = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One network that could run: an artifact on an engine.

    Attributes:
        bundle: where the artifact is from.
        artifact: the file.
        engine: registry name.
        precision: what the engine computes in; it may be less than the artifact's, such as an FP32 network run in FP16.
    """

    bundle: Bundle
    artifact: Artifact
    engine: str
    precision: str

    @property
    def precision_text(self) -> str:
        """The artifact's precision, and the engine's where it is another one."""
        return precision_text(self.artifact.precision, self.precision)

    def __str__(self) -> str:
        return f'{self.bundle.name} {self.precision_text} on {self.engine}'


def precision_text(own: str, run_in: str) -> str:
    """An artifact's precision, and what an engine runs it in where that is another one."""
    return own if run_in == own else f'{own} as {run_in}'


Measure = Callable[[Candidate], Timing]


@dataclass(frozen=True)
class Request:
    """What the user asks of the selection.

    Attributes:
        engine: registry name, or `auto`.
        precision: `fp32`, `int8`, …, or `auto`.
        max_map_drop: accuracy gate, 0 … 1: largest share of the float network's mAP50-95 that compression may have cost an
            artifact, see `kd_perception.selection.gate`.
        budget_ms: largest 95th percentile of preprocess + infer + postprocess.
        options: how engines are loaded; its `precision` is the selection's to set.
        image_size: width and height of the camera's images; None takes the bundle's input.
        family: with `engine: auto`, bundles of the same family beside this one may stand in for it.
        measure_again: do not believe timings of earlier runs.
    """

    engine: str = AUTO
    precision: str = AUTO
    max_map_drop: float = 0.02
    budget_ms: float = 200.0
    options: EngineOptions = field(default_factory=EngineOptions)
    image_size: tuple[int, int] | None = None
    family: bool = True
    measure_again: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the selection's table.

    Attributes:
        candidate: what could run.
        timing: None where nothing was timed, and `verdict` says why.
        verdict: why it was chosen, or why not.
        chosen: whether it was.
        refused: whether it was not considered at all, for its engine is missing or the accuracy gate forbids it.
    """

    candidate: Candidate
    timing: Timing | None
    verdict: str
    chosen: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Selection:
    """What runs, and why.

    Attributes:
        bundle: may be another of the family than the one asked for; its thresholds are those of the artifact.
        artifact: which of its files.
        engine: registry name of the engine that runs it.
        options: what to load it with.
        reason: one sentence.
        within_budget: False when nothing fits and the fastest was taken: a warning to the user.
        rows: every candidate with its timing and verdict; empty where the choice was explicit.
        image_size: width and height of the frames that were timed; None where nothing was.
    """

    bundle: Bundle
    artifact: Artifact
    engine: str
    options: EngineOptions
    reason: str
    within_budget: bool = True
    rows: tuple[Row, ...] = ()
    image_size: tuple[int, int] | None = None

    def load(self) -> Engine:
        """Load what was selected.

        Raises:
            BundleError: the file is missing or altered.
            EngineError: the engine refuses it.
        """
        return engines.load(self.bundle, self.artifact, self.options, self.engine)

    def table(self) -> str:
        """The reason, and under it every candidate in aligned columns."""
        if not self.rows:
            return self.reason
        head = ('', 'model', 'engine', 'precision', 'mAP50-95', 'p50 ms', 'p95 ms', '')
        considered = [_cells(row) for row in self.rows if not row.refused]
        return '\n'.join([self.reason, *aligned([head, *considered], numbers=(4, 5, 6)), *_refusals(self.rows)])

    def as_dict(self) -> dict[str, str]:
        """Key-values for /diagnostics."""
        values = {'selection': self.reason, 'selection.within_budget': str(self.within_budget)}
        for row in self.rows:
            time = f'p95 {row.timing.p95_ms:.1f} ms, ' if row.timing else ''
            values[f'selection.{row.candidate}'.replace(' ', '_')] = time + row.verdict
        return values


def select(
    bundle: Bundle, request: Request | None = None, report: Report | None = None, measure: Measure | None = None
) -> Selection:
    """Choose what to run.

    An explicit engine takes the bundle's first artifact, in the author's order, that it can run; an explicit precision leaves no
    choice of artifact. Both are obeyed or refused, never replaced. Only `engine: auto` measures, and may take a sibling.

    Args:
        bundle: what the user named.
        request: engine, precision, accuracy gate, latency budget.
        report: takes a line for each network that is being timed, which takes a few seconds each.
        measure: gives a candidate's timing; by default from the cache, or measured in a process of its own.

    Raises:
        BundleError: the bundle has no such artifact, or none that passes the accuracy gate.
        EngineError: no such engine, or none that is installed can run the bundle.
    """
    request = request or Request()
    if request.engine != AUTO:
        return _explicit(bundle, request)
    bundles = family(bundle) if request.family else [bundle]
    size = request.image_size or (bundle.input.width, bundle.input.height)
    if measure is None:
        timer = timing.Timer(size, request.options, fresh=request.measure_again, report=report)
        measure = lambda c: timer.time(c.bundle, c.artifact, c.engine, c.precision)  # noqa: E731
    candidates, refused = _candidates(bundles, request)
    if not candidates:
        raise EngineError(
            f'nothing of {bundle.name} can run here: '
            + ('; '.join(f'{row.candidate}: {row.verdict}' for row in refused) or 'no artifact')
        )
    return replace(_choose(candidates, refused, request, measure), image_size=size)


def family(bundle: Bundle) -> list[Bundle]:
    """The bundle, and those beside it that detect the same classes and say so by the same `family`; damaged ones are left out."""
    siblings = []
    own = bundle.folder.resolve()
    for folder in bundles_on(own.parent):
        if folder.resolve() == own:
            continue
        try:
            other = load_bundle(folder)
        except BundleError:
            continue
        if other.family == bundle.family and other.classes == bundle.classes:
            siblings.append(other)
    return [bundle, *siblings]


def _explicit(bundle: Bundle, request: Request) -> Selection:
    """Obey, or refuse with the reason."""
    state = engines.availability(request.engine)
    if not state:
        raise EngineError(state.reason)
    engines.check_options(request.engine, request.options)
    # What was made for this engine comes before what it can run as well.
    artifacts = sorted(bundle.artifacts, key=lambda artifact: artifact.engine != request.engine)
    obstacles = []
    for artifact in artifacts:
        precision, reason = _precision(request.engine, artifact, request.precision)
        reason = reason or gate.refusal(artifact, request.max_map_drop)
        if not reason:
            candidate = Candidate(bundle, artifact, request.engine, precision)
            asked = request.engine if request.precision == AUTO else f'{request.engine} and {request.precision}'
            order = ', its first that passes the accuracy gate' if request.precision == AUTO else ''
            return _selection(candidate, f'{candidate}: {asked} as asked for{order}', request)
        obstacles.append(f'{artifact.engine}/{artifact.precision}: {reason}')
    raise BundleError(
        f'bundle {bundle.name} has no artifact {request.engine}/{request.precision} that may run; it has {"; ".join(obstacles)}'
    )


def _precision(engine: str, artifact: Artifact, asked: str) -> tuple[str, str]:
    """What the engine computes in, or why it cannot be what is asked for."""
    reason = engines.obstacle(engine, artifact, '' if asked == AUTO else asked)
    if not reason and asked == AUTO:
        return engines.precisions(engine, artifact)[0], ''
    return asked, reason


def _candidates(bundles: Iterable[Bundle], request: Request) -> tuple[list[Candidate], list[Row]]:
    """Everything that may run here, and the rest with the reason why not."""
    candidates: list[Candidate] = []
    refused: list[Row] = []
    available = engines.available()
    bundles = list(bundles)
    for bundle in bundles:
        for artifact in bundle.artifacts:
            forbidden = gate.incomparable(bundles[0], bundle, artifact) or gate.refusal(artifact, request.max_map_drop)
            for engine, state in available.items():
                for precision in _precisions(engine, artifact, request.precision):
                    candidate = Candidate(bundle, artifact, engine, precision)
                    if state and not forbidden:
                        candidates.append(candidate)
                    else:
                        refused.append(Row(candidate, None, state.reason or forbidden, refused=True))
    return _unique(candidates), refused


def _precisions(engine: str, artifact: Artifact, asked: str) -> tuple[str, ...]:
    if asked != AUTO:
        return (asked,) if engines.can_run(engine, artifact, asked) else ()
    if not engines.can_run(engine, artifact):
        return ()
    return tuple(p for p in engines.precisions(engine, artifact) if p in (artifact.precision, *HARMLESS))


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    """A bundle may list one file for several engines; each engine runs it once."""
    by_key = {(c.bundle.folder, c.artifact.sha256, c.engine, c.precision): c for c in reversed(list(candidates))}
    return list(by_key.values())[::-1]


def _choose(candidates: Sequence[Candidate], refused: Sequence[Row], request: Request, measure: Measure) -> Selection:
    """The most accurate that fits. What is less accurate than one that fits is not timed at all."""
    timings: dict[int, Timing] = {}
    verdicts: dict[int, str] = {}
    chosen: int | None = None
    ranked = sorted(range(len(candidates)), key=lambda n: -accuracy(candidates[n]))
    for _, equals in groupby(ranked, key=lambda n: accuracy(candidates[n])):
        group = list(equals)
        if chosen is not None:
            verdicts |= dict.fromkeys(group, NOT_TIMED)
            continue
        for n in group:
            try:
                timings[n] = measure(candidates[n])
            except (BundleError, EngineError) as error:
                verdicts[n] = f'failed: {error}'
        fitting = [n for n in group if n in timings and timings[n].p95_ms <= request.budget_ms]
        chosen = min(fitting, key=lambda n: timings[n].p95_ms, default=None)
    if not timings:
        raise EngineError('; '.join(f'{candidates[n]}: {verdict}' for n, verdict in verdicts.items()))
    fits = chosen is not None
    if chosen is None:
        chosen = min(timings, key=lambda n: timings[n].p95_ms)
    for n, measured in timings.items():
        over = f'{measured.p95_ms - request.budget_ms:.1f} ms over the budget'
        verdicts[n] = 'as accurate, but slower' if measured.p95_ms <= request.budget_ms else over
    verdicts[chosen] = 'chosen: the most accurate that fits' if fits else f'chosen: the fastest, {verdicts[chosen]}'
    rows = [Row(candidates[n], timings.get(n), verdicts[n], n == chosen) for n in ranked]
    reason = _reason(candidates[chosen], timings[chosen], request, fits, len(candidates)) + _busy(timings.values())
    return _selection(candidates[chosen], reason, request, fits, (*rows, *refused))


def accuracy(candidate: Candidate) -> float:
    """What candidates are ranked by; one that nobody measured comes last."""
    measured = candidate.artifact.measured_map
    return -1.0 if measured is None else measured


def _reason(candidate: Candidate, measured: Timing, request: Request, fits: bool, count: int) -> str:
    value = candidate.artifact.measured_map
    accuracy = 'mAP not measured' if value is None else f'mAP50-95 {value:.3f}'
    time = f'p95 {measured.p95_ms:.1f} ms of preprocess + infer + postprocess'
    if fits:
        return f'{candidate} ({accuracy}): the most accurate of {count} whose {time} fits the budget of {request.budget_ms:g} ms'
    return (
        f'{candidate} ({accuracy}): none of {count} fits the budget of {request.budget_ms:g} ms, and this is the fastest, '
        f'{time}: raise latency_budget_ms or add a smaller bundle of the family'
    )


def _busy(timings: Iterable[Timing]) -> str:
    """The end of the reason where times are too long for what else ran."""
    busiest = max((timing for timing in timings if timing.was_busy), key=lambda timing: timing.load, default=None)
    if busiest is None:
        return ''
    return f'; timed on a busy machine (load {busiest.load:.1f} on {busiest.cores} cores), and timed again at a quieter start'


def _selection(
    candidate: Candidate, reason: str, request: Request, fits: bool = True, rows: tuple[Row, ...] = ()
) -> Selection:
    options = replace(request.options, precision=candidate.precision)
    bundle, artifact = candidate.bundle, candidate.artifact
    return Selection(bundle.operated_as(artifact), artifact, candidate.engine, options, reason, fits, rows)


def _refusals(rows: Iterable[Row]) -> list[str]:
    """One line for each reason, with all that it holds for."""
    by_reason: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.refused:
            name = f'{row.candidate.bundle.name} {row.candidate.artifact.precision}'
            by_reason.setdefault(row.verdict, {})[name] = None
    return [f'not considered: {", ".join(names)}: {reason}' for reason, names in by_reason.items()]


def _cells(row: Row) -> tuple[str, ...]:
    candidate, value = row.candidate, row.candidate.artifact.measured_map
    accuracy = '–' if value is None else f'{value:.3f}'
    p50, p95 = ('–', '–') if row.timing is None else (f'{row.timing.p50_ms:.1f}', f'{row.timing.p95_ms:.1f}')
    names = (candidate.bundle.name, candidate.engine, candidate.precision_text)
    return ('→' if row.chosen else '', *names, accuracy, p50, p95, row.verdict)
