"""The demo's second half: the same source as a bag, evaluated in both modes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from kd_perception.bags.ground_truth import IGNORED
from kd_perception.bags.making import BagForm, make_bag, truth_of_scene
from kd_perception.bags.sources import BagSource, FrameSource, SceneSource
from kd_perception.bundles.bundle import Bundle, load_bundle
from kd_perception.demo.options import DemoOptions
from kd_perception.errors import EvaluationError
from kd_perception.evaluation.evaluate import Job, run_jobs
from kd_perception.evaluation.results import BagFailure
from kd_perception.metrics.tracking import is_available
from kd_perception.report.files import write_report
from kd_perception.report.report import Streaming, make_report
from kd_perception.scene import CLASS_NAMES
from kd_perception.tracking.bytetrack import TrackerSettings

MAX_FRAMES = 300
"""Frames of the bag: ten seconds at 30 Hz."""

JPEG_QUALITY = 95


def evaluate_source(options: DemoOptions, source: FrameSource, model: Path, frames: int) -> list[str]:
    """Make a bag of the source, unless it is one, and write report.json and report.html of both modes.

    Returns:
        Lines for the terminal: the headline of each mode and where its report lies.

    Raises:
        EvaluationError: the bag cannot be evaluated; says why.
        BagError: it cannot be written.
    """
    count = min(frames, MAX_FRAMES)
    with tqdm(total=2 * count, unit=' frames', desc='evaluating', disable=None) as bar:
        bag = Path(options.source) if isinstance(source, BagSource) else _as_bag(source, options.out, count, bar)
        job = Job(
            bag,
            model,
            precision=options.precision,
            topic=options.topic,
            threads=options.threads,
            class_map=tuple(flight_class_map(load_bundle(model)).items()) if isinstance(source, SceneSource) else (),
        )
        (outcome,) = run_jobs([job], progress=lambda done, total: _step(bar))
    if isinstance(outcome, BagFailure):
        raise EvaluationError(outcome.reason)
    selection = job.selection()
    bundle, artifact = selection.bundle, selection.artifact
    lines = []
    for mode, streaming in (('every', None), ('realtime', Streaming(1.0))):
        command = f'kd_perception evaluate {os.path.relpath(bag)} --bundle {bundle.name} --mode {mode}'
        tracker = TrackerSettings() if options.tracker != 'none' and is_available() else None
        report = make_report(
            bundle,
            artifact,
            [outcome],
            streaming=streaming,
            command=f'{command} --tracker {options.tracker}',
            tracker=tracker,
        )
        lines += write_report(report, [outcome], bundle, options.out / 'evaluation' / mode)
    return lines


def _as_bag(source: FrameSource, out: Path, frames: int, bar: tqdm[NoReturn]) -> Path:
    scene = isinstance(source, SceneSource)
    form = BagForm(jpeg_quality=JPEG_QUALITY, frames=frames, overwrite=True)
    make_bag(source, out / 'bag', form, truth_of_scene(CLASS_NAMES) if scene else None, CLASS_NAMES, lambda: _step(bar))
    return out / 'bag'


def flight_class_map(bundle: Bundle) -> dict[str, str]:
    """The bundle's class for those of a synthetic flight that it covers; what it does not know is judged neither way."""
    known = {name.casefold() for name in bundle.classes}
    return {name: IGNORED for name in CLASS_NAMES if name.casefold() not in known} | bundle.class_map


def _step(bar: tqdm[NoReturn]) -> None:
    bar.update()
