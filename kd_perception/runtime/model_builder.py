"""Models built and warmed up in a thread of their own, while another one runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.runtime.model import Model, ModelSettings


@dataclass(frozen=True)
class BuildResult:
    """What became of one wish: a model, or the error that prevented it."""

    settings: ModelSettings
    model: Model | None
    error: KdPerceptionError | None


class ModelBuilder:
    """One build at a time. A newer wish takes the place of one that waits, and what was built for an older one is closed.

    Args:
        build: settings → model; runs in the builder's thread.
        finished: called in the builder's thread when there is a result to take.
    """

    def __init__(self, build: Callable[[ModelSettings], Model], finished: Callable[[], None]) -> None:
        self._build = build
        self._finished = finished
        self._lock = threading.Lock()
        self._wish: ModelSettings | None = None
        self._wishes = 0
        self._result: BuildResult | None = None
        self._busy_since: float | None = None

    def start(self, settings: ModelSettings) -> None:
        """Wish for a model; its result replaces all earlier ones."""
        with self._lock:
            self._wish = settings
            self._wishes += 1
            if self._busy_since is None:
                self._busy_since = time.monotonic()
                threading.Thread(target=self._run, name='model_builder', daemon=True).start()

    def cancel(self) -> None:
        """No model is wanted any more: what is being built is closed when it is done."""
        with self._lock:
            self._wish = None
            self._wishes += 1
            result, self._result = self._result, None
        _close(result)

    def take(self) -> BuildResult | None:
        """The newest wish's result, once."""
        with self._lock:
            result, self._result = self._result, None
            return result

    def busy_s(self) -> float:
        """Seconds that the builder has been at work; 0 when it rests."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        while (order := self._next()) is not None:
            settings, number = order
            result = self._attempt(settings)
            with self._lock:
                wanted = number == self._wishes
                unwanted: BuildResult | None = result
                if wanted:
                    unwanted, self._result = self._result, result
            _close(unwanted)
            if wanted:
                self._finished()

    def _next(self) -> tuple[ModelSettings, int] | None:
        with self._lock:
            settings, self._wish = self._wish, None
            if settings is None:
                self._busy_since = None
                return None
            return settings, self._wishes

    def _attempt(self, settings: ModelSettings) -> BuildResult:
        try:
            return BuildResult(settings, self._build(settings), None)
        except KdPerceptionError as error:
            return BuildResult(settings, None, error)
        except Exception as error:  # a library's own fault must not end the thread without a word
            return BuildResult(settings, None, EngineError(f'the model cannot be built: {error!r}'))


def _close(result: BuildResult | None) -> None:
    if result is not None and result.model is not None:
        result.model.close()
