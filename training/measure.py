"""Accuracy of a bundle on a data set, through the runtime's own path: the figures that a bundle states are made here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd_perception import engines
from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bundles.bundle import BUNDLE_FILE, FLOAT, Artifact, Bundle, write_bundle
from kd_perception.bundles.bundle_yaml import read
from kd_perception.detection.detections import Detections, FloatArray
from kd_perception.detection.detector import Detector
from kd_perception.detection.tiles import Tiling
from kd_perception.engines.options import EngineOptions
from kd_perception.metrics.accuracy import Accuracy, measure
from kd_perception.metrics.matching import Judged, judge
from kd_perception.metrics.operating_point import at_recall, calibration, operating_point, precision_recall_curve
from kd_perception.metrics.resampling import PairedDifference, paired_difference
from training.data.class_rules import ClassRules, reclassed
from training.data.dataset import LabeledImage, read_classes, read_split
from training.data.protocols import protocol_of
from training.data.yolo_layout import read_names, yaml_of
from training.errors import DataError
from training.steps import digest

LOWEST_SCORE = 0.001
"""Average precision asks for the whole curve, so nearly everything is detected."""
FIXED_RECALL = 0.9
"""Where precisions of networks are compared whose scores mean different things."""
MOST_NAMED = 5
"""Of a data set's classes that a bundle does not know, so many are named."""
LOWEST_CALIBRATED_SCORE = 0.05
"""Detections below are too many and too sure to be wrong for a calibration error that says anything."""


