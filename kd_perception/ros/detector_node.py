"""The lifecycle node `detector`: images in, accounted detections out. It moves data; the core does the work."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import LabelInfo, VisionInfo

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.network import Thresholds
from kd_perception.detection.stage_times import StageTimes
from kd_perception.errors import EngineError, ImageError, KdPerceptionError
from kd_perception.ros import diagnostics, messages, qos
from kd_perception.ros.camera import Camera, lifecycle_publisher
from kd_perception.ros.input_monitor import age_ms
from kd_perception.ros.load_shedding import LoadShedding
from kd_perception.ros.parameter_node import ParameterNode
from kd_perception.ros.running_model import RunningModel
from kd_perception.ros.startup import RosArgumentsError, start_ros
from kd_perception.ros.worker import Frame, Worker
from kd_perception.runtime.model import Model, ModelSettings, check
from kd_perception.selection.selection import AUTO

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WATCH_PERIOD = 0.1  # seconds between two looks at the worker, the load and the model's parameters


class DetectorNode(ParameterNode):
    """Detects objects in the newest image of each camera and says how late it is.

    configure verifies the model and warms it up; activate subscribes; deactivate keeps the engine; cleanup frees it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('detector', **options)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        window = self.setting('latency_window_frames')
        self._cameras = [Camera(self, name, slot, window) for slot, name in enumerate(self.setting('cameras'))]
        self._enabled = True
        self._worker: Worker | None = None
        self._shedding = LoadShedding(self.get_logger())
        self._built = self.create_guard_condition(self._on_built)
        self._running = RunningModel(self.get_logger(), self._announce, self._built.trigger)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # A steady clock: diagnostics and watchdog must go on when the camera, or /clock, has died.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(self.setting('diagnostics_period_s'), self._publish_diagnostics, clock=steady)
        self._watch_timer = self.create_timer(WATCH_PERIOD, self._watch, clock=steady)
        self._enable_service = self.create_service(SetBool, '~/enable', self._on_enable)
        # A group of its own: while an answer is awaited, the others go on.
        alone = MutuallyExclusiveCallbackGroup()
        self._reload_service = self.create_service(Trigger, '~/reload_model', self._on_reload, callback_group=alone)
        if self.setting('autostart') and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Parameters

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        refusal = self._model_refusal({change.name: change.value for change in changes})
        return SetParametersResult(successful=not refusal, reason=refusal)

    def _model_refusal(self, changes: dict[str, Any]) -> str:
        """Why the model cannot become what the changes ask for, as far as that can be said at once; empty when it may."""
        settings = self._model_settings(changes)
        if self._running.wanted in (None, settings):
            return ''
        try:
            check(settings)
        except KdPerceptionError as error:
            return str(error)
        except Exception as error:  # rclpy would end the node for it
            self.get_logger().error(f'parameters not checked:\n{traceback.format_exc()}')
            return f'the model cannot be checked: {error!r}'
        return ''

    def _model_settings(self, changes: dict[str, Any] | None = None) -> ModelSettings:
        engine, degradation = self.setting('engine', changes), self.setting('degradation', changes)
        tiles = self.setting('tiles', changes)
        return ModelSettings(
            model=self.setting('model', changes),
            engine=engine,
            precision=self.setting('precision', changes),
            max_map_drop=self.setting('max_map_drop', changes),
            threads=self.setting('threads', changes),
            providers=tuple(filter(None, self.setting('providers', changes))),
            budget_ms=self.setting('latency_budget_ms', changes) if AUTO in (engine, tiles) else None,
            wants_ladder=degradation == 'step_down',
            rung=self._shedding.level if degradation == 'step_down' else 0,
            tiles=tiles,
            tile_overlap=self.setting('tile_overlap', changes),
        )

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, verify the model and warm it up; FAILURE with the reason in log and diagnostics."""
        try:
            if self.refused_parameters:
                raise KdPerceptionError('; '.join(self.refused_parameters.values()))
            self._running.configure(self._model_settings())
        except KdPerceptionError as error:
            self._running.failure = str(error)
            self.get_logger().error(f'cannot configure: {error}')
            return FAILURE
        self._create_publishers()
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        result = super().on_activate(state)
        self._worker = Worker(self._process, len(self._cameras))
        if self._running.slot.current is not None:
            self._announce(self._running.slot.current, self._running.version)
        for camera in self._cameras:
            camera.subscribe(self._on_frame)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and finish the frame in work; the engine stays."""
        for camera in self._cameras:
            camera.unsubscribe()
        self._stop_worker()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engine and the publishers."""
        self._release()
        for camera in self._cameras:
            camera.destroy_publishers()
        for publisher in (self._label_info, self._vision_info, self._frame_latency):
            self.destroy_lifecycle_publisher(publisher)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self._release()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        """Stop the worker and free the engine before the node goes."""
        self._release()
        super().destroy_node()

    def _create_publishers(self) -> None:
        for camera in self._cameras:
            camera.create_publishers()
        self._label_info = lifecycle_publisher(self, LabelInfo, 'label_info', qos.LATCHED)
        self._vision_info = lifecycle_publisher(self, VisionInfo, 'vision_info', qos.LATCHED)
        self._frame_latency = lifecycle_publisher(self, DiagnosticArray, '~/frame_latency', qos.IMAGE)

    def _release(self) -> None:
        self._stop_worker()
        self._running.close()
        self._shedding.reset()

    def _stop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        stuck = worker.stop(self.setting('watchdog_s'))
        if stuck is not None:
            self._leave_behind(stuck)

    # Callbacks of the executor's thread

    def _on_frame(self, camera: Camera, message: Image | CompressedImage, transport_ms: float, received: float) -> None:
        if not self._enabled or self._running.is_halted or self._worker is None:
            camera.counters.drop('disabled')
        elif self._shedding.skips(camera):
            camera.counters.drop('skipped')
        else:
            self._worker.submit(Frame(camera, message, transport_ms, received))

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        response.success = not request.data or self._running.wanted is None or self._running.resume()
        response.message = 'detecting' if request.data else 'images are counted and dropped'
        if not response.success:
            response.message = self._running.failure
        return response

    async def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers when the model is built or refused; the executor goes on meanwhile."""
        if self._running.wanted is None:
            response.success, response.message = False, 'the node is not configured: configuring it loads the model'
            return response
        self._shedding.reset()
        response.success, response.message = await self._running.reload(self._model_settings())
        return response

    def _on_built(self) -> None:
        result = self._running.take()
        if result is not None and result.model is None:
            self._restore_model_parameters()

    def _restore_model_parameters(self) -> None:
        """After a reload that failed, the parameters say what runs."""
        model = self._running.slot.current
        if model is not None and model.settings != self._running.wanted:
            settings = self._running.wanted = model.settings
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
            self.set_parameters([Parameter(name, value=value) for name, value in values.items()])
        self._running.wanted = self._model_settings()

    def _announce(self, model: Model, version: int) -> None:
        """Tell what the class ids mean from now on, and whose they are. An inactive node tells it when it is activated."""
        if self._worker is None:
            return
        header = Header(stamp=self.get_clock().now().to_msg())
        score = self._thresholds(model.bundle.thresholds).score
        self._label_info.publish(messages.label_info_message(model.bundle, score, header))
        self._vision_info.publish(messages.vision_info_message(model, version, header))

    def _watch(self) -> None:
        """Look after what no message brings about: an engine that hangs, too much load, a wish for another model."""
        stuck = self._worker.overdue(self.setting('watchdog_s')) if self._worker else None
        if stuck is not None and self._leave_behind(stuck):
            self._worker = Worker(self._process, len(self._cameras))
        self._shedding.adapt(
            self.setting('degradation'),
            self.setting('latency_budget_ms'),
            self.setting('degradation_patience_s'),
            self.setting('degradation_hold_s'),
            rungs=len(self._running.ladder),
        )
        self._follow_parameters()

    def _follow_parameters(self) -> None:
        """Reload when the parameters, or the load, ask for another model than the newest wish."""
        wanted, settings = self._running.wanted, self._model_settings()
        if wanted is None or wanted == settings:
            return
        if replace(wanted, rung=0) != replace(settings, rung=0):
            self._shedding.reset()  # the rungs below were another model's
            settings = self._model_settings()
        self._running.reload(settings)

    def _leave_behind(self, stuck: Frame) -> bool:
        """Give up a frame that never ends, with its thread and its engine; False when it ended just now."""
        if not stuck.claim():
            return False
        stuck.camera.counters.drop('failed')
        if self._worker is not None:
            self._worker.abandon()
        self._running.abandon(self.setting('watchdog_s'))
        return True

    # The worker's thread

    def _process(self, frame: Frame) -> None:
        """One frame from the queue to its one count, whatever happens on the way."""
        with self._running.slot.frame() as model:
            try:
                cause = 'disabled' if model is None else self._take_through(frame, model)
            except Exception:
                cause = 'disabled'
                if self.context.ok():
                    cause = 'failed'
                    self.get_logger().error(f'frame failed:\n{traceback.format_exc()}', throttle_duration_sec=5.0)
            if cause:
                self._drop(frame, cause)

    def _drop(self, frame: Frame, cause: str) -> bool:
        """Enter the frame's end, unless the watchdog has done so."""
        if not frame.claim():
            return False
        frame.camera.counters.drop(cause)
        return True

    def _take_through(self, frame: Frame, model: Model) -> str:
        """Decode, detect, publish. Returns the cause when the frame was dropped, and nothing when it was published."""
        started = time.monotonic()
        header, monitor = frame.message.header, frame.camera.monitor
        limit = self.setting('max_age_ms')
        if limit and age_ms(messages.stamp_ns(header), self.get_clock().now().nanoseconds) > limit:
            return 'stale'
        try:
            image = messages.to_bgr(frame.message, self.setting('max_image_pixels'))
        except ImageError as error:
            monitor.rejection = str(error)
            self.get_logger().warning(f'image rejected: {error}', throttle_duration_sec=5.0)
            return 'undecodable'
        monitor.rejection = ''
        decoded = time.monotonic()
        model.detector.thresholds = self._thresholds(model.bundle.thresholds)
        model.detector.max_detections = self.setting('max_detections')
        try:
            detections, times = self._running.detect(model, image)
        except EngineError as error:
            if self._drop(frame, 'failed'):
                self._running.after_failure(model, error)
            return ''
        times.transport = frame.transport_ms
        times.queue = 1e3 * (started - frame.received)
        times.decode = 1e3 * (decoded - started)
        if frame.claim():
            self._publish(frame, detections, times)
            self._publish_extras(frame, image, detections, times, model.bundle.classes)
        return ''

    def _thresholds(self, fallback: Thresholds) -> Thresholds:
        score, iou = self.setting('score_threshold'), self.setting('iou_threshold')
        return Thresholds(fallback.score if score < 0 else score, fallback.iou if iou < 0 else iou)

    def _publish(self, frame: Frame, detections: Detections, times: StageTimes) -> None:
        started = time.monotonic()
        try:
            frame.camera.publish(detections, frame.message.header)
        except Exception:
            frame.camera.counters.drop('failed' if self.context.ok() else 'disabled')
            raise
        done = time.monotonic()
        times.publish = 1e3 * (done - started)
        # Without a stamp the age counts from our callback; the stages behind it are known all the same.
        times.age = times.transport + 1e3 * (done - frame.received)
        frame.camera.note(times, done)
        self._shedding.add(done, times.age)

    def _publish_extras(
        self, frame: Frame, image: BgrImage, detections: Detections, times: StageTimes, classes: tuple[str, ...]
    ) -> None:
        """What costs time and is made only while somebody listens; the frame itself is out and counted."""
        header = frame.message.header
        try:
            if self._frame_latency.get_subscription_count():
                message = messages.frame_latency_message(times, header, self.get_name(), frame.camera.name)
                self._frame_latency.publish(message)
            frame.camera.show(image, detections, header, classes)
        except Exception as error:
            if self.context.ok():
                self.get_logger().error(
                    f'annotated image or frame latency not published: {error}', throttle_duration_sec=5.0
                )

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        now, lifecycle = time.monotonic(), str(self._state_machine.current_state[1])
        statuses = [status for camera in self._cameras for status in camera.statuses(now, lifecycle, self._enabled)]
        statuses.append(
            diagnostics.model_status(
                diagnostics.ModelView(
                    model=self._running.slot.current,
                    version=self._running.version,
                    failure=self._running.failure,
                    reload_failure=self._running.reload_failure,
                    building_s=self._running.building_s(),
                    engine_errors=self._running.engine_errors,
                    degradation=self._shedding.describe(),
                )
            )
        )
        for status in statuses:
            status.name = f'{self.get_fully_qualified_name().lstrip("/")}: {status.name}'
        self._diagnostics.publish(
            DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()), status=statuses)
        )

    def accounts(self) -> str:
        """What became of every frame, one line a camera."""
        return '\n'.join(camera.accounts() for camera in self._cameras)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    node = None
    try:
        start_ros(args)
        node = DetectorNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RosArgumentsError as error:
        print(f'detector: {error}', file=sys.stderr)
        return 1
    except Exception:
        if rclpy.ok():  # after a signal, publishing fails wherever it came in between
            raise
    finally:
        if node is not None:
            node.destroy_node()
            for line in node.accounts().splitlines():
                print(f'detector: {line}', flush=True)
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
