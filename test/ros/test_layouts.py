"""The layouts for Foxglove and RViz name topics, types and keys that the nodes publish."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detector_process import wait_for
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter

from kd_perception.ros import overlays, qos
from kd_perception.ros.localizer_node import LocalizerNode
from kd_perception.ros.scene_camera import SceneCamera
from kd_perception.ros.spinning import spinning

CONFIG = Path(__file__).resolve().parents[2] / 'config'
RVIZ_TYPES = {
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
}
SHOWS = {
    'imageTopic': 'sensor_msgs/msg/Image',
    'topicToRender': 'diagnostic_msgs/msg/DiagnosticArray',
    'annotations': 'foxglove_msgs/msg/ImageAnnotations',
    'topics': 'visualization_msgs/msg/MarkerArray',
}
"""Key of a panel's configuration → type of the topics that it names."""
PATH = re.compile(r'(/[\w/]+)\.(.+)')
FIELD = re.compile(r'\{(\w+)=="([^"]+)"\}')


@pytest.fixture
def node(start_node):
    return start_node()


@pytest.fixture
def published(node) -> Iterator[dict[str, str]]:
    """Topic → type of what camera, detector and localizer publish under their own names."""
    with (
        spinning(LocalizerNode()) as localizer,
        spinning(SceneCamera(parameter_overrides=[Parameter('fps', value=0.5)])),
    ):
        wait_for(
            lambda: localizer.count_publishers('/image') and localizer.count_publishers('/image_annotated'), 'topics'
        )
        yield {name: types[0] for name, types in localizer.get_topic_names_and_types()}


def topics_of_panels(layout: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Topic and type of everything that a panel shows."""
    for panel in layout['configById'].values():
        for key, value in [*panel.items(), *panel.get('imageMode', {}).items()]:
            if key in SHOWS:
                yield from ((topic, SHOWS[key]) for topic in ([value] if isinstance(value, str) else value))


def test_foxglove_shows_what_is_published(published):
    layout = json.loads((CONFIG / 'foxglove.json').read_text(encoding='utf-8'))
    shown = dict(topics_of_panels(layout))
    shown['/image_markers'] = 'visualization_msgs/msg/ImageMarker'
    if not overlays.HAS_FOXGLOVE:
        del shown['/image_annotations']
    assert {'/image', '/diagnostics', '/detections_3d/markers'} <= shown.keys()
    assert {topic: published.get(topic) for topic in shown} == shown


def test_every_panel_has_its_place_in_foxglove():
    layout = json.loads((CONFIG / 'foxglove.json').read_text(encoding='utf-8'))

    def leaves(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else [*leaves(node['first']), *leaves(node['second'])]

    assert sorted(leaves(layout['layout'])) == sorted(layout['configById'])


def test_foxglove_plots_and_tables_take_fields_that_are_there(node, published):
    arrays: list[DiagnosticArray] = []
    node.client.create_subscription(DiagnosticArray, 'detector/frame_latency', arrays.append, qos.IMAGE)
    node.client.create_subscription(DiagnosticArray, '/diagnostics', arrays.append, 10)

    def there() -> set[tuple[str, str]]:
        return {(status.name, value.key) for array in arrays for status in array.status for value in status.values}

    layout = json.loads((CONFIG / 'foxglove.json').read_text(encoding='utf-8'))
    paths = [path['value'] for panel in layout['configById'].values() for path in panel.get('paths', [])]
    wanted = set()
    for path in paths:
        topic, fields = PATH.fullmatch(path).groups()
        assert published[topic] == 'diagnostic_msgs/msg/DiagnosticArray'
        named = dict(FIELD.findall(fields))
        wanted.add((named.get('name', 'frame_latency'), named['key']))
    assert len(wanted) == len(paths) > 10
    wait_for(lambda: wanted <= there(), f'{wanted}')
    table = layout['configById']['Table!tracks']['topicPath']
    assert table == '/detections.detections[:]'
    assert published['/detections'] == 'vision_msgs/msg/Detection2DArray'


@pytest.mark.parametrize('name', ['detector.rviz', 'localizer.rviz'])
def test_rviz_shows_what_is_published(published, name):
    document = yaml.safe_load((CONFIG / name).read_text(encoding='utf-8'))
    shown = {
        display['Topic']['Value']: RVIZ_TYPES[display['Class']]
        for display in document['Visualization Manager']['Displays']
        if 'Topic' in display
    }
    assert {topic: published.get(topic) for topic in shown} == shown
