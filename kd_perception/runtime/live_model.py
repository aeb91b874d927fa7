"""The live model: one owner, which builds models by numbered requests, exchanges them between frames and answers for failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.engines.out_of_memory import ran_out_of_memory
from kd_perception.errors import DeviceMemoryError, EngineError, KdPerceptionError
from kd_perception.runtime.model import Model, ModelSettings, load, load_on_cpu
from kd_perception.selection.selection import Selection

Build = Callable[[ModelSettings, Callable[[str], None], tuple[Selection, ...]], Model]
"""Settings, a taker of lines about what takes long, the fallbacks that are known → a warm model."""


class Log(Protocol):
    """Where lines go; a ROS logger is one."""

    def info(self, message: str) -> Any:
        """What goes on."""
        ...

    def warning(self, message: str) -> Any:
        """What is not as it was asked for."""
        ...

    def error(self, message: str) -> Any:
        """What failed."""
        ...


class RequestState(Enum):
    """requested → building → ready → installed; failed from any of the first three."""

    REQUESTED = 'requested'
    BUILDING = 'building'
    READY = 'ready'
    INSTALLED = 'installed'
    FAILED = 'failed'


class Request:
    """One request for a model. Only its owner changes it.

    Attributes:
        number: 1, 2, …, in the order in which they were made.
        settings: what was asked for.
        fallback_from: the failure of a device because of which the model is to run on the CPU; empty otherwise.
        state: how far it is.
        answer: one sentence on how it ended; empty before.
    """

    def __init__(self, number: int, settings: ModelSettings, fallback_from: str = '') -> None:
        self.number = number
        self.settings = settings
        self.fallback_from = fallback_from
        self.state = RequestState.REQUESTED
        self.answer = ''
        self._ended = threading.Event()

    @property
    def has_ended(self) -> bool:
        """Whether it is installed or has failed."""
        return self._ended.is_set()

    @property
    def is_installed(self) -> bool:
        """Whether its model was installed."""
        return self.state is RequestState.INSTALLED

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; False when that did not come in `timeout` seconds."""
        return self._ended.wait(timeout)

    def end(self, state: RequestState, answer: str) -> None:
        """For the owner: enter how it ended."""
        self.state, self.answer = state, f'request {self.number}: {answer}'
        self._ended.set()


