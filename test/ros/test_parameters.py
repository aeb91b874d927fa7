"""One source of parameters: the declarations, config/detector.yaml and the tables in docs/ agree."""

from __future__ import annotations

import math
import re
from array import array

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception import engines
from kd_perception.ros import parameters
from kd_perception.ros.parameter_spec import ParameterError, ParameterSpec


def test_config_is_generated_from_the_source(repository):
    committed = (repository / 'config' / 'detector.yaml').read_text()
    assert committed == parameters.as_yaml(), 'run: python -m kd_perception.ros.parameters --write'


def test_config_holds_every_default(repository):
    values = yaml.safe_load((repository / 'config' / 'detector.yaml').read_text())['/**']['ros__parameters']
    assert values == {spec.name: spec.default_value for spec in parameters.specs().values()}


@pytest.mark.parametrize('name', parameters.PAGES)
def test_tables_are_generated_from_their_sources(repository, name):
    page = (repository / name).read_text(encoding='utf-8')
    node, source = parameters.PAGES[name]
    assert parameters.with_tables(page, node, source) == page, 'run: python -m kd_perception.ros.parameters --write'


def test_the_node_reads_every_parameter_and_no_other(repository):
    files = (repository / 'kd_perception' / 'ros').glob('*.py')
    sources = [file for file in files if file.name not in ('scene_camera.py', 'replay.py')]
    used = {name for file in sources for name in re.findall(r"setting\('(\w+)'", file.read_text())}
    assert used == set(parameters.specs())


def test_the_engine_may_be_any_in_the_registry_or_auto():
    assert parameters.specs()['engine'].one_of == ('auto', *engines.ENGINES)


@pytest.mark.parametrize('profile', ['jetson_orin_nano', 'jetson_xavier', 'raspberry_pi_5', 'raspberry_pi_4', 'pc',
                                     'drone_nadir', 'vehicle_front'])  # fmt: skip
def test_profiles_set_only_parameters_that_exist_to_values_that_are_allowed(repository, profile):
    document = yaml.safe_load((repository / 'config' / 'profiles' / f'{profile}.yaml').read_text())
    for name, value in document['/**']['ros__parameters'].items():
        spec = parameters.specs()[name]
        assert type(value) is type(spec.default_value), f'{name}: {value!r}'
        assert spec.read(value) == value


SHARE = ParameterSpec('x', 'double', 0.5, '', bounds=(0, 1))
COUNT = ParameterSpec('x', 'int', 3, '', bounds=(1, 5))
WAY = ParameterSpec('x', 'string', 'raw', '', one_of=('raw', 'compressed'))
MODE = ParameterSpec('x', 'string', 'off', '', one_of=('off', 'skip'))
NAME = ParameterSpec('x', 'string', 'car', '')
SWITCH = ParameterSpec('x', 'bool', False, '')
NAMES = ParameterSpec('x', 'string_array', [''], '')


