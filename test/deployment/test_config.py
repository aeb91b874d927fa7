"""The configuration files agree with the parameters that the node declares."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from kd_perception.ros import parameters

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / 'config'
PROFILES = sorted(path.stem for path in (CONFIG / 'profiles').glob('*.yaml'))
LARGEST_IMAGE = 1920 * 1080 * 3


def test_detector_yaml_is_generated_from_the_parameter_source() -> None:
    assert (CONFIG / 'detector.yaml').read_text(encoding='utf-8') == parameters.as_yaml(), (
        'run python -m kd_perception.ros.parameters --write'
    )


def test_every_board_and_stack_has_its_profile() -> None:
    boards = {'jetson_orin_nano', 'jetson_xavier', 'raspberry_pi_5', 'raspberry_pi_4', 'pc'}
    assert set(PROFILES) == boards | {'drone_nadir', 'vehicle_front'}


@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_sets_parameters_that_exist_to_values_that_are_accepted(name: str) -> None:
    document = yaml.safe_load((CONFIG / 'profiles' / f'{name}.yaml').read_text(encoding='utf-8'))
    overrides = document['/**']['ros__parameters']
    specs = parameters.specs()
    assert overrides
    for parameter, value in overrides.items():
        assert type(value) is type(specs[parameter].default_value), parameter
        assert specs[parameter].read(value) == value


def test_shared_memory_profile_holds_two_of_the_largest_images() -> None:
    root = ElementTree.parse(CONFIG / 'fastdds_shm.xml').getroot()
    name = root.tag.removesuffix('dds')
    (segment,) = (int(element.text or 0) for element in root.iter(f'{name}segment_size'))
    assert segment >= 2 * LARGEST_IMAGE
    assert [element.text for element in root.iter(f'{name}type')] == ['SHM', 'UDPv4']


def test_rviz_shows_the_annotated_image_as_the_node_publishes_it() -> None:
    document = yaml.safe_load((CONFIG / 'detector.rviz').read_text(encoding='utf-8'))
    (display,) = document['Visualization Manager']['Displays']
    assert display['Class'] == 'rviz_default_plugins/Image'
    assert display['Topic']['Value'] == '/image_annotated'
    assert display['Topic']['Reliability Policy'] == 'Best Effort'
