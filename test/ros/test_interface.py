"""The tables of topics and services hold what the running nodes really have, no more and no less."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from detector_process import default_settings, wait_for
from networks import make_bundle
from rclpy.node import Node
from rclpy.parameter import Parameter

from kd_perception.ros import overlays, parameters
from kd_perception.ros.detector_node import DetectorNode
from kd_perception.ros.interface import Endpoint, endpoints
from kd_perception.ros.localizer_node import LocalizerNode
from kd_perception.ros.scene_camera import SceneCamera
from kd_perception.ros.spinning import spinning

NODES = {'detector': DetectorNode, 'localizer': LocalizerNode, 'scene_camera': SceneCamera}
SOURCES = dict(parameters.PAGES.values())
OF_EVERY_NODE = {'rcl_interfaces', 'lifecycle_msgs', 'type_description_interfaces'}
"""Packages of the types of what ROS itself gives nodes and lifecycle nodes."""
ABSENT = set() if overlays.HAS_FOXGLOVE else {'foxglove_msgs'}
Row = tuple[str, str, str, str, str]
"""Direction, name, type, reliability, durability."""


@contextmanager
def running(node: str, settings: Mapping[str, Any]) -> Iterator[Node]:
    """The node, and another that sees it in the ROS graph."""
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    with spinning(NODES[node](parameter_overrides=overrides)), spinning(Node('onlooker')) as onlooker:
        yield onlooker
    gc.collect()  # a node is in a cycle, and in the graph until that is collected


def seen(onlooker: Node, node: str) -> set[Row]:
    """All that the graph shows of a node."""
    rows = set()
    for direction, names, infos in (
        ('in', onlooker.get_subscriber_names_and_types_by_node, onlooker.get_subscriptions_info_by_topic),
        ('out', onlooker.get_publisher_names_and_types_by_node, onlooker.get_publishers_info_by_topic),
    ):
        for name, types in names(node, '/'):
            for info in infos(name):
                if info.node_name == node:
                    profile = info.qos_profile
                    policies = profile.reliability.name.lower(), profile.durability.name.lower()
                    rows |= {(direction, name, kind, *policies) for kind in types}
    rows |= {
        ('service', name, kind, '', '')
        for name, types in onlooker.get_service_names_and_types_by_node(node, '/')
        for kind in types
    }
    return {row for row in rows if row[2].partition('/')[0] not in OF_EVERY_NODE}


def stated(endpoint: Endpoint, node: str, cameras: list[str]) -> Iterator[Row]:
    """What the graph should show of an endpoint."""
    name = endpoint.name.replace('~', f'/{node}')
    names = [f'/{camera}/{name}' for camera in cameras] if endpoint.per_camera and cameras != [''] else [name]
    durability = endpoint.durability if endpoint.reliability else ''
    for one in names:
        yield endpoint.direction, f'/{one.lstrip("/")}', endpoint.type, endpoint.reliability, durability


@pytest.mark.usefixtures('_rclpy')
@pytest.mark.parametrize(
    ('node', 'settings'),
    [
        ('detector', {}),
        ('detector', {'image_transport': 'compressed', 'annotated_transport': 'compressed'}),
        ('detector', {'cameras': ['front', 'rear']}),
        ('localizer', {}),
        ('localizer', {'mode': 'ground', 'target_frame': 'map'}),
        ('scene_camera', {'fps': 0.5}),
        ('scene_camera', {'fps': 0.5, 'depth': '16UC1', 'width': 64, 'height': 48}),
    ],
    ids=str,
)
def test_the_tables_hold_what_the_nodes_have(node, settings, tmp_path):
    given = dict(settings)
    if node == 'detector':
        make_bundle(tmp_path / 'bright_cells')
        given = {**default_settings(), 'model': str(tmp_path / 'bright_cells'), **settings}
    values = {name: spec.default_value for name, spec in parameters.specs(SOURCES[node]).items()} | given
    there = [one for one in endpoints(node) if one.is_there(values) and one.needs not in ABSENT]
    wanted = {row for one in there for row in stated(one, node, values.get('cameras', ['']))}
    with running(node, given) as onlooker:
        wait_for(lambda: wanted <= seen(onlooker, node), f'{sorted(wanted - seen(onlooker, node))}')
        assert seen(onlooker, node) == wanted


@pytest.mark.parametrize('node', NODES)
def test_conditions_name_parameters_and_values_that_there_are(node):
    specs = parameters.specs(SOURCES[node])
    for endpoint in endpoints(node):
        assert endpoint.direction in ('in', 'out', 'service')
        for name, values in endpoint.when.items():
            assert set(values) <= set(specs[name].one_of)


def test_the_readme_names_what_there_is(repository):
    text = (repository / 'README.md').read_text(encoding='utf-8')
    rows = [line for line in text.splitlines() if re.match(r'\| (in|out|service|node `localizer`) \|', line)]
    named = [name for row in rows for name in re.findall(r'`([^`]+)`', row.split('|')[2])]
    assert len(named) >= 10
    assert set(named) <= {endpoint.name for node in NODES for endpoint in endpoints(node)}
