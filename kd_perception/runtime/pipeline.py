"""The pipeline: the newest frames, one after the other, through decode → detect → publish, under a watchdog's eyes."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.errors import EngineError, ImageError
from kd_perception.runtime.frame import Frame, FrameOptions
from kd_perception.runtime.latest_frame_queue import LatestFrameQueue
from kd_perception.runtime.live_model import LiveModel
from kd_perception.runtime.load_shedding import LoadShedding
from kd_perception.runtime.model import Model
from kd_perception.runtime.rate_limit import RateLimit
from kd_perception.runtime.tracking import Tracking


class Pipeline:
    """A queue, a worker's thread, and what they do with a frame. Every frame that is submitted is counted once.

    Attributes:
        is_enabled: frames are dropped as disabled while it is not.
        is_running: whether it was started, and not stopped since.
    """

    def __init__(
        self,
        live: LiveModel,
        shedding: LoadShedding,
        sources: int,
        options: Callable[[], FrameOptions],
        max_rate_hz: Callable[[], float],
        fault: Callable[[str], None],
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """See the class.

        Args:
            live: lends the model.
            shedding: says which frames are skipped.
            sources: how many there are.
            options: asked at every frame.
            max_rate_hz: most frames of a source in a second, asked at every frame that comes; 0 takes all.
            fault: takes a line, or a traceback, about a frame that failed by our own fault.
            is_ending: whether publishing fails because the process ends; such frames are disabled, not failed.
        """
        self._live = live
        self._shedding = shedding
        self._sources = sources
        self._options = options
        self._max_rate_hz = max_rate_hz
        self._rate_limits = [RateLimit() for _ in range(sources)]
        self._tracking = Tracking(sources)
        self._fault = fault
        self._is_ending = is_ending
        self._queue: LatestFrameQueue[Frame] = LatestFrameQueue(sources)
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._in_work: Frame | None = None
        self.is_enabled = True
        self.is_running = False

    def start(self) -> None:
        """Take frames from now on."""
        self._queue = LatestFrameQueue(self._sources)
        self._tracking = Tracking(self._sources)
        self.is_running = True
        self._start_worker()

    def submit(self, frame: Frame) -> None:
        """Leave a frame; its source's last one, if it still waits, is superseded."""
        counters = frame.source.counters
        if not self.is_enabled or not self.is_running or self._live.is_halted:
            counters.drop('disabled')
        elif self._is_too_many(frame) or self._shedding.skips(frame.source.slot):
            counters.drop('skipped')
        else:
            superseded = self._queue.put(frame, frame.source.slot)
            if superseded is not None:
                superseded.source.counters.drop('superseded')

    def _is_too_many(self, frame: Frame) -> bool:
        return self._rate_limits[frame.source.slot].exceeds(self._max_rate_hz(), frame.received)

    def stop(self, patience_s: float, *, ending: bool = False) -> None:
        """Take no more frames, and finish the one in work; if it is not through in time, it is given up with its engine.

        Args:
            patience_s: how long that may take.
            ending: the process ends and cannot wait until a slow engine can be distinguished from one that hangs.
        """
        worker, self.is_running = self._worker, False
        if worker is None:
            return
        self._drop_waiting(self._queue.close())
        worker.join(patience_s)
        frame = self._in_work if worker.is_alive() else None
        if frame is not None and self._abandon_worker(frame, undecoded=True):
            frame.source.counters.drop('disabled' if ending else 'undecodable')
        elif frame is not None and self._abandon_worker(frame):
            frame.source.counters.drop('disabled' if ending else 'failed')
            self._live.abandon_engine('' if ending else _hangs(patience_s))
        self._worker = None

    def watch(self, limit_s: float) -> None:
        """Look whether a frame is stuck. To be called several times within `limit_s`.

        An engine that has had one batch for longer is abandoned, and frames are dropped until another model is installed.
        A picture that takes longer to decode is undecodable, and the next frame is served.
        """
        frame = self._in_work
        if frame is None:
            return
        decoding, model = frame.decoding_since, self._live.model
        if decoding is not None and time.monotonic() - decoding > limit_s:
            if self._abandon_worker(frame, undecoded=True):
                frame.source.counters.drop('undecodable')
                frame.source.rejects(f'the picture took longer than {limit_s:g} s to decode (watchdog_s)')
                self._start_worker()
        elif model is not None and _seconds_in_engine(model) > limit_s and self._abandon_worker(frame):
            frame.source.counters.drop('failed')
            self._live.abandon_engine(_hangs(limit_s))
            while (waiting := self._queue.poll()) is not None:
                self._drop_waiting([waiting])
            self._start_worker()

    def _abandon_worker(self, frame: Frame, *, undecoded: bool = False) -> bool:
        """Take the frame from the worker, whose thread ends with it, whenever that is; False when the frame ended just now."""
        with self._lock:
            if self._in_work is not frame or not frame.claim(undecoded=undecoded):
                return False
            self._worker = self._in_work = None
            return True

    def _start_worker(self) -> None:
        with self._lock:
            self._worker = threading.Thread(target=self._run, name='detector_worker', daemon=True)
            self._worker.start()

    def _drop_waiting(self, frames: list[Frame]) -> None:
        for frame in frames:
            frame.source.counters.drop('disabled')

    # The worker's thread

    def _run(self) -> None:
        queue = self._queue
        while self._is_worker(None) and (frame := queue.take()) is not None:
            if self._is_worker(frame):
                self._process(frame)

    def _is_worker(self, frame: Frame | None) -> bool:
        """Whether this thread still is the worker; if so, `frame` is what it works on."""
        with self._lock:
            if self._worker is not threading.current_thread():
                return False
            self._in_work = frame
            return True

    def _process(self, frame: Frame) -> None:
        """One frame from the queue to its one count, whatever happens on the way."""
        try:
            self._take_through(frame)
        except ImageError as error:
            if self._drop(frame, 'undecodable'):
                frame.source.rejects(str(error))
        except Exception:
            if not self._is_ending():
                self._fault(f'frame failed:\n{traceback.format_exc()}')
            self._drop(frame, self._cause_of_fault())

    def _take_through(self, frame: Frame) -> None:
        """Decode, detect, publish, count."""
        source, message, options = frame.source, frame.message, self._options()
        started = time.monotonic()
        if options.max_age_ms and source.age_ms(message) > options.max_age_ms:
            self._drop(frame, 'stale')
            return
        frame.decoding_since = started
        image = source.decode(message)
        frame.decoding_since = None
        decoded = time.monotonic()
        with self._live.lend() as model:
            if model is None:
                self._drop(frame, 'disabled')
                return
            if not frame.enter_engine():
                return
            source.rejects('')
            found = self._detect(frame, model, image, options)
            if found is None:
                return
            detections, times = found
            times.transport = frame.transport_ms
            times.queue = 1e3 * (started - frame.received)
            times.decode = 1e3 * (decoded - started)
            classes = model.bundle.classes
            detections = self._refine(frame, model, image, detections, times, options)
            if not frame.claim():
                return
            self._publish(frame, detections, times, classes)
        try:
            source.publish_extras(message, image, detections, times, classes)
        except Exception as error:
            if not self._is_ending():
                self._fault(f'frame latency or overlays not published: {error}')

    def _detect(
        self, frame: Frame, model: Model, image: BgrImage, options: FrameOptions
    ) -> tuple[Detections, StageTimes] | None:
        model.detector.thresholds = options.detector_thresholds(model.bundle.thresholds)
        model.detector.max_detections = options.max_detections
        try:
            return self._live.detect(model, image)
        except EngineError as error:
            if self._drop(frame, 'failed'):
                self._live.engine_failed(model, error)
            return None

    def _refine(
        self,
        frame: Frame,
        model: Model,
        image: BgrImage,
        detections: Detections,
        times: StageTimes,
        options: FrameOptions,
    ) -> Detections:
        """Give the detections the ids of their objects, where that is asked for, and keep those that are to be published."""
        started = time.monotonic()
        source, bundle = frame.source, model.bundle
        if options.tracker is not None:
            seconds = source.seconds(frame.message) or frame.received
            detections = self._tracking.update(source.slot, model, detections, seconds, options.tracker)
        size = (image.shape[1], image.shape[0])
        reported = options.thresholds(bundle.thresholds).reported(detections, bundle.classes)
        if options.tracker is not None:
            reported = options.tracker.published(detections, reported)
        kept = detections.select(reported & options.boxes.wanted(detections, bundle.classes, size))
        times.track = 1e3 * (time.monotonic() - started)
        return kept

    def _publish(self, frame: Frame, detections: Detections, times: StageTimes, classes: tuple[str, ...]) -> None:
        started = time.monotonic()
        try:
            frame.source.publish(frame.message, detections, classes)
        except Exception:
            frame.source.counters.drop(self._cause_of_fault())
            raise
        done = time.monotonic()
        times.publish = 1e3 * (done - started)
        # Without a stamp the age counts from our callback; the stages behind it are known all the same.
        times.age = times.transport + 1e3 * (done - frame.received)
        frame.source.counters.publish()
        frame.source.published(times, done)
        self._shedding.add(done, times.age)

    def _drop(self, frame: Frame, cause: str) -> bool:
        """Enter the frame's end, unless the watchdog has done so."""
        if not frame.claim():
            return False
        frame.source.counters.drop(cause)
        return True

    def _cause_of_fault(self) -> str:
        return 'disabled' if self._is_ending() else 'failed'


def _seconds_in_engine(model: Model) -> float:
    since = model.detector.engine_since
    return 0.0 if since is None else time.perf_counter() - since


def _hangs(seconds: float) -> str:
    return f'hangs: a frame has had no answer for {seconds:g} s. Call ~/reload_model to build a new one'