@dataclass(frozen=True)
class Behavior:
    """What average precision does not tell, all classes together.

    Attributes:
        false_alarms_per_image: wrong detections at the artifact's score threshold and IoU 0.5.
        precision_at_recall: precision at the threshold that finds 90 % of the objects; None where none does.
        calibration_error: D-ECE of detections from score 0.05 on, see `kd_perception.metrics.operating_point`.
    """

    false_alarms_per_image: float
    precision_at_recall: float | None
    calibration_error: float

    @classmethod
    def of(cls, judged: Judged, threshold: float, lowest: FloatArray | None = None) -> Behavior:
        """The behaviour at a score threshold; `lowest` (C,) are those of each class where they differ."""
        fixed = at_recall(judged, FIXED_RECALL)
        return cls(
            operating_point(judged, threshold, lowest).false_alarms_per_image,
            None if fixed is None else fixed.precision,
            calibration(judged, LOWEST_CALIBRATED_SCORE).error,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to four places."""
        return {
            'false_alarms_per_image': round(self.false_alarms_per_image, 4),
            f'precision_at_recall_{FIXED_RECALL:g}': None
            if self.precision_at_recall is None
            else round(self.precision_at_recall, 4),
            'calibration_error': round(self.calibration_error, 4),
        }

    def __str__(self) -> str:
        fixed = '–' if self.precision_at_recall is None else f'{100 * self.precision_at_recall:.1f} %'
        return (
            f'false alarms per image {self.false_alarms_per_image:.2f}, precision at recall {FIXED_RECALL:g} {fixed}, '
            f'calibration error {100 * self.calibration_error:.1f} %'
        )


@dataclass(frozen=True)
class FloatComparison:
    """What compression cost: an artifact against the float network that it was made from, on the same images.

    Attributes:
        sha256: of the float network's file.
        map: its mAP50-95.
        paired: mAP50-95 of the artifact minus that of the float network.
    """

    sha256: str
    map: float
    paired: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """As a bundle keeps it, rounded to four places."""
        return {
            'sha256': self.sha256,
            'map': round(self.map, 4),
            'difference': round(self.paired.difference, 4),
            'interval': [round(self.paired.low, 4), round(self.paired.high, 4)],
            'resamples': self.paired.resamples,
        }


@dataclass(frozen=True)
class Measurement:
    """Accuracy of an artifact, how it behaves where it is used, and what compression cost it where that was asked for.

    Attributes:
        curve: recall, precision and threshold, all classes together, at IoU 0.5.
    """

    accuracy: Accuracy
    behavior: Behavior
    compared: FloatComparison | None = None
    curve: tuple[tuple[float, float, float], ...] = ()

    def stated(self) -> dict[str, Any]:
        """The figures that a bundle states of an artifact."""
        compared = {} if self.compared is None else {'compared_with_float': self.compared.to_json()}
        return {**self.accuracy.to_json(), **compared}

    def __str__(self) -> str:
        lines = [str(self.accuracy), str(self.behavior)]
        if self.compared is not None:
            lines.append(
                f'against the float network, mAP50-95 {100 * self.compared.map:.1f} %: {self.compared.paired} points, by '
                f'{self.compared.paired.resamples} resamples of the images'
            )
        return '\n'.join(lines)


def measure_bundle(
    bundle: Bundle,
    precision: str,
    dataset: Path,
    split: str = 'val',
    *,
    engine: str = 'onnxruntime',
    threads: int = 1,
    tiling: Tiling | None = None,
) -> Accuracy:
    """The accuracy alone of `measure_artifact`."""
    artifact = bundle.artifact(engine, precision)
    return measure_artifact(bundle, artifact, dataset, split, threads=threads, tiling=tiling).accuracy


def measure_artifact(
    bundle: Bundle,
    artifact: Artifact,
    dataset: Path,
    split: str = 'val',
    *,
    threads: int = 1,
    tiling: Tiling | None = None,
    against: Bundle | None = None,
    protocol: str = 'coco',
) -> Measurement:
    """Detect on every image of the split, in tiles where a tiling is given, and compare with its labels.

    Precision and recall are those at the artifact's own score threshold. Where `against` is given, the artifact is compared with
    the fp32 artifact of that bundle too. The protocol is a name of `training.data.protocols`.

    Raises:
        BundleError, EngineError: the bundle has no such artifact, or it does not run.
        DataError: no such split, or no such protocol.
    """
    most = protocol_of(protocol).max_detections or bundle.output.max_detections
    how: Any = {'threads': threads, 'tiling': tiling, 'protocol': protocol}
    found, truth = detect_split(bundle, artifact, dataset, split, **how)
    thresholds = bundle.thresholds_of(artifact)
    threshold, lowest = thresholds.score, thresholds.scores_of(bundle.classes)
    accuracy = measure(found, truth, bundle.classes, score_threshold=threshold, lowest=lowest, max_detections=most)
    compared = None
    if against is not None:
        original = against.artifact('onnxruntime', FLOAT)
        reference, _ = detect_split(against, original, dataset, split, **how)
        paired = paired_difference(found, reference, truth, len(bundle.classes), max_detections=most)
        compared = FloatComparison(original.sha256, accuracy.map - paired.difference, paired)
    judged = judge(found, truth, len(bundle.classes))
    behavior = Behavior.of(judged, threshold, lowest)
    return Measurement(accuracy, behavior, compared, tuple(precision_recall_curve(judged)))


def float_bundle(bundle: Bundle, artifact: Artifact) -> Bundle | None:
    """What `measure_artifact` compares an artifact of `bundle` with; None for a float network, and where there is none."""
    has_float = any((a.engine, a.precision) == ('onnxruntime', FLOAT) for a in bundle.artifacts)
    return bundle if has_float and artifact.precision != FLOAT else None


def detect_split(
    bundle: Bundle,
    artifact: Artifact,
    dataset: Path,
    split: str,
    *,
    threads: int = 1,
    tiling: Tiling | None = None,
    protocol: str = 'coco',
) -> tuple[list[Detections], list[GroundTruth]]:
    """What an artifact detects on every image of a split, from score 0.001 on, and what is there.

    Args:
        threads: detectors at work side by side, each with one thread: what they find does not depend on their number.
        protocol: whose rules say what counts.

    Raises:
        BundleError, EngineError: the bundle has no such artifact, or it does not run.
        DataError: no such split, or it has classes that the bundle neither has nor covers.
    """
    thresholds = bundle.thresholds_of(artifact).down_to(LOWEST_SCORE)
    rules = protocol_of(protocol)
    local = threading.local()
    detectors: list[Detector] = []

    def detect(item: LabeledImage) -> Detections:
        if not hasattr(local, 'detector'):
            engine = engines.load(bundle, artifact, EngineOptions(threads=1))
            most = rules.max_detections or bundle.output.max_detections
            local.detector = Detector(bundle, engine, thresholds, max_detections=most, tiling=tiling)
            detectors.append(local.detector)
        found: Detections = local.detector.detect(item.image)[0]
        return found

    found: list[Detections] = []
    truth: list[GroundTruth] = []
    try:
        with ThreadPoolExecutor(threads) as pool:
            for item, detections in _in_order(pool, detect, in_classes_of(bundle, dataset, split), 2 * threads):
                height, width = item.image.shape[:2]
                counted, known = rules.seen(detections, item.truth(), width, height)
                found.append(counted)
                truth.append(known)
    finally:
        for detector in detectors:
            detector.close()
    return found, truth


def in_classes_of(
    bundle: Bundle, dataset: Path, split: str, files: Sequence[Path] | None = None
) -> Iterator[LabeledImage]:
    """The images of a split, or some of its files, with the bundle's class ids: by name, where the data set has names of its own.

    Raises:
        DataError: no such split, or it has classes that the bundle neither has nor covers.
    """
    items = read_split(dataset, split, files)
    names = _names_of(dataset) or bundle.classes
    if tuple(names) == tuple(bundle.classes):
        return items
    known = {name.casefold(): name for name in bundle.classes}
    targets = {name: known.get(name.casefold()) or bundle.class_map.get(name) for name in names}
    if unknown := [name for name, target in targets.items() if target is None]:
        more = f' and {len(unknown) - MOST_NAMED} more' if len(unknown) > MOST_NAMED else ''
        raise DataError(
            f'{dataset} has the classes {", ".join(unknown[:MOST_NAMED])}{more}, '
            f'which {bundle.name} neither has nor covers; it has '
            f'{", ".join(bundle.classes)}. python -m training prepare --class-map renames them'
        )
    rules = ClassRules(bundle.classes, {name.casefold(): str(target) for name, target in targets.items()})
    return reclassed(items, names, rules)


def _names_of(dataset: Path) -> tuple[str, ...]:
    """What a data set calls its classes, in our form or in Ultralytics'; empty where it does not say."""
    if (dataset / 'classes.txt').is_file():
        return read_classes(dataset)
    return () if yaml_of(dataset) is None else read_names(dataset)


def _in_order(
    pool: ThreadPoolExecutor,
    detect: Callable[[LabeledImage], Detections],
    items: Iterator[LabeledImage],
    most: int,
) -> Iterator[tuple[LabeledImage, Detections]]:
    """What each image shows, in order, of which so many are in work at a time: the others are not read yet."""
    waiting: deque[tuple[LabeledImage, Future[Detections]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(detect, item)))
        if len(waiting) >= most:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def write_measured(
    bundle: Bundle, artifact: Artifact, measured: Measurement, called: str, split: str, protocol: str = 'coco'
) -> None:
    """State in bundle.yaml what was measured of an artifact, with the command that measures it again.

    Args:
        called: the data set's name on the command line.
    """
    document = read(bundle.folder / BUNDLE_FILE).values
    command = f'python -m training measure models/{bundle.name} {called} --precision {artifact.precision}'
    command += '' if protocol == 'coco' else f' --protocol {protocol}'
    stated = {
        'dataset': f'{called}/{split}',
        **measured.stated(),
        'command': command if split == 'val' else f'{command} --split {split}',
    }
    for entry in document['artifacts']:
        if (entry['engine'], entry['precision']) == (artifact.engine, artifact.precision):
            entry['metrics'] = stated
    write_bundle(bundle.folder, document)


def with_file(bundle: Bundle, file: Path, precision: str, engine: str = 'onnxruntime') -> Bundle:
    """The bundle with another network in place of its artifacts: same classes, input and thresholds."""
    artifact = Artifact(engine, precision, file.name, digest(file))
    return replace(bundle, folder=file.parent, artifacts=(artifact,))