@pytest.mark.parametrize(
    ('spec', 'given', 'value'),
    [
        (SHARE, 0.25, 0.25),
        (SHARE, 1, 1.0),  # latency_budget_ms: 100
        (SHARE, '1e-05', 1e-05),  # as Python writes it, YAML takes it for a text
        (COUNT, 5, 5),
        (MODE, False, 'off'),  # YAML's off
        (MODE, 'off', 'off'),
        (NAMES, ['a', 'b'], ['a', 'b']),
        (NAMES, 'a', ['a']),
        (NAMES, None, ['']),  # [] in a parameter file has no type
        (NAMES, [], ['']),  # [] of ros2 param set is an empty list of booleans
        (NAMES, array('q'), ['']),
        (NAME, 'größer', 'größer'),
    ],
)
def test_a_value_is_read_as_it_was_meant(spec, given, value):
    read = spec.read(given)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ('spec', 'given', 'says'),
    [
        (SHARE, 1.5, 'x must lie in [0, 1], not 1.5'),
        (SHARE, math.nan, 'not nan'),
        (SHARE, -math.inf, 'not -inf'),
        (SHARE, 'nan', 'not nan'),
        (SHARE, True, 'x must be a number, not true'),
        (SHARE, 'much', "x must be a number, not 'much'"),
        (SHARE, None, 'not []'),
        (SHARE, [0.5], 'not [0.5]'),
        (COUNT, 2.0, 'x must be an integer, not 2.0'),
        (COUNT, 2**63 - 1, 'x must lie in [1, 5]'),
        (COUNT, True, 'not true'),
        (COUNT, array('q', [1, 2]), 'not [1, 2]'),
        (SWITCH, 0, 'x must be true or false, not 0'),
        (SWITCH, 'off', "not 'off'"),
        (MODE, True, 'x must be one of off, skip, not true'),
        (NAME, False, 'x must be a text, not false'),
        (NAME, 7, 'x must be a text, not 7'),
        (NAME, '', 'x must not be empty'),
        (NAME, 'a\0b', "not 'a\\x00b'"),
        (NAME, 'a\nb', 'printable'),
        (NAME, '\udc80', 'printable'),
        (NAME, 'x' * 5000, 'x has 5000 characters'),
        (WAY, 'compresed', "not 'compresed'; did you mean 'compressed'?"),
        (WAY, 'y' * 5000, 'yyy…'),
        (NAMES, [1], 'x must be a list of texts; 1 is none'),
        (NAMES, array('d', [0.5]), '0.5 is none'),
        (NAMES, [b'\x07'], 'is none'),
        (NAMES, ['a'] * 65, 'x has 65 entries'),
        (NAMES, ['a\x1b'], 'printable'),
        (NAMES, 7, 'x must be a list of texts, not 7'),
    ],
)
def test_refusals_say_what_is_allowed(spec, given, says):
    with pytest.raises(ParameterError, match='^x ') as refusal:
        spec.read(given)
    assert says in str(refusal.value)
    assert str(refusal.value).isprintable()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(max_size=1),
    lambda values: st.lists(values, max_size=3),
    max_leaves=4,
)


def read_or_refusal(spec: ParameterSpec, given: object) -> tuple[object, str]:
    try:
        return spec.read(given), ''
    except ParameterError as refusal:
        return None, str(refusal)


@pytest.mark.parametrize('name', parameters.specs())
@given(value=ANYTHING)
@settings(max_examples=50, deadline=None)
def test_whatever_is_given_is_a_value_of_the_parameters_type_or_a_refusal_in_one_line(name, value):
    spec = parameters.specs()[name]
    read, refusal = read_or_refusal(spec, value)
    if refusal:
        assert name in refusal
        assert refusal.isprintable()
        assert len(refusal) < 400
    else:
        assert type(read) is type(spec.default_value)
        assert spec.read(read) == read


def test_a_former_name_is_found():
    assert parameters.find('input_timeout') is parameters.specs()['input_timeout_s']
    assert parameters.find('no_such_name') is None


COUNTS_AND_SHARES = {
    *('max_map_drop', 'threads', 'tile_overlap', 'score_threshold', 'iou_threshold', 'max_detections'),
    *('track_high_score', 'track_publish_score', 'track_match_iou'),
}


def test_what_has_a_unit_ends_in_it():
    numbers = {name for name, spec in parameters.specs().items() if spec.type in ('int', 'double')}
    assert numbers > COUNTS_AND_SHARES
    for name in numbers - COUNTS_AND_SHARES:
        assert name.endswith(('_s', '_ms', '_hz', '_pixels', '_frames'))


@pytest.mark.parametrize(('kind', 'default'), [('int', 0.5), ('double', 1), ('string', 3)])
def test_a_default_of_another_type_is_an_error(kind, default):
    with pytest.raises(ValueError, match='is not of type'):
        ParameterSpec('x', kind, default, '')


def test_a_default_out_of_its_bounds_is_an_error():
    with pytest.raises(ValueError, match='the default of x must lie in'):
        ParameterSpec('x', 'int', 7, '', bounds=(1, 5))
