"""Overlays over real DDS: the boxes of a frame as data for viewers, made only while somebody listens."""

from __future__ import annotations

import numpy as np
import pytest
from detector_process import wait_for
from networks import doubles, image_with_cells, make_bundle
from std_msgs.msg import Header
from visualization_msgs.msg import ImageMarker

from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import PALETTE
from kd_perception.ros import messages, overlays, qos

BOX = (16.0, 16.0, 32.0, 32.0)
"""Cell 5 of the grid."""


@pytest.fixture
def node(start_node, tmp_path):
    make_bundle(tmp_path / 'doubles', network=doubles())
    return start_node(model=str(tmp_path / 'doubles'), tracker='bytetrack')


def listen(node, kind: type, topic: str) -> list:
    heard: list = []
    node.client.create_subscription(kind, topic, heard.append, qos.IMAGE)
    wait_for(lambda: node.node.count_subscribers(topic), topic)
    return heard


def colors(*class_ids: int) -> list[tuple[float, ...]]:
    return [tuple(value / 255 for value in PALETTE[class_id][::-1]) for class_id in class_ids]


def detect_until(node, heard: list) -> Header:
    """Detect until what is published has been heard; the header of the newest answer."""
    headers: list[Header] = []

    def has_come() -> bool:
        headers.append(node.client.detect(image_with_cells(5)).header)
        return bool(heard)

    wait_for(has_come, 'the overlay')
    return headers[-1]


def test_markers_are_four_lines_a_box_in_the_color_of_its_class(node):
    heard = listen(node, ImageMarker, 'image_markers')
    header = detect_until(node, heard)
    wait_for(lambda: heard[-1].header == header, 'the marker of the newest frame')
    marker = heard[-1]
    x1, y1, x2, y2 = BOX
    sides = [(x1, y1), (x2, y1), (x2, y1), (x2, y2), (x2, y2), (x1, y2), (x1, y2), (x1, y1)]
    assert marker.type == ImageMarker.LINE_LIST
    assert [(point.x, point.y) for point in marker.points] == 2 * sides
    found = [(color.r, color.g, color.b) for color in marker.outline_colors]
    np.testing.assert_allclose(found, [color for color in colors(0, 1) for _ in range(4)], atol=1e-6)


def test_annotations_are_boxes_with_class_id_and_score(node):
    foxglove = pytest.importorskip('foxglove_msgs.msg', reason='foxglove_msgs is not installed')
    heard = listen(node, foxglove.ImageAnnotations, 'image_annotations')
    header = detect_until(node, heard)
    wait_for(lambda: heard[-1].points[0].timestamp == header.stamp, 'the annotations of the newest frame')
    message = heard[-1]
    x1, y1, x2, y2 = BOX
    for loop, color in zip(message.points, colors(0, 1), strict=True):
        assert loop.type == foxglove.PointsAnnotation.LINE_LOOP
        assert [(point.x, point.y) for point in loop.points] == [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        assert (loop.outline_color.r, loop.outline_color.g, loop.outline_color.b) == pytest.approx(color)
    assert [text.text for text in message.texts] == ['bright 1 1.00', 'blue 2 0.80']
    assert [(text.position.x, text.position.y) for text in message.texts] == [(x1, y1)] * 2


def test_nothing_is_made_while_nobody_listens(node, monkeypatch):
    made: list[object] = []
    (camera,) = node.node._cameras
    for _, writer in camera._overlays._outputs:
        monkeypatch.setattr(writer, 'message', lambda *_: made.append(_))
    for _ in range(3):
        node.client.detect(image_with_cells(5))
    node.wait_for_counts(received=3, published=3)
    assert made == []


def test_without_foxglove_msgs_the_topic_is_absent_and_the_log_says_what_to_install(start_node, monkeypatch, capfd):
    monkeypatch.setattr(overlays, 'HAS_FOXGLOVE', False)
    node = start_node()
    names = [name for name, _ in node.node.get_publisher_names_and_types_by_node('detector', '/')]
    assert '/image_markers' in names
    assert '/image_annotations' not in names
    assert 'foxglove_msgs: sudo apt install' in capfd.readouterr().err
    assert len(node.client.detect(image_with_cells(5)).detections) == 1


@pytest.mark.parametrize('count', [0, 1, 3, 2])
def test_parts_are_made_again_for_every_frame(count):
    """A frame with fewer boxes than the one before has only its own."""
    writer, header = overlays.MarkerWriter(), messages.header_at(1, 'camera')
    for boxes in (3, count):
        found = Detections(np.tile([BOX], (boxes, 1)), np.ones(boxes), np.zeros(boxes))
        marker = writer.message(found, header, ())
        assert (len(marker.points), len(marker.outline_colors)) == (8 * boxes, 4 * boxes)


def test_a_label_at_the_upper_border_is_inside_the_box():
    if not overlays.HAS_FOXGLOVE:
        pytest.skip('foxglove_msgs is not installed')
    found = Detections([[10, 5, 30, 25], [10, 50, 30, 70]], [0.5, 0.25], [9, 1])
    message = overlays.AnnotationsWriter().message(found, messages.header_at(1, 'camera'), ('car', 'truck'))
    assert [text.position.y for text in message.texts] == [5 + overlays.FONT_PIXELS, 50]
    assert [text.text for text in message.texts] == ['9 0.50', 'truck 0.25']
