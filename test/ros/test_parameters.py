"""One source of parameters: the declarations, config/detector.yaml and the table in docs/node.md agree."""

from __future__ import annotations

import re

import pytest
import yaml

from kd_perception import engines
from kd_perception.ros import parameters
from kd_perception.ros.parameters import ParameterSpec


def test_config_is_generated_from_the_source(repository):
    committed = (repository / 'config' / 'detector.yaml').read_text()
    assert committed == parameters.as_yaml(), 'run: python -m kd_perception.ros.parameters --write'


def test_config_holds_every_default(repository):
    values = yaml.safe_load((repository / 'config' / 'detector.yaml').read_text())['/**']['ros__parameters']
    assert values == {spec.name: spec.default_value for spec in parameters.specs().values()}


def test_readme_table_is_generated_from_the_source(repository):
    page = (repository / 'docs' / 'node.md').read_text()
    assert parameters.with_table(page) == page, 'run: python -m kd_perception.ros.parameters --write'


def test_the_node_reads_every_parameter_and_no_other(repository):
    folder = repository / 'kd_perception' / 'ros'
    source = ''.join((folder / name).read_text() for name in ('detector_node.py', 'camera.py'))
    assert set(re.findall(r"_setting\('(\w+)'", source)) == set(parameters.specs())


def test_the_engine_may_be_any_in_the_registry_or_auto():
    assert parameters.specs()['engine'].one_of == ('auto', *engines.ENGINES)


@pytest.mark.parametrize('profile', ['jetson_orin_nano', 'jetson_xavier', 'raspberry_pi_5', 'raspberry_pi_4', 'pc',
                                     'drone_nadir', 'vehicle_front'])  # fmt: skip
def test_profiles_set_only_parameters_that_exist_to_values_that_are_allowed(repository, profile):
    document = yaml.safe_load((repository / 'config' / 'profiles' / f'{profile}.yaml').read_text())
    for name, value in document['/**']['ros__parameters'].items():
        spec = parameters.specs()[name]
        assert type(value) is type(spec.default_value), f'{name}: {value!r}'
        assert spec.refusal(value) == ''


@pytest.mark.parametrize(
    ('spec', 'value', 'says'),
    [
        (ParameterSpec('x', 'double', 0.5, '', bounds=(0, 1)), 1.5, 'x must lie in [0, 1], not 1.5'),
        (
            ParameterSpec('x', 'string', 'raw', '', one_of=('raw', 'compressed')),
            'compresed',
            "did you mean 'compressed'?",
        ),
        (ParameterSpec('x', 'int', 3, '', bounds=(1, 5)), 3, ''),
    ],
)
def test_refusals_say_what_is_allowed(spec, value, says):
    assert spec.refusal(value).endswith(says)
    assert bool(spec.refusal(value)) == bool(says)


@pytest.mark.parametrize(('kind', 'default'), [('int', 0.5), ('double', 1), ('string', 3)])
def test_a_default_of_another_type_is_an_error(kind, default):
    with pytest.raises(ValueError, match='is not of type'):
        ParameterSpec('x', kind, default, '')


def test_a_default_out_of_its_bounds_is_an_error():
    with pytest.raises(ValueError, match='the default of x must lie in'):
        ParameterSpec('x', 'int', 7, '', bounds=(1, 5))
