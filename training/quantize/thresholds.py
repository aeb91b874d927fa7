"""Operating thresholds by a rule, one for each artifact: what INT8 does to scores is taken back where they are cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_perception import engines
from kd_perception.bundles.bundle import BUNDLE_FILE, Artifact, Bundle, write_bundle
from kd_perception.bundles.bundle_yaml import read
from kd_perception.metrics.matching import Judged, judge
from kd_perception.metrics.operating_point import OperatingPoint, at_false_alarms, at_recall, operating_point
from training.errors import QuantizationError
from training.measure import detect_split

STEPS = 10_000
"""Thresholds are written in so many steps of 0 … 1, rounded to the side on which the rule still holds."""


@dataclass(frozen=True)
class Recall:
    """The highest threshold that finds a share of the objects, 0 … 1, at IoU 0.5 and all classes together."""

    share: float

    def __post_init__(self) -> None:
        """Raises QuantizationError for what is no share."""
        if not 0 < self.share <= 1:
            raise QuantizationError(f'a recall lies above 0 and is at most 1, not {self.share:g}')

    def threshold(self, judged: Judged) -> float:
        """See the class.

        Raises:
            QuantizationError: no threshold finds as many.
        """
        point = at_recall(judged, self.share)
        if point is None:
            most = operating_point(judged, 0.0).recall
            raise QuantizationError(
                f'no threshold finds {100 * self.share:.1f} % of the objects, all detections together {100 * most:.1f} %: '
                'ask for less'
            )
        return math.floor(point.threshold * STEPS) / STEPS


@dataclass(frozen=True)
class FalseAlarms:
    """The lowest threshold with at most so many wrong detections per image, at IoU 0.5 and all classes together."""

    per_image: float

    def __post_init__(self) -> None:
        """Raises QuantizationError for less than none."""
        if not 0 <= self.per_image < math.inf:
            raise QuantizationError(f'false alarms per image are 0 or more, not {self.per_image:g}')

    def threshold(self, judged: Judged) -> float:
        """See the class.

        Raises:
            QuantizationError: every threshold has more, or there are no detections.
        """
        point = at_false_alarms(judged, self.per_image)
        if point is None:
            raise QuantizationError(f'no threshold has as few as {self.per_image:g} false alarms per image: allow more')
        return math.ceil(point.threshold * STEPS) / STEPS


@dataclass(frozen=True)
class Match:
    """The threshold that finds as many as the artifact of another precision does at its own; that one stays."""

    precision: str


Rule = Recall | FalseAlarms | Match


@dataclass(frozen=True)
class Change:
    """An artifact's operating point as it was, and by the rule; the same where the rule leaves it."""

    artifact: Artifact
    before: OperatingPoint
    after: OperatingPoint


@dataclass(frozen=True)
class Chosen:
    """What a rule gave on a split.

    Attributes:
        changes: of every artifact that could be run here.
        left: the artifacts whose engine is not there; they keep their thresholds.
        images: number of images.
    """

    changes: tuple[Change, ...]
    left: tuple[Artifact, ...]
    images: int


def choose(bundle: Bundle, rule: Rule, dataset: Path, split: str, *, threads: int = 1) -> Chosen:
    """Detect with every artifact, through the runtime's path, and choose its threshold by the rule.

    Raises:
        BundleError: the bundle has no artifact of the precision that is to be matched.
        EngineError: an artifact does not run.
        DataError: no such split.
        QuantizationError: no threshold obeys the rule.
    """
    judged: list[tuple[Artifact, Judged]] = []
    left = []
    for artifact in bundle.artifacts:
        if engines.availability(artifact.engine):
            found, truth = detect_split(bundle, artifact, dataset, split, threads=threads)
            judged.append((artifact, judge(found, truth, len(bundle.classes))))
        else:
            left.append(artifact)
    changes = by_rule(bundle, rule, judged)
    return Chosen(tuple(changes), tuple(left), judged[0][1].images if judged else 0)


def by_rule(bundle: Bundle, rule: Rule, judged: Sequence[tuple[Artifact, Judged]]) -> list[Change]:
    """Every artifact's operating point before and after.

    Raises:
        BundleError, QuantizationError: see `choose`.
    """
    before = []
    for artifact, one in judged:
        own = bundle.thresholds_of(artifact)
        before.append(operating_point(one, own.score, own.scores_of(bundle.classes)))
    reference = None
    if isinstance(rule, Match):
        reference = next((k for k, (artifact, _) in enumerate(judged) if artifact.precision == rule.precision), None)
        if reference is None:
            has = ', '.join(artifact.precision for artifact, _ in judged)
            raise QuantizationError(f'{bundle.name} has no artifact {rule.precision} that runs here; it has {has}')
        rule = Recall(before[reference].recall)
    changes = []
    for number, (artifact, one) in enumerate(judged):
        try:
            after = before[number] if number == reference else operating_point(one, rule.threshold(one))
        except QuantizationError as error:
            raise QuantizationError(f'{bundle.name} {artifact.engine}/{artifact.precision}: {error}') from error
        changes.append(Change(artifact, before[number], after))
    return changes


def write(bundle: Bundle, rule: Rule, chosen: Chosen, measured_on: str, command: str) -> Bundle:
    """Put the thresholds into the bundle's file, each with its rule; others stay.

    Args:
        bundle: as it was loaded.
        rule: by which `chosen` was made.
        chosen: of `choose`.
        measured_on: data set and split, as a bundle's metrics name it. Figures of that split follow the threshold.
        command: that can be repeated.
    """
    document = read(bundle.folder / BUNDLE_FILE).values
    by_file = {(c.artifact.engine, c.artifact.precision, c.artifact.file): c for c in chosen.changes}
    for entry in document['artifacts']:
        change = by_file.get((entry['engine'], entry['precision'], entry['file']))
        if change is None or (change.after == change.before and isinstance(rule, Match)):
            continue
        after = change.after
        figures = {'precision': round(after.precision, 4), 'recall': round(after.recall, 4)}
        entry['thresholds'] = {
            **{key: value for key, value in entry.get('thresholds', {}).items() if key != 'class_scores'},
            'score': after.threshold,
            'rule': {
                **describe(rule),
                'dataset': measured_on,
                'images': chosen.images,
                **figures,
                'false_alarms_per_image': round(after.false_alarms_per_image, 4),
                'command': command,
            },
        }
        if entry.get('metrics', {}).get('dataset') == measured_on:
            entry['metrics'] |= {**figures, 'score_threshold': after.threshold}
    return write_bundle(bundle.folder, document)


def describe(rule: Rule) -> dict[str, Any]:
    """Kind and value, as a bundle records them."""
    if isinstance(rule, Recall):
        return {'kind': 'recall', 'value': rule.share}
    if isinstance(rule, FalseAlarms):
        return {'kind': 'false_alarms_per_image', 'value': rule.per_image}
    return {'kind': 'recall_of', 'value': rule.precision}


def table(changes: Sequence[Change]) -> str:
    """Before and after as a Markdown table."""
    lines = ['| artifact | threshold | precision | recall | false alarms per image |', '|---|---|---|---|---|']
    for change in changes:
        before, after = change.before, change.after
        lines.append(
            f'| {change.artifact.engine}/{change.artifact.precision} | {before.threshold:g} → {after.threshold:g} '
            f'| {100 * before.precision:.1f} → {100 * after.precision:.1f} % '
            f'| {100 * before.recall:.1f} → {100 * after.recall:.1f} % '
            f'| {before.false_alarms_per_image:.2f} → {after.false_alarms_per_image:.2f} |'
        )
    return '\n'.join(lines)
