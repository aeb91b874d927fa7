"""The lifecycle node `detector`: images in, accounted detections out. Pipeline and live model do the work."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import LabelInfo, VisionInfo

from kd_perception.machine.memory import keep_freed_blocks
from kd_perception.ros import diagnostics, graph, messages, overlays, process, qos
from kd_perception.ros.bond import ManagerBond
from kd_perception.ros.camera import Camera, lifecycle_publisher
from kd_perception.ros.diagnostics_publisher import DiagnosticsPublisher
from kd_perception.ros.lifecycle import ResponsiveLifecycleNode, transition, wake
from kd_perception.ros.parameter_node import ParameterNode
from kd_perception.ros.settings import Settings
from kd_perception.runtime.live_model import LiveModel, Request
from kd_perception.runtime.load_shedding import LoadShedding
from kd_perception.runtime.model import Model
from kd_perception.runtime.pipeline import Pipeline

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WATCH_PERIOD = 0.1
"""Seconds between two looks at the pipeline, the load and the parameters."""
END_PATIENCE = 0.5
"""Seconds that the frame in work has at the node's end."""


class DetectorNode(ResponsiveLifecycleNode, ParameterNode):
    """Detects objects in the newest image of each camera and says how late it is.

    configure verifies the model and warms it up; activate subscribes; deactivate keeps the engine; cleanup frees it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('detector', **options)
        self._shedding = LoadShedding(self.get_logger().warning)
        self._answers: list[tuple[Request, Future]] = []
        self._restored_after: Request | None = None
        self._model_changed = self.create_guard_condition(self._on_model_changed)
        self._live = LiveModel(self.get_logger(), self._announce, lambda: wake(self._model_changed))
        self._settings = Settings(
            self, lambda: self._live.requested_settings, lambda: self._shedding.level, self._classes
        )
        window = self.setting('latency_window_frames')
        self._cameras = [Camera(self, name, slot, window) for slot, name in enumerate(self.setting('cameras'))]
        self._pipeline = Pipeline(
            self._live,
            self._shedding,
            len(self._cameras),
            self._settings.frame,
            lambda: self.setting('max_rate_hz'),
            fault=lambda line: self.get_logger().error(line, throttle_duration_sec=5.0),
            is_ending=lambda: not self.context.ok(),
        )
        self._publishers_of_node: list[Any] = []
        self._bond = ManagerBond(self)
        self._diagnostics = DiagnosticsPublisher(self)
        # A steady clock: diagnostics and watchdog must go on when the camera, or /clock, has died.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(self.setting('diagnostics_period_s'), self._publish_diagnostics, clock=steady)
        self._watch_timer = self.create_timer(WATCH_PERIOD, self._watch, clock=steady)
        self._enable_service = self.create_service(SetBool, '~/enable', self._on_enable)
        reload = self.create_service(Trigger, '~/reload_model', self._on_reload, callback_group=self.aside)
        self._reload_service = reload
        if self.setting('autostart'):
            self.start_by_itself()

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, verify the model and warm it up; FAILURE with the reason in log and diagnostics."""
        refused = '; '.join(self.refused_parameters.values())
        failure = refused or self._load_first_model() or self._settings.unknown_classes()
        if failure:
            self._live.close()
            self._live.failure = failure
            self.get_logger().error(f'cannot configure: {failure}')
            return FAILURE
        self._create_publishers()
        return LifecycleNode.on_configure(self, state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the pipeline and subscribe."""
        result = LifecycleNode.on_activate(self, state)
        self._pipeline.start()
        if self._live.model is not None:
            self._announce(self._live.model, self._live.version)
        for camera in self._cameras:
            camera.subscribe(self._pipeline.submit)
        self._bond.form()
        return result

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and finish the frame in work; the engine stays."""
        self._stop()
        return LifecycleNode.on_deactivate(self, state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engine and the publishers."""
        self._release()
        return LifecycleNode.on_cleanup(self, state)

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self._release()
        return LifecycleNode.on_shutdown(self, state)

    @transition
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed half-way: leave nothing of it, so that the node can be configured again."""
        self._release()
        return SUCCESS

    def destroy_node(self) -> None:
        """Stop the pipeline and free the engine before the node goes."""
        self._pipeline.stop(END_PATIENCE, ending=True)
        self._release()
        super().destroy_node()

    def _load_first_model(self) -> str:
        """Waits for it; returns why it cannot be had."""
        request = self._live.request(self._settings.model())
        request.wait()
        return '' if request.is_installed else self._live.failure or request.answer

    def _classes(self) -> tuple[str, ...]:
        model = self._live.model
        return () if model is None else model.bundle.classes

    def _create_publishers(self) -> None:
        self._label_info = lifecycle_publisher(self, LabelInfo, 'label_info', qos.LATCHED)
        self._vision_info = lifecycle_publisher(self, VisionInfo, 'vision_info', qos.LATCHED)
        frame_latency = lifecycle_publisher(self, DiagnosticArray, '~/frame_latency', qos.IMAGE)
        self._publishers_of_node = [self._label_info, self._vision_info, frame_latency]
        for camera in self._cameras:
            camera.create_publishers(frame_latency)
        if not overlays.HAS_FOXGLOVE:
            self.get_logger().info(overlays.WITHOUT_FOXGLOVE)

    def _stop(self) -> None:
        self._bond.end()
        for camera in self._cameras:
            camera.unsubscribe()
        self._pipeline.stop(self.setting('watchdog_s'))

    def _release(self) -> None:
        """Whatever state the node is in: afterwards it is as before it was configured."""
        self._stop()
        self._live.close()
        self._shedding.reset()
        for camera in self._cameras:
            camera.destroy_publishers()
        while self._publishers_of_node:
            self.destroy_lifecycle_publisher(self._publishers_of_node.pop())

    # The model

    async def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers when the model is installed or refused; the executor goes on meanwhile."""
        if self.lifecycle_state not in ('inactive', 'active'):
            response.success, response.message = False, 'the node is not configured: configuring it loads the model'
            return response
        self._shedding.reset()
        reload, answered = self._live.request(self._settings.model()), Future()
        self._answers.append((reload, answered))
        await answered
        response.success, response.message = reload.is_installed, reload.answer
        return response

    def _on_model_changed(self) -> None:
        ended = [entry for entry in self._answers if entry[0].has_ended]
        self._answers = [entry for entry in self._answers if entry not in ended]
        for _, answered in ended:
            answered.set_result(None)
        self._follow_parameters()

    def _follow_parameters(self) -> None:
        """Ask for another model where the parameters, or the load, do; after a request that failed, they say what runs again.

        A failure gives back only what it was about: where the parameters have changed meanwhile, they count.
        """
        if self.lifecycle_state not in ('inactive', 'active'):
            return
        requested, settings, failed = self._live.requested_settings, self._settings.model(), self._live.failed
        if requested is None or requested == settings:
            return
        if failed is not None and failed.settings == settings:
            if failed is not self._restored_after:
                self._restored_after = failed
                self._shedding.settle(requested.fallback)
                self._settings.restore(requested)
            return
        if replace(requested, fallback=0) != replace(settings, fallback=0):
            self._shedding.reset()  # the fallbacks were another model's
            settings = self._settings.model()
        self._live.request(settings)

    def _announce(self, model: Model, version: int) -> None:
        """Say what the class ids mean from now on, and whose they are. An inactive node does so when it is activated."""
        if not self._pipeline.is_running:
            return
        unknown = self._settings.unknown_classes()
        if unknown:
            self.get_logger().warning(f'classes or class_thresholds: {unknown}')
        header = Header(stamp=self.get_clock().now().to_msg())
        score = self._settings.frame().thresholds(model.bundle.thresholds).score
        self._label_info.publish(messages.label_info_message(model.bundle, score, header))
        self._vision_info.publish(messages.vision_info_message(model, version, header))

    # What no message brings about

    def _watch(self) -> None:
        """An engine that hangs, too much load, parameters that ask for another model."""
        self._pipeline.watch(self.setting('watchdog_s'))
        for camera in self._cameras:
            camera.follow_publishers()
        way = self.setting('degradation')
        if not (way == 'step_down' and self._live.is_pending):
            self._shedding.adapt(way, self._settings.shedding(), len(self._live.fallbacks))
        self._on_model_changed()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._pipeline.is_enabled = request.data
        response.success = not request.data or self._live.requested_settings is None or self._live.resume()
        response.message = 'detecting' if request.data else 'images are counted and dropped'
        if not response.success:
            response.message = self._live.failure
        self.get_logger().info(f'enable {str(request.data).lower()}: {response.message}')
        return response

    def _publish_diagnostics(self) -> None:
        now, lifecycle, enabled = time.monotonic(), self.lifecycle_state, self._pipeline.is_enabled
        model = diagnostics.ModelView(
            lifecycle=lifecycle,
            model=self._live.model,
            version=self._live.version,
            failure=self._live.failure or self.transition_failure,
            reload_failure=self._live.reload_failure,
            building_s=self._live.building_s(),
            requested=self._requested(),
            engine_errors=self._live.engine_errors,
            degradation=self._shedding.describe(),
            namesakes=graph.namesakes(self),
        )
        cameras = [report for camera in self._cameras for report in camera.reports(now, lifecycle, enabled)]
        self._diagnostics.publish([*cameras, diagnostics.model_report(model)])

    def _requested(self) -> str:
        """The model that is being built, or is about to be when the node starts by itself, in words; empty when none is."""
        if not (self._live.is_pending or self.is_starting):
            return ''
        settings = self._settings.model()
        return f'{settings.model} on {settings.engine}'

    def accounts(self) -> str:
        """What became of every frame, one line a camera."""
        return '\n'.join(camera.accounts() for camera in self._cameras)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    keep_freed_blocks()
    return process.run(DetectorNode, 'detector', args)


if __name__ == '__main__':
    sys.exit(main())
