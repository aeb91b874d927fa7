"""Positions as visualization_msgs/MarkerArray: a box and a text for each, for RViz and Foxglove's 3D panel."""

from __future__ import annotations

from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from kd_perception.detection.drawing import color_of

LEAST_SIDE = 0.05
"""Meters: a side that is not known, as the height on flat ground, is drawn so long."""
TEXT_HEIGHT = 1.0
"""Meters."""
BOXES, TEXTS = 'boxes', 'labels'


def marker_array(message: Detection3DArray, names: dict[str, int]) -> MarkerArray:
    """Markers of a message's detections, in place of those of before.

    Args:
        message: under its header the markers are sent.
        names: class ids that are no numbers → number of their color; grows with every new one.
    """
    markers = [Marker(header=message.header, action=Marker.DELETEALL)]
    for number, detection in enumerate(message.detections):
        best = max(detection.results, key=lambda result: result.hypothesis.score, default=None)
        class_id = '' if best is None else best.hypothesis.class_id
        color = _color(int(class_id) if class_id.isdecimal() else names.setdefault(class_id, len(names)))
        size, center = detection.bbox.size, detection.bbox.center
        box = Marker(header=message.header, ns=BOXES, id=number, type=Marker.CUBE, pose=center, color=color)
        box.scale = Vector3(**{axis: max(getattr(size, axis), LEAST_SIDE) for axis in 'xyz'})
        above = center.position.z + max(size.x, size.y, size.z) / 2 + TEXT_HEIGHT
        pose = Pose(position=Point(x=center.position.x, y=center.position.y, z=above))
        text = Marker(header=message.header, ns=TEXTS, id=number, type=Marker.TEXT_VIEW_FACING, pose=pose)
        text.scale.z, text.color = TEXT_HEIGHT, ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        text.text = ' '.join(filter(None, [class_id, detection.id]))
        markers += [box, text]
    return MarkerArray(markers=markers)


def _color(number: int) -> ColorRGBA:
    blue, green, red = color_of(number)
    return ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=0.5)
