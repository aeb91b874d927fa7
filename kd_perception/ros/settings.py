"""The detector node's parameters as the settings of model, frames and load shedding."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from kd_perception.detection.box_filter import BoxFilter, parse_region
from kd_perception.detection.thresholds import parse_class_scores
from kd_perception.errors import KdPerceptionError
from kd_perception.ros.parameter_node import ParameterNode
from kd_perception.runtime.frame import FrameOptions
from kd_perception.runtime.load_shedding import SheddingSettings
from kd_perception.runtime.model import ModelSettings, check
from kd_perception.selection.selection import AUTO
from kd_perception.tracking.bytetrack import TrackerSettings

CHECK_LIMIT_S = 3.0
"""A model that cannot be looked at in this time is refused: the executor waits for the answer."""


class Settings:
    """Refuses at once what the model cannot become."""

    def __init__(
        self,
        node: ParameterNode,
        requested: Callable[[], ModelSettings | None],
        level: Callable[[], int],
        classes: Callable[[], tuple[str, ...]],
    ) -> None:
        """See the class.

        Args:
            node: whose parameters they are.
            requested: what the live model was last asked for; None while none is.
            classes: names of the classes of the model that runs; empty while none does.
            level: how far the node has stepped down, see `LoadShedding.level`.
        """
        self._node = node
        self._requested = requested
        self._level = level
        self._classes = classes
        self._frame: tuple[dict[str, Any], FrameOptions | None] = ({}, None)
        node.add_on_set_parameters_callback(self._on_set)

    def model(self, changes: dict[str, Any] | None = None) -> ModelSettings:
        """The model that is asked for, with or without changes to come."""

        def setting(name: str) -> Any:
            return self._node.setting(name, changes)

        steps_down = setting('degradation') == 'step_down'
        return ModelSettings(
            model=setting('model'),
            engine=setting('engine'),
            precision=setting('precision'),
            max_map_drop=setting('max_map_drop'),
            threads=setting('threads'),
            providers=tuple(filter(None, setting('providers'))),
            budget_ms=setting('latency_budget_ms') if AUTO in (setting('engine'), setting('tiles')) else None,
            with_fallbacks=steps_down,
            fallback=self._level() if steps_down else 0,
            tiles=setting('tiles'),
            tile_overlap=setting('tile_overlap'),
        )

    def restore(self, settings: ModelSettings) -> None:
        """Set the parameters to a model's settings, all at once."""
        values = {
            'model': settings.model,
            'engine': settings.engine,
            'precision': settings.precision,
            'max_map_drop': settings.max_map_drop,
            'threads': settings.threads,
            'providers': list(settings.providers) or [''],
            'tiles': settings.tiles,
            'tile_overlap': settings.tile_overlap,
        }
        if settings.budget_ms is not None:
            values['latency_budget_ms'] = settings.budget_ms
        if settings.with_fallbacks != (self._node.setting('degradation') == 'step_down'):
            values['degradation'] = 'step_down' if settings.with_fallbacks else 'off'
        changes = [Parameter(name, value=value) for name, value in values.items() if self._node.setting(name) != value]
        result = self._node.set_parameters_atomically(changes)
        if not result.successful:
            self._node.get_logger().error(f'the parameters of the model that runs cannot be restored: {result.reason}')

    def frame(self) -> FrameOptions:
        """What a frame is detected with."""
        values, (of_values, options) = self._node.values, self._frame
        if options is None or of_values is not values:
            options = self._make_frame()
            self._frame = values, options
        return options

    def _make_frame(self) -> FrameOptions:
        return FrameOptions(
            max_age_ms=self._node.setting('max_age_ms'),
            score=self._node.setting('score_threshold'),
            iou=self._node.setting('iou_threshold'),
            suppression='' if self._node.setting('suppression') == 'bundle' else self._node.setting('suppression'),
            class_scores=parse_class_scores(self._node.setting('class_thresholds')),
            max_detections=self._node.setting('max_detections'),
            boxes=self._boxes(),
            tracker=self._tracker(),
        )

    def _boxes(self) -> BoxFilter:
        return BoxFilter(
            classes=tuple(filter(None, self._node.setting('classes'))),
            region=parse_region(self._node.setting('region')),
            min_side=self._node.setting('min_box_pixels'),
        )

    def unknown_classes(self, changes: dict[str, Any] | None = None) -> str:
        """Which classes the parameters name that the model does not know, in a sentence; empty when there is none."""
        known = self._classes()
        named = {
            *filter(None, self._node.setting('classes', changes)),
            *parse_class_scores(self._node.setting('class_thresholds', changes)),
        }
        unknown = sorted(named - set(known))
        if not known or not unknown:
            return ''
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        return f'the model has no class {unknown[0]!r}{hint} It has {", ".join(known)}'

    def _tracker(self) -> TrackerSettings | None:
        if self._node.setting('tracker') == 'none':
            return None
        return TrackerSettings(
            high_score=self._node.setting('track_high_score'),
            match_iou=self._node.setting('track_match_iou'),
            keep_s=self._node.setting('track_keep_s'),
            publish_score=self._node.setting('track_publish_score'),
            votes=self._node.setting('track_class') == 'vote',
        )

    def shedding(self) -> SheddingSettings:
        """When to do less."""
        patience_s = self._node.setting('degradation_patience_s')
        return SheddingSettings(
            self._node.setting('latency_budget_ms'),
            patience_s,
            max(self._node.setting('degradation_hold_s'), patience_s),
        )

    # Changes

    def _on_set(self, changes: list[Parameter]) -> SetParametersResult:
        values = {change.name: change.value for change in changes}
        refusal = self._model_refusal(values)
        if not refusal and 'model' not in values:
            refusal = self.unknown_classes(values)
        return SetParametersResult(successful=not refusal, reason=refusal)

    def _model_refusal(self, changes: dict[str, Any]) -> str:
        """Why the model cannot become what the changes ask for, as far as that can be said at once; empty when it may."""
        settings = self.model(changes)
        if self._requested() in (None, settings):
            return ''
        answer: list[str] = []
        # In a thread, since a bundle may be on a file system that hangs.
        thread = threading.Thread(target=lambda: answer.append(_refusal(settings)), name='model_check', daemon=True)
        thread.start()
        thread.join(CHECK_LIMIT_S)
        return answer[0] if answer else f'{settings.model} cannot be read within {CHECK_LIMIT_S:g} s'


def _refusal(settings: ModelSettings) -> str:
    try:
        check(settings)
    except KdPerceptionError as error:
        return str(error)
    except Exception as error:  # whatever it is, it must not stop the node
        return f'{settings.model} cannot be used: {error!r}'
    return ''
