"""What running a detector over a bag gives: frame by frame, as values that travel between processes and survive an interrupt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import StageTimes


@dataclass(frozen=True)
class FrameResult:
    """One frame of a bag.

    Attributes:
        stamp_ns: the frame's `key`: the image's stamp, or when it was recorded where nobody stamped it.
        detections: everything found, down to very low scores.
        times: decode, preprocess, infer and postprocess in ms; the others are 0.
        size: width and height of the image in pixels; 0 where it could not be decoded.
        rejected: why the frame could not be decoded; empty when it could.
    """

    stamp_ns: int
    detections: Detections
    times: StageTimes
    size: tuple[int, int] = (0, 0)
    rejected: str = ''


@dataclass(frozen=True)
class BagResult:
    """One bag.

    Attributes:
        name: as the report calls it.
        path: where it lies.
        sha256: over all its files.
        topic: of the images.
        frames: in the order of their stamps.
        truth: ground truth by the frames' stamps, clipped to the images; frames without are absent.
        engine: what really ran.
        unmatched_truth: ground truth for which the bag has no frame.
    """

    name: str
    path: Path
    sha256: str
    topic: str
    frames: tuple[FrameResult, ...]
    truth: dict[int, GroundTruth] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    unmatched_truth: int = 0


@dataclass(frozen=True)
class BagFailure:
    """A bag that could not be evaluated; the others go on."""

    name: str
    path: Path
    reason: str


class Journal:
    """Frame results in a file of JSON lines, so that an interrupted run goes on where it stopped.

    The first line says what was run; a journal of another bag, bundle or setting is started anew. A torn last line, from the
    moment of the interrupt, is dropped.
    """

    def __init__(self, path: Path, identity: dict[str, Any], resume: bool) -> None:
        self._path = path
        self.results: dict[int, FrameResult] = _read(path, identity) if resume else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix('.part')
        with scratch.open('w', encoding='utf-8') as stream:
            stream.write(json.dumps(identity, sort_keys=True) + '\n')
            stream.writelines(_to_line(result) for result in self.results.values())
        scratch.replace(path)
        self._stream = path.open('a', encoding='utf-8')
        self._writer = ThreadPoolExecutor(1, 'journal')
        self._written: list[Future[None]] = []

    def add(self, result: FrameResult) -> None:
        """Keep a frame's result; it is written while the next frames run.

        Raises:
            OSError: an earlier one could not be written, on a full disk say.
        """
        self.results[result.stamp_ns] = result
        self._written.append(self._writer.submit(self._write, result))
        while self._written and self._written[0].done():
            self._written.pop(0).result()

    def _write(self, result: FrameResult) -> None:
        self._stream.write(_to_line(result))
        self._stream.flush()

    def close(self) -> None:
        """Write what is still to be written and close the file."""
        self._writer.shutdown()
        self._stream.close()
        for written in self._written:
            written.result()


def _read(path: Path, identity: dict[str, Any]) -> dict[int, FrameResult]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
        if not lines or json.loads(lines[0]) != identity:
            return {}
    except (OSError, ValueError):
        return {}
    return {result.stamp_ns: result for result in _from_lines(lines[1:])}


def _from_lines(lines: Iterable[str]) -> Iterable[FrameResult]:
    for line in lines:
        try:
            row = json.loads(line)
            yield FrameResult(
                stamp_ns=row['stamp_ns'],
                detections=Detections(
                    np.array(row['boxes'], np.float32), np.array(row['scores'], np.float32), np.array(row['class_ids'])
                ),
                times=StageTimes(**row['times']),
                size=(row['size'][0], row['size'][1]),
                rejected=row['rejected'],
            )
        except (ValueError, KeyError, TypeError, IndexError):
            return


def _to_line(result: FrameResult) -> str:
    found = result.detections
    row = {
        'stamp_ns': result.stamp_ns,
        'boxes': found.boxes.tolist(),
        'scores': found.scores.tolist(),
        'class_ids': found.class_ids.tolist(),
        'times': result.times.as_dict(),
        'size': result.size,
        'rejected': result.rejected,
    }
    return json.dumps(row) + '\n'
