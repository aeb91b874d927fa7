"""How well ids stay with their objects: HOTA, IDF1 and MOTA, computed by TrackEval."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections
from kd_perception.detection.overlap import iou
from kd_perception.errors import EvaluationError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """One frame: what is there and what was tracked, each with its ids, which mean nothing across the two.

    Attributes:
        truth: the objects; scores are ignored.
        truth_ids: int64 (N,), their ids.
        found: the detections that have an id.
        ids: int64 (M,), their ids.
    """

    truth: Detections
    truth_ids: Ids
    found: Detections
    ids: Ids


@dataclass(frozen=True)
class TrackingFigures:
    """Figures of one recording, shares from 0 to 1 unless said otherwise; boxes of different classes never match.

    Attributes:
        hota: higher order tracking accuracy, the mean over IoU 0.05 … 0.95 (Luiten et al., IJCV 2021).
        det_a: its part for detection.
        ass_a: its part for association.
        idf1: F1 of detections with the right id at IoU 0.5 (Ristani et al., 2016).
        mota: 1 − (misses + false alarms + id switches) ÷ objects at IoU 0.5; below 0 is possible (CLEAR MOT, 2008).
        id_switches: how often an object's id changed.
        fragments: how often a track was interrupted.
        objects: boxes of the truth.
        tracks: different objects of the truth.
    """

    hota: float
    det_a: float
    ass_a: float
    idf1: float
    mota: float
    id_switches: int
    fragments: int
    objects: int
    tracks: int

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


def tracking_figures(frames: Sequence[TrackedFrame]) -> TrackingFigures:
    """Judge the tracks of one recording; frames in the order of their stamps.

    Raises:
        EvaluationError: TrackEval is not installed.
    """
    CLEAR, HOTA, Identity = _trackeval()  # noqa: N806  classes
    data = _as_trackeval(frames)
    quiet = {'PRINT_CONFIG': False}
    hota = HOTA().eval_sequence(data)
    clear = CLEAR(quiet).eval_sequence(data)
    identity = Identity(quiet).eval_sequence(data)
    return TrackingFigures(
        hota=float(np.mean(hota['HOTA'])),
        det_a=float(np.mean(hota['DetA'])),
        ass_a=float(np.mean(hota['AssA'])),
        idf1=float(identity['IDF1']),
        mota=float(clear['MOTA']),
        id_switches=int(clear['IDSW']),
        fragments=int(clear['Frag']),
        objects=data['num_gt_dets'],
        tracks=data['num_gt_ids'],
    )


def is_available() -> bool:
    """Whether TrackEval is installed."""
    try:
        _trackeval()
    except EvaluationError:
        return False
    return True


def check_available() -> None:
    """Raise EvaluationError, which says what to install, where TrackEval is missing."""
    _trackeval()


def _trackeval() -> tuple[Any, Any, Any]:
    """Its metrics CLEAR, HOTA and Identity."""
    try:
        # It says on stdout which of the benchmarks' own packages are missing; none of them is needed here.
        with redirect_stdout(None):
            from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise EvaluationError(
            f'tracking figures need TrackEval and SciPy ({error}): pip install scipy && pip install --no-deps trackeval'
        ) from error
    return CLEAR, HOTA, Identity


def _as_trackeval(frames: Sequence[TrackedFrame]) -> dict[str, Any]:
    """TrackEval's form of a sequence: ids numbered from 0 without gaps, and a similarity matrix a frame."""
    truth_ids, there = _numbered([frame.truth_ids for frame in frames])
    found_ids, tracked = _numbered([frame.ids for frame in frames])
    return {
        'num_gt_dets': sum(map(len, truth_ids)),
        'num_tracker_dets': sum(map(len, found_ids)),
        'num_gt_ids': there,
        'num_tracker_ids': tracked,
        'num_timesteps': len(frames),
        'gt_ids': truth_ids,
        'tracker_ids': found_ids,
        'similarity_scores': [_similarity(frame) for frame in frames],
    }


def _numbered(ids: Sequence[Ids]) -> tuple[list[Ids], int]:
    known, numbers = np.unique(np.concatenate([*ids, np.zeros(0, np.int64)]), return_inverse=True)
    return np.split(numbers.astype(np.int64), np.cumsum([len(frame) for frame in ids])[:-1]), len(known)


def _similarity(frame: TrackedFrame) -> npt.NDArray[np.float64]:
    overlap = iou(frame.truth.boxes, frame.found.boxes)
    same: npt.NDArray[np.float64] = overlap * (frame.truth.class_ids[:, None] == frame.found.class_ids[None])
    return same
