"""One run of the demo, from top to bottom."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from tqdm import tqdm

from kd_perception.bags.ground_truth import Annotations
from kd_perception.bags.sources import FrameSource, open_source
from kd_perception.bags.video import Video
from kd_perception.bundles.bundle import Bundle, find_bundle, load_bundle
from kd_perception.demo.contact_sheet import ContactSheet
from kd_perception.demo.evaluation import evaluate_source, flight_class_map
from kd_perception.demo.joiner import Row
from kd_perception.demo.options import DEFAULT_FRAMES, DemoOptions
from kd_perception.demo.processes import Child, prepare_environment
from kd_perception.demo.recorder import Recorder
from kd_perception.demo.summary import (
    Summary,
    accuracy,
    count_tracks,
    frame_accounts,
    latency_percentiles,
    rate,
    tracking,
)
from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import draw, fit
from kd_perception.detection.image import BgrImage
from kd_perception.errors import KdPerceptionError
from kd_perception.ros import messages

NAMESPACE = '/kd_demo'
_START_LIMIT = 60.0  # seconds for the detector to load and warm up
_SILENCE_LIMIT = 20.0  # seconds without an image
_DRAIN_LIMIT = 15.0  # seconds for the last frames to come through
_DIAGNOSTICS_PERIOD = 0.2  # seconds
_MAX_SIDE = 1280  # pixels of the video


def run(options: DemoOptions) -> tuple[Summary, list[str]]:
    """Show a source to the detector node over DDS, then evaluate it as a bag; everything is left in `options.out`.

    Returns:
        What the node did, and the evaluation's headlines.

    Raises:
        KdPerceptionError: the source or the model cannot be read, or a process failed; says what.
    """
    fps = options.fps or 30.0
    source = open_source(
        options.source, topic=options.topic, seed=options.seed, width=options.width, height=options.height, fps=fps
    )
    model = find_bundle(options.model).resolve()
    bundle = load_bundle(model)
    frames = frames_to_show(options, source)
    options.out.mkdir(parents=True, exist_ok=True)
    prepare_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    with ExitStack() as stack:
        detector = stack.enter_context(_start_detector(options, model))
        camera = stack.enter_context(_start_camera(options, frames))
        recorder = stack.enter_context(Recorder(NAMESPACE))
        _wait_until(recorder.detector_is_ready, (detector, camera), 'the detector to start', _START_LIMIT)
        recorder.watch()
        pictures = stack.enter_context(Pictures(options.out, frames, options.fps or source.fps, recorder.classes))
        with tqdm(
            total=frames, unit=' frames', desc=source.name, mininterval=0.2 if sys.stderr.isatty() else 3.0
        ) as bar:
            _record(recorder, pictures, camera, detector, bar)
        summary = _summary(source.name, recorder, bundle, pictures.count)
    (options.out / 'summary.json').write_text(json.dumps(summary.to_json(), indent=2) + '\n')
    return summary, evaluate_source(options, source, model, frames)


class Pictures:
    """The annotated video and the contact sheet in the making."""

    def __init__(self, out: Path, frames: int, fps: float, classes: tuple[str, ...]) -> None:
        self._video = Video(out / 'annotated.mp4')
        self._sheet = ContactSheet(frames)
        self._sheet_path = out / 'contact_sheet.png'
        self._fps = fps
        self._classes = classes
        self._first: int | None = None
        self.count = 0

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()
        page = self._sheet.page()
        if page is not None:
            cv2.imwrite(str(self._sheet_path), page)

    def add(self, row: Row) -> None:
        """Draw one frame's detections and age into both."""
        assert row.detections is not None
        image, detections = _shrunk(messages.to_bgr(row.image, max_pixels=sys.maxsize), row.detections)
        text = 'age {age:.0f} ms  infer {infer:.0f} ms'.format(**row.latency) if row.latency else ''
        draw(image, detections, self._classes, header=text)
        self._first = row.stamp if self._first is None else self._first
        seconds = (row.stamp - self._first) * 1e-9
        self._video.add(image, seconds)
        self.count += 1
        frame = int(seconds * self._fps)
        if self._sheet.wants(frame):
            self._sheet.add(frame, image)


def frames_to_show(options: DemoOptions, source: FrameSource) -> int:
    """How many frames a run has: what the options ask for, as far as the source reaches."""
    wanted = options.frames or round(options.duration * (options.fps or source.fps))
    return min(wanted or source.count or DEFAULT_FRAMES, source.count or sys.maxsize)