class LiveModel:
    """Owns the model that runs, the one that is built, and the one that waits for the end of a frame.

    The newest request counts: an older one that has not ended fails by it. Models are built one at a time, in a thread.
    A model is closed by its successor's arrival or by `close`, never while a frame is in it.

    Attributes:
        version: how many models have been installed.
        failure: what went wrong for good, in words; empty while all is well.
        is_halted: whether frames are dropped because of it.
        reload_failure: why the newest request left the old model running; empty when it did not.
        engine_errors: how often an engine failed in a frame.
    """

    def __init__(
        self,
        log: Log,
        announce: Callable[[Model, int], None],
        changed: Callable[[], None],
        build: Build = load,
        build_on_cpu: Callable[[ModelSettings, Callable[[str], None]], Model] = load_on_cpu,
    ) -> None:
        """See the class.

        Args:
            log: takes what becomes of models.
            announce: called with every installed model and its version, between the frames of the old and of the new one.
            changed: called, in whichever thread, after a request has ended.
            build: makes a model of settings.
            build_on_cpu: the same where a device has failed.
        """
        self._log = log
        self._announce = announce
        self._changed = changed
        self._build = build
        self._build_on_cpu = build_on_cpu
        self._lock = threading.RLock()
        self._requests = 0
        self._newest: Request | None = None
        self._installed: Request | None = None
        self._model: Model | None = None
        self._successor: tuple[Request, Model] | None = None
        self._frame: object | None = None
        self._builder: threading.Thread | None = None
        self._building_since: float | None = None
        self.version = 0
        self.failure = ''
        self.is_halted = False
        self.reload_failure = ''
        self.engine_errors = 0

    # What is asked for and what runs

    @property
    def model(self) -> Model | None:
        """The model that the next frame is given."""
        return self._model

    @property
    def requested_settings(self) -> ModelSettings | None:
        """Those of the newest request, or, if that failed, of the model that goes on. None while no model is asked for."""
        with self._lock:
            newest = self._newest
            if newest is not None and newest.state is RequestState.FAILED and self._installed is not None:
                newest = self._installed
            return newest.settings if newest else None

    @property
    def is_pending(self) -> bool:
        """Whether a model is on its way."""
        newest = self._newest
        return newest is not None and not newest.has_ended

    @property
    def fallbacks(self) -> tuple[Selection, ...]:
        """The quicker networks that the model that runs can be replaced by."""
        model = self._model
        return model.fallbacks if model else ()

    def building_s(self) -> float:
        """Seconds for which a model has been built; 0 when none is."""
        since = self._building_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def failed(self) -> Request | None:
        """The newest request if it has failed. A failure that a newer request has overtaken is nobody's business."""
        newest = self._newest
        return newest if newest is not None and newest.state is RequestState.FAILED else None

    # Requests

    def request(self, settings: ModelSettings, fallback_from: str = '') -> Request:
        """Ask for a model, which is built and warmed up beside the one that runs."""
        with self._lock:
            self._requests += 1
            request = Request(self._requests, settings, fallback_from)
            leftover = self._end_pending(f'request {request.number} took its place')
            self._newest = request
            if self._builder is None:
                self._builder = threading.Thread(target=self._build_newest, name='model_builder', daemon=True)
                self._builder.start()
        _close(leftover)
        self._changed()
        return request

    def close(self) -> None:
        """Free the model; one that is being built is freed when it is done. No frame may be in work."""
        with self._lock:
            leftover = self._end_pending('the node was cleaned up meanwhile')
            model, self._model = self._model, None
            self._newest = self._installed = None
            self.is_halted = False
            self.failure = self.reload_failure = ''
        _close(leftover)
        _close(model)
        self._changed()

    def _end_pending(self, reason: str) -> Model | None:
        """Fail the newest request if it is still open; returns its model where that waited for a frame's end."""
        newest, successor = self._newest, self._successor
        self._successor = None
        if newest is not None and not newest.has_ended:
            newest.end(RequestState.FAILED, reason)
        return successor[1] if successor else None

    # The builder's thread

    def _build_newest(self) -> None:
        while (request := self._next()) is not None:
            try:
                model = self._make(request)
            except KdPerceptionError as error:
                self._fail(request, str(error))
            except Exception as error:  # a library's own fault must not end the thread without a word
                self._fail(request, f'the model cannot be built: {error!r}')
            else:
                self._ready(request, model)
            self._changed()

    def _next(self) -> Request | None:
        with self._lock:
            request = self._newest
            if request is None or request.state is not RequestState.REQUESTED:
                self._builder = self._building_since = None
                return None
            request.state = RequestState.BUILDING
            self._building_since = time.monotonic()
            return request

    def _make(self, request: Request) -> Model:
        if request.fallback_from:
            return self._build_on_cpu(request.settings, self._log.info)
        return self._build(request.settings, self._log.info, self.fallbacks)

    def _ready(self, request: Request, model: Model) -> None:
        with self._lock:
            in_time = request.state is RequestState.BUILDING
            leaving: Model | None = model
            if in_time:
                request.state = RequestState.READY
                self._successor = (request, model)
                leaving = self._install()
        _close(leaving)

    def _fail(self, request: Request, reason: str) -> None:
        with self._lock:
            if request.state is not RequestState.BUILDING:
                return  # a newer one took its place
            model = self._model
            if request.fallback_from:
                reason = f'{request.fallback_from}; the CPU fallback failed as well: {reason}'
                self._halt(f'disabled after: {reason}. Call ~/enable with true to try again')
            elif self._installed is None:
                self.failure = reason
            else:
                goes_on = f'{model.bundle.name} {model.info.precision} goes on' if model else 'no model runs'
                reason = self.reload_failure = f'reload failed, {goes_on}: {reason}'
                self._log.error(f'request {request.number}: {reason}')
            request.end(RequestState.FAILED, reason)

    def _install(self) -> Model | None:
        """Under the lock: install the successor unless a frame is in work. Returns the model that has to be closed."""
        if self._successor is None or self._frame is not None:
            return None
        leaving, (request, model) = self._model, self._successor
        self._successor = None
        self._model, self._installed = model, request
        self.version += 1
        self.failure = f'running on the CPU after: {request.fallback_from}' if request.fallback_from else ''
        self.reload_failure = ''
        self.is_halted = False
        try:
            self._announce(model, self.version)
        except Exception as error:  # such as a publisher at the node's end; the model is installed all the same
            self._log.error(f'model {self.version} could not be announced: {error}')
        self._log.info(f'model {self.version}: {model.describe()}\n{model.selection.table()}')
        if self.failure:
            self._log.error(self.failure)
        for warning in model.warnings():
            self._log.warning(warning)
        request.end(RequestState.INSTALLED, model.describe())
        return leaving

    # Frames, by the worker's thread

    @contextmanager
    def lend(self) -> Iterator[Model | None]:
        """The model for one frame; it stays open, and what succeeds it waits, until the frame is left."""
        with self._lock:
            ticket = self._frame = object()
            model = self._model
        try:
            yield model
        finally:
            self._give_back(ticket)

    def _give_back(self, ticket: object) -> None:
        with self._lock:
            if self._frame is not ticket:
                return  # abandoned meanwhile
            self._frame = None
            has_successor = self._successor is not None
            leaving = self._install()
        if has_successor:
            _close(leaving)
            self._changed()

    def detect(self, model: Model, image: BgrImage) -> tuple[Detections, StageTimes]:
        """Detect, with one retry.

        Raises:
            DeviceMemoryError: the engine is out of memory; that is not tried again.
            EngineError: the engine failed twice.
        """
        try:
            return model.detector.detect(image)
        except EngineError as error:
            if ran_out_of_memory(error):
                raise DeviceMemoryError(f'out of memory on {model.info.device}: {error}') from error
            self.engine_errors += 1
            self._log.warning(f'{error}; trying the frame once more')
            return model.detector.detect(image)

    # Failures

    def engine_failed(self, model: Model, error: EngineError) -> None:
        """The engine failed in a frame for good: halt, and where it was a device's, go on on the CPU as soon as that is built."""
        self.engine_errors += 1
        with self._lock:
            if model.info.device == 'cpu' or self.is_pending:
                self._halt(f'disabled after: {error}. Call ~/enable with true to try again')
                return
            self._halt(f'{model.info.provider} failed: {error}; the model is being loaded on the CPU')
            self.request(model.settings, fallback_from=str(error))

    def abandon_engine(self, because: str) -> None:
        """The engine does not come back from the frame that it was lent for: forget both, and do not close what is in use.

        A model that waited for the frame's end is installed.

        Args:
            because: what the engine does; empty where that is no fault, at the end.
        """
        with self._lock:
            model, self._model = self._model, None
            if because:
                name = f'{model.info.engine} ({model.info.provider})' if model else 'the engine'
                self.engine_errors += 1
                self._halt(f'{name} {because}')
            self._frame = None
            self._install()
        self._changed()

    def resume(self) -> bool:
        """Try again after a failure; False where no engine is left. A fallback to the CPU stays reported."""
        with self._lock:
            if self.is_halted and self._model is not None:
                self.is_halted, self.failure = False, ''
            return not self.is_halted

    def _halt(self, failure: str) -> None:
        """Drop frames from now on, and say why."""
        self.failure = failure
        self.is_halted = True
        self._log.error(failure)


def _close(model: Model | None) -> None:
    if model is not None:
        model.close()
