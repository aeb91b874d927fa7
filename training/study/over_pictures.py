"""What a paired difference is worth on other test pictures: all cells are judged on the same samples of the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.bundle import FLOAT, load_bundle
from kd_perception.metrics.average_precision import sampled_maps
from training.data.protocols import protocol_of
from training.measure import detect_split
from training.run.plan import Plan
from training.steps import Step
from training.study.plan import Result, Study
from training.study.recipe_cells import cell_plan
from training.study.tables import signed

Maps = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PictureInterval:
    """An arm's mean paired difference in mAP50-95 with its interval over the test pictures; the seeds stay as they are.

    Attributes:
        arm: the arm.
        pairs: seeds that arm and baseline have.
        mean: of the differences over these seeds, on all pictures.
        lower: lower end of the percentile interval.
        upper: its upper end.
    """

    arm: str
    pairs: int
    mean: float
    lower: float
    upper: float


def over_pictures(
    study: Study, results: Iterable[Result], resamples: int, confidence: float = 0.95
) -> list[PictureInterval]:
    """Every arm but the baseline, over the test pictures.

    Each finished cell's network detects on the validation pictures once; that and its mAP on each sample are kept like
    other steps. All cells have the same samples, so that hard pictures cancel out.

    Args:
        study: of a recipe.
        results: its finished cells.
        resamples: how many samples of the pictures are drawn, with replacement.
        confidence: of the intervals.
    """
    maps = {(result.arm, result.seed): _maps(study, result, resamples) for result in results}
    found = []
    for arm in study.arms:
        seeds = [seed for seed in study.seeds if {(arm, seed), (study.baseline, seed)} <= maps.keys()]
        if arm != study.baseline and seeds:
            differences = [maps[arm, seed] - maps[study.baseline, seed] for seed in seeds]
            found.append(_interval(arm, np.stack(differences), confidence))
    return found


def _interval(arm: str, differences: Maps, confidence: float) -> PictureInterval:
    """Of differences (seeds, 1 + samples), of which the first column is all pictures."""
    means = differences.mean(axis=0)
    lower, upper = np.quantile(means[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return PictureInterval(arm, len(differences), float(means[0]), float(lower), float(upper))


def _maps(study: Study, result: Result, resamples: int) -> Maps:
    places: dict[str, Any] = {name: Path(study.places[name]) for name in ('recipe_file', 'out', 'data')}
    overrides = study.arms[result.arm]['overrides']
    plan, measured = cell_plan(**places, overrides=overrides, seed=result.seed)
    return np.array(plan.steps.made(sampling(plan, measured, resamples))['map'])


def sampling(plan: Plan, stage: str, resamples: int) -> Step:
    """mAP50-95 of a stage's float network on all validation pictures, and on each of so many samples of them."""
    measured, prepared = plan.measure(stage, FLOAT), plan.prepare(plan.recipe.validation)

    def make(folder: Path) -> dict[str, Any]:
        bundle = load_bundle(plan.steps.folder(measured) / 'bundle')
        artifact, protocol = bundle.artifact('onnxruntime', FLOAT), plan.recipe.protocol
        validation = plan.steps.folder(prepared) / 'set'
        found, truth = detect_split(bundle, artifact, validation, 'val', protocol=protocol)
        count = len(truth)
        drawn = np.random.default_rng(0).integers(0, count, (resamples, count))
        most = protocol_of(protocol).max_detections or bundle.output.max_detections
        samples = np.vstack([np.arange(count), drawn])
        return {'map': sampled_maps(found, truth, len(bundle.classes), samples, most).tolist()}

    return Step(f'resample {stage} {FLOAT}', [resamples], (measured,), make)


def markdown(intervals: Iterable[PictureInterval], baseline: str, resamples: int, confidence: float = 0.95) -> str:
    """The section of a page."""
    rows = [
        f'## map over test pictures\n\n{100 * confidence:g} % percentile interval of the mean difference by {resamples} '
        'resamples of the pictures, the same ones for all cells. What holds for other seeds and for other pictures lies on '
        'one side of 0 here and above.\n',
        f'| arm | − {baseline} | pairs |',
        '| --- | --- | ---: |',
    ]
    for item in intervals:
        ends = ', '.join(signed(value) for value in (item.lower, item.upper))
        rows.append(f'| {item.arm} | {signed(item.mean)} [{ends}] | {item.pairs} |')
    return '\n'.join(rows)
