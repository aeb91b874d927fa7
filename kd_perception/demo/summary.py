"""What the demo measured: as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import STAGES
from kd_perception.metrics.accuracy import measure
from kd_perception.metrics.tracking import is_available, tracking_figures
from kd_perception.report.tracking import judged_frame


@dataclass(frozen=True)
class Summary:
    """The run in figures.

    Attributes:
        source: what was shown.
        bundle: name of the model bundle.
        engine: and its provider and threads.
        precision: of the artifact that ran.
        frames: received, published, dropped by cause, lost_by_middleware, and recorded (pictures in the video).
        latency_ms: p50, p95 and p99 by stage.
        fps_in: frames per second that the camera sent.
        fps_out: frames per second that came out of the detector.
        score_threshold: from which the detector published.
        map50: against the scene's boxes, over what was published; None without ground truth.
        map50_by_class: the same by class, for the classes that occur.
        tracks: how many objects were given an id; None without a tracker.
        tracking: HOTA, IDF1, MOTA and more against the scene's own ids; None without ground truth.
    """

    source: str
    bundle: str
    engine: str
    precision: str
    frames: dict[str, Any]
    latency_ms: dict[str, dict[str, float]]
    fps_in: float
    fps_out: float
    score_threshold: float
    map50: float | None
    map50_by_class: dict[str, float]
    tracks: int | None = None
    tracking: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        dropped = ', '.join(f'{count} {cause}' for cause, count in self.frames['dropped'].items() if count) or 'none'
        lost = self.frames['lost_by_middleware']
        rows = [
            ('source', self.source),
            ('model', f'{self.bundle} {self.precision}'),
            ('engine', self.engine),
            ('frames', f'{self.frames["received"]} received, {self.frames["published"]} published'),
            ('dropped', f'{dropped}{f"; {lost} lost by the middleware" if lost else ""}'),
            ('frames/s', f'{self.fps_in:.1f} in, {self.fps_out:.1f} out'),
            ('mAP50', _map_text(self)),
            *([('tracks', _tracks_text(self))] if self.tracks is not None else []),
        ]
        lines = [f'  {name:<9} {text}' for name, text in rows]
        lines += ['', f'  {"ms":<13}{"p50":>9}{"p95":>9}{"p99":>9}']
        lines += [
            f'  {stage:<13}{p["p50"]:>9.2f}{p["p95"]:>9.2f}{p["p99"]:>9.2f}' for stage, p in self.latency_ms.items()
        ]
        return '\n'.join(lines)


def latency_percentiles(latencies: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 of every stage, in milliseconds; empty without frames."""
    if not latencies:
        return {}
    figures = {}
    for stage in STAGES:
        percentiles = np.percentile([latency[stage] for latency in latencies], (50, 95, 99))
        figures[stage] = {
            name: round(float(value), 3) for name, value in zip(('p50', 'p95', 'p99'), percentiles, strict=True)
        }
    return figures


def frame_accounts(status: Mapping[str, str], recorded: int) -> dict[str, Any]:
    """The frame accounts of the detector's `input` diagnostics."""
    return {
        'received': int(status.get('received', 0)),
        'published': int(status.get('published', 0)),
        'dropped': {key[len('dropped.') :]: int(value) for key, value in status.items() if key.startswith('dropped.')},
        'lost_by_middleware': int(status.get('lost_by_middleware', 0)),
        'recorded': recorded,
    }


def rate(times: Sequence[float]) -> float:
    """Events per second of increasing times in seconds; 0 with fewer than two."""
    return round((len(times) - 1) / (times[-1] - times[0]), 2) if len(times) > 1 and times[-1] > times[0] else 0.0


def accuracy(
    detections: Mapping[int, Detections], truth: Mapping[int, GroundTruth], names: Sequence[str], threshold: float
) -> tuple[float | None, dict[str, float]]:
    """mAP50 over the frames that have both, in all and by class; None where there was nothing to be found.

    Args:
        detections: by stamp.
        truth: by stamp, in the detector's classes.
        names: the detector's classes.
        threshold: score from which the detector publishes.
    """
    stamps = sorted(detections.keys() & truth.keys())
    found, there = [detections[stamp] for stamp in stamps], [truth[stamp] for stamp in stamps]
    if not any(len(entry.objects) for entry in there):
        return None, {}
    result = measure(found, there, names, score_threshold=threshold)
    by_class = {name: round(entry.map50, 4) for name, entry in result.per_class.items() if entry.map50 is not None}
    return round(result.map50, 4), by_class


def count_tracks(detections: Iterable[Detections]) -> int:
    """How many different ids were published."""
    return len(
        {track for found in detections if found.track_ids is not None for track in found.track_ids.tolist()} - {0}
    )


def tracking(detections: Mapping[int, Detections], truth: Mapping[int, GroundTruth]) -> dict[str, Any] | None:
    """The ids that were published against those of the ground truth, see `accuracy`; None where either has none.

    None, too, where TrackEval is not installed.
    """
    if not is_available():
        return None
    frames = [judged_frame(truth[stamp], detections[stamp]) for stamp in sorted(detections.keys() & truth.keys())]
    if not any(len(frame.truth_ids) for frame in frames) or not any(len(frame.ids) for frame in frames):
        return None
    return {name: round(value, 4) for name, value in tracking_figures(frames).to_json().items()}


def _map_text(summary: Summary) -> str:
    if summary.map50 is None:
        return 'no ground truth'
    classes = ', '.join(f'{name} {100 * value:.0f}' for name, value in summary.map50_by_class.items())
    return f'{100 * summary.map50:.1f} % at score {summary.score_threshold:g} and above ({classes})'


def _tracks_text(summary: Summary) -> str:
    text = f'{summary.tracks} ids'
    if summary.tracking is None:
        return text
    figures = ', '.join(f'{name.upper()} {100 * summary.tracking[name]:.1f} %' for name in ('hota', 'idf1', 'mota'))
    return f'{text} for {summary.tracking["tracks"]} objects; {figures}, {summary.tracking["id_switches"]} switches'
