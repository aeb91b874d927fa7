"""What to fall back to when the chosen network is too slow: others of the selection, each quicker than the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kd_perception.errors import BundleError, EngineError
from kd_perception.selection.selection import NOT_TIMED, Candidate, Selection, accuracy
from kd_perception.selection.timing import Timer, Timing

QUICKER = 0.9
"""A fallback must need at most this share of the time of the one before, or it is not worth its loss of accuracy."""


def find_fallbacks(
    selection: Selection,
    report: Callable[[str], None] | None = None,
    measure: Callable[[Candidate], Timing] | None = None,
) -> tuple[Selection, ...]:
    """The fallbacks of a selection of `engine: auto`, the most accurate first.

    Args:
        selection: what was chosen, with all its candidates.
        report: takes a line for each network that has to be timed, which takes a few seconds each.
        measure: gives a candidate's timing; by default from the cache, or measured in a process of its own.
    """
    chosen = next((row for row in selection.rows if row.chosen), None)
    if chosen is None or chosen.timing is None or selection.image_size is None:
        return ()
    if measure is None:
        timer = Timer(selection.image_size, selection.options, report=report)
        measure = lambda c: timer.time(c.bundle, c.artifact, c.engine, c.precision)  # noqa: E731
    fallbacks: list[Selection] = []
    quickest = chosen.timing.p95_ms
    timed = []
    for row in selection.rows:
        try:
            timing = measure(row.candidate) if row.verdict == NOT_TIMED else row.timing
        except (BundleError, EngineError):
            continue
        if timing is not None and accuracy(row.candidate) <= accuracy(chosen.candidate):
            timed.append((row.candidate, timing))
    for candidate, timing in sorted(timed, key=lambda pair: (-accuracy(pair[0]), pair[1].p95_ms)):
        if timing.p95_ms <= QUICKER * quickest:
            quickest = timing.p95_ms
            fallbacks.append(_fallback(selection, candidate, timing))
    return tuple(fallbacks)


def _fallback(selection: Selection, candidate: Candidate, timing: Timing) -> Selection:
    return replace(
        selection,
        bundle=candidate.bundle.operated_as(candidate.artifact),
        artifact=candidate.artifact,
        engine=candidate.engine,
        options=replace(selection.options, precision=candidate.precision),
        reason=f'{candidate}: stepped down to, p95 {timing.p95_ms:.1f} ms',
        rows=(),
    )
