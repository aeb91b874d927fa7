"""The lifecycle node `detector`: images in, accounted detections out. It moves data; the core does the work."""

from __future__ import annotations

import difflib
import sys
import time
import traceback
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from kd_perception import engines
from kd_perception.core.bundle import Thresholds, find_bundle, load_bundle
from kd_perception.core.detections import Detections
from kd_perception.core.detector import Detector
from kd_perception.core.drawing import draw
from kd_perception.core.engine import EngineOptions
from kd_perception.core.errors import EngineError, ImageError, KdPerceptionError
from kd_perception.core.image import BgrImage
from kd_perception.core.mailbox import FrameBooks
from kd_perception.core.rates import RateMeter
from kd_perception.core.stages import RollingStageTimes, StageTimes
from kd_perception.engines.selection import choose_artifact
from kd_perception.ros import diagnostics, messages, parameters, qos
from kd_perception.ros.input_monitor import InputMonitor, age_ms
from kd_perception.ros.worker import Frame, Worker

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

try:
    from rclpy.subscription import MessageInfo
except ImportError:  # Humble does not tell sequence numbers
    MessageInfo = None

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
LARGE_MESSAGE_HINT = (
    "images over 0.5 MB are lost by Fast DDS without the shared-memory profile in the camera's environment (README)"
)


