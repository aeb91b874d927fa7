"""The model that runs: its exchange by another one, its failures, and what is told of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.task import Future

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.engines.out_of_memory import ran_out_of_memory
from kd_perception.errors import DeviceMemoryError, EngineError, KdPerceptionError
from kd_perception.runtime.model import Model, ModelSettings, load, load_on_cpu
from kd_perception.runtime.model_builder import BuildResult, ModelBuilder
from kd_perception.runtime.model_slot import ModelSlot
from kd_perception.selection.selection import Selection


class RunningModel:
    """Loaded at configure, exchanged by `reload`, given up by `halt`.

    Attributes:
        slot: lends the model to the worker, frame by frame.
        wanted: the newest wish, fulfilled or in work; None while no model is wanted.
        version: how many models have been installed.
        failure: what went wrong for good, in words; empty while all is well.
        is_halted: whether frames are dropped because of it.
        reload_failure: why the last reload left the old model running; empty when it did not.
        engine_errors: how often an engine failed in a frame.
    """

    def __init__(self, logger: Any, announce: Callable[[Model, int], None], finished: Callable[[], None]) -> None:
        """See the class.

        Args:
            logger: the node's.
            announce: told of every installed model and its version, between the frames of the old and of the new one.
            finished: called in another thread when `take` has something to take.
        """
        self._logger = logger
        self._announce = announce
        self._builder = ModelBuilder(lambda settings: load(settings, logger.info, self.ladder), finished)
        self._answers: list[Future] = []
        self.slot: ModelSlot[Model] = ModelSlot()
        self.wanted: ModelSettings | None = None
        self.version = 0
        self.failure = ''
        self.is_halted = False
        self.reload_failure = ''
        self.engine_errors = 0

    # Loading, by the executor's thread

    def configure(self, settings: ModelSettings) -> None:
        """Load the first model; the caller waits.

        Raises:
            KdPerceptionError: it cannot be had; says why.
        """
        model = load(settings, self._logger.info)
        self.wanted = settings
        self._exchange(model)

    def reload(self, settings: ModelSettings) -> Future:
        """Build and warm up a model beside the one that runs. The answer says what became of it: (success, sentence)."""
        self.wanted = settings
        self._builder.start(settings)
        answer = Future()
        self._answers.append(answer)
        return answer

    def take(self) -> BuildResult | None:
        """Install the model that was built, or tell why there is none; the result is returned for the node to follow up."""
        result = self._builder.take()
        if result is None:
            return None
        if result.model is not None:
            self._exchange(result.model)
            self._answer(True, result.model.describe())
            return result
        model = self.slot.current
        goes_on = f'{model.bundle.name} {model.info.precision} goes on' if model else 'no model runs'
        self.reload_failure = f'reload failed, {goes_on}: {result.error}'
        self._logger.error(self.reload_failure)
        self._answer(False, self.reload_failure)
        return result

    @property
    def ladder(self) -> tuple[Selection, ...]:
        """What can be stepped down to from the model that runs."""
        model = self.slot.current
        return model.ladder if model else ()

    def building_s(self) -> float:
        """Seconds for which a model has been in the making; 0 when none is."""
        return self._builder.busy_s()

    def close(self) -> None:
        """Free the engine, and that which is being built when it is done. No frame may be in work."""
        self.wanted = None
        self._builder.cancel()
        self._answer(False, 'the node was cleaned up meanwhile')
        self.slot.clear()

    def _exchange(self, model: Model, failure: str = '') -> None:
        def installed() -> None:
            self.version += 1
            self.failure, self.reload_failure = failure, ''
            self.is_halted = False
            self._announce(model, self.version)
            self._logger.info(f'model {self.version}: {model.describe()}\n{model.selection.table()}')
            for warning in model.warnings():
                self._logger.warning(warning)

        self.slot.exchange(model, installed)

    def _answer(self, success: bool, sentence: str) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.set_result((success, sentence))

    # Failures

    def detect(self, model: Model, image: BgrImage) -> tuple[Detections, StageTimes]:
        """Detect, with one retry, by the worker's thread.

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
            self._logger.warning(f'{error}; trying the frame once more')
            return model.detector.detect(image)

    def after_failure(self, model: Model, error: EngineError) -> None:
        """Go on with the CPU where a device failed; where the CPU failed, halt. By the worker's thread, in the frame."""
        self.engine_errors += 1
        if model.info.device != 'cpu':
            try:
                failure = f'running on the CPU after: {error}'
                self._exchange(load_on_cpu(model.settings, self._logger.info), failure)
                self._logger.error(failure)
                return
            except KdPerceptionError as second:
                error = EngineError(f'{error}; the CPU fallback failed as well: {second}')
        self.halt(f'disabled after: {error}. Call ~/enable with true to try again')

    def abandon(self, seconds: float) -> None:
        """The engine hangs in a frame: leave it behind."""
        model = self.slot.current
        name = f'{model.info.engine} ({model.info.provider})' if model else 'the engine'
        self.engine_errors += 1
        self.halt(f'{name} hangs: a frame has had no answer for {seconds:g} s. Call ~/reload_model to build a new one')
        self.slot.abandon()

    def halt(self, failure: str) -> None:
        """Drop frames from now on, and tell why."""
        self.failure = failure
        self.is_halted = True
        self._logger.error(failure)

    def resume(self) -> bool:
        """Try again after a failure; False where no engine is left to try with."""
        if self.slot.current is None:
            return False
        self.failure = ''
        self.is_halted = False
        return True
