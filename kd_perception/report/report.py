"""The report's figures: everything that `report.json` holds, computed from frame results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from kd_perception import __version__
from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import STAGES
from kd_perception.evaluation.results import BagFailure, BagResult
from kd_perception.machine import host
from kd_perception.metrics.accuracy import measure
from kd_perception.metrics.matching import Judged, judge
from kd_perception.metrics.operating_point import at_recall, calibration, operating_point, precision_recall_curve
from kd_perception.metrics.streaming import Fate, Stream, simulate
from kd_perception.report.tracking import tracking_section
from kd_perception.tracking.bytetrack import TrackerSettings

SCHEMA_VERSION = 1
FIXED_RECALL = 0.7
MEASURED_STAGES = ('decode', 'preprocess', 'infer', 'postprocess')
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Streaming:
    """How a real-time run is simulated.

    Attributes:
        rate: how many times faster than recorded the frames come.
        latencies_ms: latency of every frame of every bag, in order; None takes what was measured.
        source: where the latencies come from, for the report: `measured`, a file's name, or a figure.
    """

    rate: float
    latencies_ms: Sequence[float] | None = None
    source: str = 'measured'


def make_report(
    bundle: Bundle,
    artifact: Artifact,
    results: Sequence[BagResult],
    failures: Sequence[BagFailure] = (),
    streaming: Streaming | None = None,
    command: str = '',
    tracker: TrackerSettings | None = None,
) -> dict[str, Any]:
    """All figures of an evaluation, as plain JSON values (schema: docs/report.md).

    The same results give the same figures to the last digit; only `host` and the latencies tell of the machine.
    """
    report: dict[str, Any] = {
        'schema_version': SCHEMA_VERSION,
        'command': command,
        'mode': 'realtime' if streaming else 'every',
        'host': host.describe(),
        'versions': _versions(),
        'bundle': {
            'name': bundle.name,
            'engine': artifact.engine,
            'precision': artifact.precision,
            'sha256': artifact.sha256,
            'input': [bundle.input.width, bundle.input.height],
            'classes': list(bundle.classes),
            'thresholds': {**asdict(bundle.thresholds), 'class_scores': dict(bundle.thresholds.class_scores)},
            **(results[0].engine if results else {}),
        },
        'bags': [_bag_summary(result) for result in results],
        'failures': [{'bag': failure.name, 'reason': failure.reason} for failure in failures],
        'latency': latency_figures(results),
        'accuracy': None,
        'streaming': None,
        'tracking': None,
    }
    judgeable = [(f, r.truth[f.stamp_ns]) for r in results for f in r.frames if f.stamp_ns in r.truth]
    if judgeable:
        detections, truth = [f.detections for f, _ in judgeable], [there for _, there in judgeable]
        report['accuracy'] = accuracy_figures(detections, truth, bundle)
    if tracker:
        report['tracking'] = tracking_section(results, bundle, tracker)
    if streaming:
        report['streaming'] = streaming_figures(results, bundle, streaming)
    return report


def accuracy_figures(detections: Sequence[Detections], truth: Sequence[GroundTruth], bundle: Bundle) -> dict[str, Any]:
    """COCO accuracy, behavior at the bundle's threshold and at a fixed recall, calibration, and curves."""
    threshold, lowest = bundle.thresholds.score, bundle.thresholds.scores_of(bundle.classes)
    accuracy = measure(
        detections,
        truth,
        bundle.classes,
        score_threshold=threshold,
        lowest=lowest,
        max_detections=bundle.output.max_detections,
    )
    judged = judge(detections, truth, len(bundle.classes))
    fixed = at_recall(judged, FIXED_RECALL)
    return {
        'images': accuracy.images,
        'objects': int(judged.objects.sum()),
        'map50': accuracy.map50,
        'map': accuracy.map,
        'per_class': {
            name: {**asdict(entry), **_class_point(judged.of_class(index), float(lowest[index]))}
            for index, (name, entry) in enumerate(accuracy.per_class.items())
        },
        'per_size': accuracy.per_size,
        'at_threshold': asdict(operating_point(judged, threshold, lowest)),
        'at_recall': {'recall_wanted': FIXED_RECALL, **(asdict(fixed) if fixed else {})},
        'calibration': asdict(calibration(judged, threshold)),
        'curve': precision_recall_curve(judged),
    }