class DetectorNode(LifecycleNode):
    """Detects objects in the newest image and says how late it is.

    configure verifies the model and warms it up; activate subscribes; deactivate keeps the engine; cleanup frees it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('detector', **options)
        self._refused_parameters: dict[str, str] = {}
        self._declare_parameters()
        self._books = FrameBooks()
        self._monitor = InputMonitor()
        self._published = RateMeter()
        self._writer = messages.DetectionsWriter()
        self._times = RollingStageTimes(self._setting('latency_window'))
        self._budget_misses = 0
        self._engine_errors = 0
        self._enabled = True
        self._tells_numbers = False
        self._failure = ''
        self._detector: Detector | None = None
        self._worker: Worker | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # A steady clock: diagnostics must go on when the camera, or /clock, has died.
        self._timer = self.create_timer(
            self._setting('diagnostics_period'),
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._enable_service = self.create_service(SetBool, '~/enable', self._on_enable)
        if self._setting('autostart') and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Parameters

    def _declare_parameters(self) -> None:
        for spec in parameters.specs().values():
            descriptor = spec.descriptor()
            try:
                value = self.declare_parameter(spec.name, spec.default_value, descriptor).value
                refusal = spec.refusal(value)
            except (InvalidParameterTypeException, InvalidParameterValueException) as error:
                self.declare_parameter(spec.name, spec.default_value, descriptor, ignore_override=True)
                refusal = f'{spec.name}: {error}'
            if refusal:
                self._refused_parameters[spec.name] = refusal
        self._warn_of_misspelt_parameters()
        self.add_on_set_parameters_callback(self._on_set_parameters)

    def _warn_of_misspelt_parameters(self) -> None:
        for name in getattr(self, '_parameter_overrides', {}):
            near = difflib.get_close_matches(name, parameters.specs(), n=1, cutoff=0.75)
            if near and not self.has_parameter(name):
                self.get_logger().warning(f'there is no parameter {name!r}; did you mean {near[0]!r}?')

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        specs = parameters.specs()
        for change in changes:
            refusal = specs[change.name].refusal(change.value) if change.name in specs else ''
            if refusal:
                return SetParametersResult(successful=False, reason=refusal)
        for change in changes:
            self._refused_parameters.pop(change.name, None)
        return SetParametersResult(successful=True)

    def _setting(self, name: str) -> Any:
        return self.get_parameter(name).value

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, verify the model and warm it up; FAILURE with the reason in log and diagnostics."""
        try:
            if self._refused_parameters:
                raise KdPerceptionError('; '.join(self._refused_parameters.values()))
            self._detector = self._load_detector(tuple(self._setting('providers')))
        except KdPerceptionError as error:
            self._failure = str(error)
            self.get_logger().error(f'cannot configure: {error}')
            return FAILURE
        self._failure = ''
        self._create_publishers()
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        result = super().on_activate(state)
        self._worker = Worker(self._process, self._books)
        self._publish_infos()
        self._subscribe()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and finish the frame in work; the engine stays."""
        self.destroy_subscription(self._subscription)
        self._stop_worker()
        self._monitor = InputMonitor()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engine and the publishers."""
        self._release()
        for publisher in (self._detections, self._label_info, self._vision_info, self._annotated, self._frame_latency):
            self.destroy_lifecycle_publisher(publisher)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self._release()
        return super().on_shutdown(state)

    def _release(self) -> None:
        self._stop_worker()
        if self._detector is not None:
            self._detector.close()
            self._detector = None

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _load_detector(self, providers: tuple[str, ...]) -> Detector:
        bundle = load_bundle(find_bundle(self._setting('model')))
        artifact = choose_artifact(
            bundle, self._setting('engine'), self._setting('precision'), self._setting('max_map_drop')
        )
        engine = engines.load(bundle, artifact, EngineOptions(threads=self._setting('threads'), providers=providers))
        detector = Detector(bundle, engine)
        warm_ms = detector.warm_up()
        self._artifact = artifact
        measured = 'mAP not measured' if artifact.measured_map is None else f'mAP50-95 {artifact.measured_map:.3f}'
        self.get_logger().info(
            f'{bundle.name} {artifact.precision} ({measured}) on {engine.info.engine} {engine.info.provider}, '
            f'{engine.info.threads} threads: {warm_ms:.1f} ms a frame when warm'
        )
        return detector

    def _create_publishers(self) -> None:
        def publisher(kind: type, topic: str, profile: QoSProfile) -> Any:
            events = PublisherEventCallbacks(
                incompatible_qos=lambda event: self.get_logger().warning(
                    qos.incompatibility(self.resolve_topic_name(topic), event.last_policy_kind, 'publisher')
                )
            )
            return self.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events)

        self._detections = publisher(Detection2DArray, 'detections', qos.DETECTIONS)
        self._label_info = publisher(LabelInfo, 'label_info', qos.LATCHED)
        self._vision_info = publisher(VisionInfo, 'vision_info', qos.LATCHED)
        self._frame_latency = publisher(DiagnosticArray, '~/frame_latency', qos.IMAGE)
        if self._setting('annotated_transport') == 'compressed':
            topic = self.resolve_topic_name('image_annotated') + '/compressed'
            self._annotated = publisher(CompressedImage, topic, qos.IMAGE)
        else:
            self._annotated = publisher(Image, 'image_annotated', qos.IMAGE)

    def _subscribe(self) -> None:
        self._subscription = self.create_subscription(
            CompressedImage if self._takes_compressed() else Image,
            self._image_topic(),
            self._on_image if MessageInfo is None else self._on_numbered_image,
            qos.IMAGE,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _takes_compressed(self) -> bool:
        return self._setting('image_transport') == 'compressed'

    def _image_topic(self) -> str:
        return self.resolve_topic_name('image') + ('/compressed' if self._takes_compressed() else '')

    def _publish_infos(self) -> None:
        assert self._detector is not None
        header = Header(stamp=self.get_clock().now().to_msg())
        bundle = self._detector.bundle
        self._label_info.publish(messages.label_info_message(bundle, self._thresholds(bundle.thresholds).score, header))
        self._vision_info.publish(messages.vision_info_message(bundle, self._artifact, header))

    # Callbacks of the executor's thread

    def _on_numbered_image(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        publisher, number = info.get('publisher_gid'), info.get('publication_sequence_number')
        self._tells_numbers = bool(publisher and number)
        if publisher and number:
            self._monitor.numbered(publisher['data'], number)
        self._on_image(message)

    def _on_image(self, message: Image | CompressedImage) -> None:
        monotonic, clock_ns = time.monotonic(), self.get_clock().now().nanoseconds
        self._books.receive()
        transport = self._monitor.arrived(messages.stamp_ns(message.header), clock_ns, monotonic)
        if self._enabled and self._worker is not None:
            self._worker.submit(Frame(message, transport, monotonic))
        else:
            self._books.drop('disabled')

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if request.data:
            self._failure = ''
        response.success = True
        response.message = 'detecting' if request.data else 'images are counted and dropped'
        return response

    def _on_incompatible_qos(self, event: Any) -> None:
        self._monitor.incompatibility = qos.incompatibility(self._image_topic(), event.last_policy_kind, 'subscription')
        self.get_logger().warning(self._monitor.incompatibility)

    def _on_message_lost(self, event: Any) -> None:
        """Sequence numbers tell more: also what newer messages overwrote in the reader."""
        if not self._tells_numbers:
            self._monitor.lost += event.total_count_change

    # The worker's thread

    def _process(self, frame: Frame) -> None:
        """One frame from the mailbox to its one entry in the books, whatever happens on the way."""
        try:
            cause = self._take_through(frame)
        except Exception:
            cause = 'disabled'
            if self.context.ok():
                cause = 'failed'
                self.get_logger().error(f'frame failed:\n{traceback.format_exc()}', throttle_duration_sec=5.0)
        if cause:
            self._books.drop(cause)

    def _take_through(self, frame: Frame) -> str:
        """Decode, detect, publish. Returns the cause when the frame was dropped, and nothing when it was published."""
        started = time.monotonic()
        header = frame.message.header
        limit = self._setting('max_age_ms')
        if limit and age_ms(messages.stamp_ns(header), self.get_clock().now().nanoseconds) > limit:
            return 'stale'
        try:
            image = messages.to_bgr(frame.message, self._setting('max_image_pixels'))
        except ImageError as error:
            self._monitor.rejection = str(error)
            self.get_logger().warning(f'image rejected: {error}', throttle_duration_sec=5.0)
            return 'undecodable'
        self._monitor.rejection = ''
        decoded = time.monotonic()
        try:
            detections, times = self._detect(image)
        except EngineError as error:
            self._after_failure(error)
            return 'failed'
        times.transport = frame.transport_ms
        times.queue = 1e3 * (started - frame.received)
        times.decode = 1e3 * (decoded - started)
        self._publish(frame, image, detections, times)
        return ''

    def _detect(self, image: BgrImage) -> tuple[Detections, StageTimes]:
        """Detect, with one retry."""
        assert self._detector is not None
        self._detector.thresholds = self._thresholds(self._detector.bundle.thresholds)
        self._detector.max_detections = self._setting('max_detections')
        try:
            return self._detector.detect(image)
        except EngineError as error:
            self._engine_errors += 1
            self.get_logger().warning(f'{error}; trying the frame once more')
            return self._detector.detect(image)

    def _after_failure(self, error: EngineError) -> None:
        """Go on with the CPU where another provider failed; where the CPU failed, disable until somebody enables again."""
        assert self._detector is not None
        self._engine_errors += 1
        if self._detector.engine.info.device != 'cpu':
            failed = self._detector
            try:
                self._detector = self._load_detector(('CPUExecutionProvider',))
                failed.close()
                self._failure = f'running on the CPU after: {error}'
                self.get_logger().error(self._failure)
                return
            except KdPerceptionError as second:
                error = EngineError(f'{error}; the CPU fallback failed as well: {second}')
        self._enabled = False
        self._failure = f'disabled after: {error}. Call ~/enable with true to try again'
        self.get_logger().error(self._failure)

    def _thresholds(self, fallback: Thresholds) -> Thresholds:
        score, iou = self._setting('score_threshold'), self._setting('iou_threshold')
        return Thresholds(fallback.score if score < 0 else score, fallback.iou if iou < 0 else iou)

    def _publish(self, frame: Frame, image: BgrImage, detections: Detections, times: StageTimes) -> None:
        header = frame.message.header
        started = time.monotonic()
        self._detections.publish(self._writer.message(detections, header))
        done = time.monotonic()
        self._books.publish()
        times.publish = 1e3 * (done - started)
        # Without a stamp the age counts from our callback; the stages behind it are known all the same.
        times.age = times.transport + 1e3 * (done - frame.received)
        self._published.tick(done)
        self._times.add(times)
        self._budget_misses += times.age > self._setting('latency_budget_ms')
        try:
            self._publish_extras(image, detections, times, header)
        except Exception as error:  # the frame itself is out and in the books
            if self.context.ok():
                self.get_logger().error(
                    f'annotated image or frame latency not published: {error}', throttle_duration_sec=5.0
                )

    def _publish_extras(self, image: BgrImage, detections: Detections, times: StageTimes, header: Header) -> None:
        """What costs time and is made only while somebody listens."""
        if self._frame_latency.get_subscription_count():
            self._frame_latency.publish(messages.frame_latency_message(times, header, self.get_name()))
        if self._annotated.get_subscription_count():
            assert self._detector is not None
            picture = draw(image.copy(), detections, self._detector.bundle.classes)
            compressed = self._setting('annotated_transport') == 'compressed'
            make = messages.jpeg_message if compressed else messages.image_message
            self._annotated.publish(make(picture, header))

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        now = time.monotonic()
        detector = self._detector
        statuses = [
            diagnostics.input_status(
                diagnostics.InputView(
                    topic=self._image_topic(),
                    lifecycle=self._lifecycle_label(),
                    enabled=self._enabled,
                    timeout=self._setting('input_timeout'),
                    monotonic=now,
                    hint=self._input_hint(),
                    monitor=self._monitor,
                    counts=self._books.snapshot(),
                )
            ),
            diagnostics.latency_status(
                diagnostics.LatencyView(
                    budget_ms=self._setting('latency_budget_ms'),
                    budget_misses=self._budget_misses,
                    fps_out=self._published.rate(now),
                    percentiles=self._times.percentiles(),
                    worst_stage=self._times.worst_stage(),
                )
            ),
            diagnostics.model_status(
                diagnostics.ModelView(
                    bundle=detector.bundle if detector else None,
                    artifact=self._artifact if detector else None,
                    info=detector.engine.info if detector else None,
                    failure=self._failure,
                    engine_errors=self._engine_errors,
                )
            ),
        ]
        for status in statuses:
            status.name = f'{self.get_fully_qualified_name().lstrip("/")}: {status.name}'
        self._diagnostics.publish(
            DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()), status=statuses)
        )

    def destroy_node(self) -> None:
        """Stop the worker and free the engine before the node goes."""
        self._release()
        super().destroy_node()

    def accounts(self) -> str:
        """One line on what became of every frame."""
        counts = self._books.snapshot()
        dropped = ', '.join(f'{count} {cause}' for cause, count in counts.dropped.items() if count) or 'none'
        return f'{counts.received} frames received, {counts.published} published, dropped: {dropped}'

    def _lifecycle_label(self) -> str:
        return str(self._state_machine.current_state[1])

    def _input_hint(self) -> str:
        """Why no image may be coming."""
        topic = self._image_topic()
        wanted = f'sensor_msgs/msg/{"CompressedImage" if self._takes_compressed() else "Image"}'
        publishers = self.get_publishers_info_by_topic(topic)
        if not publishers:
            return f'nobody publishes on {topic}; remap it to the camera: image:=/camera/image_raw'
        if all(publisher.topic_type != wanted for publisher in publishers):
            return f'{topic} carries {publishers[0].topic_type}, not {wanted}; set image_transport'
        return f'{len(publishers)} publisher(s) on {topic}, but nothing arrives; {LARGE_MESSAGE_HINT}'


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    rclpy.init(args=args)
    node = None
    try:
        node = DetectorNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
            print(f'detector: {node.accounts()}', flush=True)
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