def _shrunk(image: BgrImage, detections: Detections) -> tuple[BgrImage, Detections]:
    """A copy of at most _MAX_SIDE pixels a side with its detections, so that boxes and text keep a readable size."""
    scale = min(1.0, _MAX_SIDE / max(image.shape[:2]))
    if scale == 1.0:
        return image.copy(), detections
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return fit(image, size), replace(detections, boxes=detections.boxes * np.float32(scale))


def _start_detector(options: DemoOptions, model: Path) -> Child:
    parameters = {
        'model': str(model),
        'precision': options.precision,
        'threads': options.threads,
        'tracker': options.tracker,
        'autostart': True,
        'diagnostics_period_s': _DIAGNOSTICS_PERIOD,
    }
    rules = [f'__ns:={NAMESPACE}']
    return Child('kd_perception.ros.start_detector', parameters, rules, options.out / 'detector.log')


def _start_camera(options: DemoOptions, frames: int) -> Child:
    parameters = {
        'source': str(Path(options.source).expanduser().resolve()) if options.source else '',
        'source_topic': options.topic,
        'fps': options.fps,
        'width': options.width,
        'height': options.height,
        'seed': options.seed,
        'frames': frames,
        'loop': False,
        'wait_for_subscribers': 2,  # the detector and the recorder
    }
    rules = [f'__ns:={NAMESPACE}']
    return Child('kd_perception.ros.scene_camera', parameters, rules, options.out / 'camera.log')


def _wait_until(condition: Callable[[], bool], children: tuple[Child, ...], what: str, limit: float) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        for child in children:
            child.check_alive()
        if time.monotonic() > deadline:
            raise KdPerceptionError(f'waited {limit:g} s in vain for {what}')
        time.sleep(0.02)


def _record(recorder: Recorder, pictures: Pictures, camera: Child, detector: Child, bar: tqdm[NoReturn]) -> None:
    """Draw what comes in until the camera has ended and the detector has answered for every frame."""
    # Drawing and encoding wait when the camera and the detector need the cores; the recorder's thread is as it was.
    os.nice(10)
    heard, ended = time.monotonic(), None
    while True:
        _draw_next(recorder, pictures)
        now, seen = time.monotonic(), len(recorder.image_stamps)
        if seen > bar.n:
            heard = now
            bar.update(seen - bar.n)
        detector.check_alive()
        if ended is None and camera.finished():
            ended = now
        if ended is not None and (_is_settled(recorder, ended) or now > ended + _DRAIN_LIMIT):
            break
        if ended is None and now > heard + _SILENCE_LIMIT:
            raise KdPerceptionError(f'no image for {_SILENCE_LIMIT:g} s, and the camera still runs')
    for row in recorder.rest():
        pictures.add(row)


def _draw_next(recorder: Recorder, pictures: Pictures) -> None:
    """Draw the next frame if one comes soon."""
    with suppress(queue.Empty):
        pictures.add(recorder.rows.get(timeout=0.05))


def _is_settled(recorder: Recorder, ended: float) -> bool:
    """Whether diagnostics made after the camera's end say that no frame is pending."""
    fresh = recorder.diagnosed > ended + 2 * _DIAGNOSTICS_PERIOD
    return fresh and recorder.statuses.get('input', {}).get('pending') == '0' and recorder.rows.empty()


def _summary(name: str, recorder: Recorder, bundle: Bundle, recorded: int) -> Summary:
    model = recorder.statuses.get('model', {})
    truth = Annotations(name, recorder.truth).for_classes(bundle.classes, flight_class_map(bundle))
    map50, by_class = accuracy(recorder.detections, truth, bundle.classes, recorder.threshold)
    is_tracked = any(found.track_ids is not None for found in recorder.detections.values())
    return Summary(
        source=name,
        bundle=model.get('bundle', ''),
        engine=f'{model.get("engine")} {model.get("provider")}, {model.get("threads")} threads',
        precision=model.get('precision', ''),
        frames=frame_accounts(recorder.statuses.get('input', {}), recorded),
        latency_ms=latency_percentiles(recorder.latencies),
        fps_in=rate([stamp * 1e-9 for stamp in recorder.image_stamps]),
        fps_out=rate(recorder.detection_times),
        score_threshold=round(recorder.threshold, 4),
        map50=map50,
        map50_by_class=by_class,
        tracks=count_tracks(recorder.detections.values()) if is_tracked else None,
        tracking=tracking(recorder.detections, truth) if is_tracked else None,
    )