def _class_point(judged: Judged, threshold: float) -> dict[str, Any]:
    point = operating_point(judged, threshold)
    return {'precision': point.precision, 'recall': point.recall, 'curve': precision_recall_curve(judged)}


def latency_figures(results: Sequence[BagResult]) -> dict[str, Any]:
    """Percentiles per stage and of their sum in ms, a histogram of the sum, and frames per second."""
    frames = [frame for result in results for frame in result.frames if not frame.rejected]
    if not frames:
        return {'frames': 0}
    columns = {
        stage: np.array([getattr(f.times, stage) for f in frames]) for stage in STAGES if stage in MEASURED_STAGES
    }
    columns['total'] = np.sum(list(columns.values()), axis=0)
    total = columns['total']
    counts, edges = np.histogram(total, HISTOGRAM_BINS, range=(0, float(np.percentile(total, 99.5)) * 1.1 + 1e-6))
    return {
        'frames': len(frames),
        'stages_ms': {stage: _percentiles(values) for stage, values in columns.items()},
        'histogram': {'edges_ms': edges.tolist(), 'counts': counts.tolist()},
        'throughput_fps': 1e3 / max(float(total.mean()), 1e-6),
    }


def _percentiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        'p50': float(p50),
        'p95': float(p95),
        'p99': float(p99),
        'max': float(values.max()),
        'mean': float(values.mean()),
    }


def streaming_figures(results: Sequence[BagResult], bundle: Bundle, streaming: Streaming) -> dict[str, Any]:
    """Streaming AP: every instant with ground truth is scored against the newest result that was ready by then."""
    given = iter(streaming.latencies_ms) if streaming.latencies_ms is not None else None
    streams, detections, truth = [], [], []
    for result in results:
        frames = [frame for frame in result.frames if not frame.rejected]
        latencies = [next(given) if given is not None else total_ms(frame.times.as_dict()) for frame in frames]
        stream = simulate([f.stamp_ns / 1e9 for f in frames], [ms / 1e3 for ms in latencies], streaming.rate)
        streams.append((result.name, stream))
        for frame, index in zip(frames, stream.at_hand, strict=True):
            if frame.stamp_ns in result.truth:
                detections.append(Detections.empty() if index is None else frames[index].detections)
                truth.append(result.truth[frame.stamp_ns])
    figures: dict[str, Any] = {
        'rate': streaming.rate,
        'latency_source': streaming.source,
        **{fate.value: sum(stream.count(fate) for _, stream in streams) for fate in Fate},
        'timeline': [{'bag': name, 'frames': _timeline(stream)} for name, stream in streams],
    }
    if truth:
        scored = accuracy_figures(detections, truth, bundle)
        figures |= {'sap50': scored['map50'], 'sap': scored['map'], 'per_class': scored['per_class']}
    return figures


def total_ms(stages: dict[str, float]) -> float:
    """Time from the worker's taking a frame to its detections."""
    return sum(stages[stage] for stage in MEASURED_STAGES)


def _timeline(stream: Stream) -> list[list[Any]]:
    """Per frame: arrival in s, fate, and ms from arrival to the result, null where there is none."""
    return [
        [round(f.arrival, 6), f.fate.value, None if f.finish is None else round(1e3 * (f.finish - f.arrival), 3)]
        for f in stream.frames
    ]


def _bag_summary(result: BagResult) -> dict[str, Any]:
    stamps = [frame.stamp_ns for frame in result.frames]
    rejected = [frame.rejected for frame in result.frames if frame.rejected]
    return {
        'name': result.name,
        'sha256': result.sha256,
        'topic': result.topic,
        'frames': len(stamps),
        'undecodable': len(rejected),
        'first_rejection': rejected[0] if rejected else '',
        'with_ground_truth': sum(stamp in result.truth for stamp in stamps),
        'ground_truth_without_frame': result.unmatched_truth,
        'duration_s': (stamps[-1] - stamps[0]) / 1e9 if stamps else 0.0,
    }


def _versions() -> dict[str, str]:
    found = {'kd_perception': __version__, 'python': platform.python_version()}
    for package in ('numpy', 'opencv-python-headless', 'onnxruntime', 'rosbags', 'faster-coco-eval'):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
