"""Overlays as data: the boxes of a frame, which viewers draw over its image themselves. Made only while somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from geometry_msgs.msg import Point
from rclpy.lifecycle import LifecycleNode
from rclpy.type_support import check_for_type_support
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import ImageMarker

from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import color_of, label_of
from kd_perception.ros import qos

try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation

    check_for_type_support(ImageAnnotations)
except Exception:  # not installed, or built for another distribution, which fails in more ways than ImportError
    HAS_FOXGLOVE = False
else:
    HAS_FOXGLOVE = True

WITHOUT_FOXGLOVE = (
    'image_annotations is not published, for want of foxglove_msgs: sudo apt install ros-$ROS_DISTRO-foxglove-msgs '
    '(image_markers shows the boxes without it)'
)
LINE_PIXELS = 2.0
FONT_PIXELS = 14.0

CreatePublisher = Callable[[LifecycleNode, type, str, Any], Any]


class Overlays:
    """The topics `image_annotations` (where foxglove_msgs is installed) and `image_markers` of one camera."""

    def __init__(self, node: LifecycleNode, prefix: str, create: CreatePublisher) -> None:
        """See the class.

        Args:
            node: publishes.
            prefix: of the topics' names.
            create: makes a lifecycle publisher.
        """
        self._outputs: list[tuple[Any, AnnotationsWriter | MarkerWriter]] = []
        if HAS_FOXGLOVE:
            topic = create(node, ImageAnnotations, f'{prefix}image_annotations', qos.IMAGE)
            self._outputs.append((topic, AnnotationsWriter()))
        topic = create(node, ImageMarker, f'{prefix}image_markers', qos.IMAGE)
        self._outputs.append((topic, MarkerWriter()))

    @property
    def publishers(self) -> list[Any]:
        """What has to be destroyed."""
        return [publisher for publisher, _ in self._outputs]

    def publish(self, detections: Detections, header: Header, names: Sequence[str]) -> None:
        """Send the boxes of a frame under its header; `names` are those of the classes."""
        for publisher, writer in self._outputs:
            if publisher.get_subscription_count():
                publisher.publish(writer.message(detections, header, names))


class AnnotationsWriter:
    """Makes foxglove_msgs/ImageAnnotations of parts that it reuses, since rclpy's constructors would cost more than the rest.

    A box is a closed line in the color of its class, with a text of class, id and score above it.
    """

    def __init__(self) -> None:
        self._loops: list[Any] = []
        self._texts: list[Any] = []
        self._colors: dict[int, Any] = {}
        self._black = Color(a=1.0)

    def message(self, detections: Detections, header: Header, names: Sequence[str]) -> Any:
        """Valid until the next one is made."""
        while len(self._loops) < len(detections):
            loop = PointsAnnotation(type=PointsAnnotation.LINE_LOOP, thickness=LINE_PIXELS)
            loop.points = [Point2() for _ in range(4)]
            self._loops.append(loop)
            self._texts.append(TextAnnotation(font_size=FONT_PIXELS, text_color=self._black))
        loops, texts = self._loops[: len(detections)], self._texts[: len(detections)]
        class_ids = detections.class_ids.tolist()
        for i, (loop, text, box) in enumerate(zip(loops, texts, detections.boxes.tolist(), strict=True)):
            color = self._color(class_ids[i])
            for point, (x, y) in zip(loop.points, _corners(box), strict=True):
                point.x, point.y = x, y
            loop.timestamp, loop.outline_color = header.stamp, color
            text.timestamp, text.background_color = header.stamp, color
            text.text = label_of(detections, i, names)
            # Above the box, or where the image ends there, inside of it.
            text.position.x, text.position.y = box[0], box[1] if box[1] >= FONT_PIXELS else box[1] + FONT_PIXELS
        return ImageAnnotations(points=loops, texts=texts)

    def _color(self, class_id: int) -> Any:
        if class_id not in self._colors:
            blue, green, red = color_of(class_id)
            self._colors[class_id] = Color(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
        return self._colors[class_id]


class MarkerWriter:
    """Makes one visualization_msgs/ImageMarker of all boxes: four lines each in the color of its class. Its form has no text."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._colors: dict[int, ColorRGBA] = {}

    def message(self, detections: Detections, header: Header, names: Sequence[str]) -> ImageMarker:
        """Valid until the next one is made."""
        while len(self._points) < 8 * len(detections):
            self._points.append(Point())
        points = self._points[: 8 * len(detections)]
        ends = [end for box in detections.boxes.tolist() for end in _line_ends(box)]
        for point, (x, y) in zip(points, ends, strict=True):
            point.x, point.y = x, y
        colors = [self._color(class_id) for class_id in detections.class_ids.tolist() for _ in range(4)]
        marker = ImageMarker(header=header, ns='detections', type=ImageMarker.LINE_LIST, action=ImageMarker.ADD)
        marker.scale, marker.points, marker.outline_colors = LINE_PIXELS, points, colors
        return marker

    def _color(self, class_id: int) -> ColorRGBA:
        if class_id not in self._colors:
            blue, green, red = color_of(class_id)
            self._colors[class_id] = ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
        return self._colors[class_id]


def _corners(box: Sequence[float]) -> list[tuple[float, float]]:
    x1, y1, x2, y2 = box
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def _line_ends(box: Sequence[float]) -> list[tuple[float, float]]:
    """Both ends of each of the four sides."""
    corners = _corners(box)
    return [end for i in range(4) for end in (corners[i], corners[(i + 1) % 4])]
