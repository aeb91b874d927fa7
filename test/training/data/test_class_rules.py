"""Which of the source's classes are learnt, ignored, or background."""

import pytest
from data_sets import write_text

from training.data.class_rules import class_rules, read_class_map
from training.errors import DataError

NAMES, IGNORED, DROPPED = ('car', 'van', 'Bus'), ('trailer',), ('others',)


def rules(**changes):
    return class_rules(NAMES, IGNORED, DROPPED, **changes)


@pytest.mark.parametrize(
    ('changes', 'classes', 'targets'),
    [
        (
            {},
            ('car', 'van', 'Bus'),
            {'car': 'car', 'van': 'van', 'bus': 'Bus', 'trailer': 'ignore', 'others': 'others'},
        ),
        ({'classes': ('bus', 'car')}, ('Bus', 'car'), {'bus': 'Bus', 'car': 'car', 'trailer': 'ignore'}),
        ({'class_map': {'van': 'car'}}, ('car', 'Bus'), {'van': 'car', 'car': 'car'}),
        ({'class_map': {'VAN': 'lorry'}}, ('car', 'lorry', 'Bus'), {'van': 'lorry'}),
        ({'class_map': {'van': 'ignore'}}, ('car', 'Bus'), {'van': 'ignore'}),
        ({'class_map': {'trailer': 'car'}}, ('car', 'van', 'Bus'), {'trailer': 'car'}),
        ({'class_map': {'others': 'thing'}}, ('car', 'van', 'Bus', 'thing'), {'others': 'thing'}),
        ({'ignored_instead': ('van',)}, ('car', 'Bus'), {'van': 'ignore'}),
        ({'classes': ('trailer',), 'ignored_instead': ()}, ('trailer',), {'trailer': 'trailer'}),
    ],
)
def test_wishes_are_combined_with_the_formats_rules(changes, classes, targets):
    found = rules(**changes)
    assert found.classes == classes
    learnt = {name: target for name, target in targets.items() if target in (*classes, 'ignore')}
    assert learnt.items() <= found.targets.items()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'classes': ('card',)}, "'card' among the classes is no class of the data: did you mean 'car'"),
        ({'class_map': {'vann': 'car'}}, "'vann' in the class map is no class of the data: did you mean 'van'"),
        ({'ignored_instead': ('bike',)}, "'bike' to ignore is no class of the data"),
        ({'ignored_instead': NAMES}, 'no class is left'),
    ],
)
def test_unknown_names_are_refused_and_the_nearest_offered(changes, message):
    with pytest.raises(DataError, match=message):
        rules(**changes)


def test_class_maps_are_pairs_or_files(tmp_path):
    file = write_text(tmp_path / 'map.yaml', 'van: car\ntrailer: ignore\n')
    assert read_class_map([str(file), 'bus = lorry']) == {'van': 'car', 'trailer': 'ignore', 'bus': 'lorry'}


@pytest.mark.parametrize('text', ['[van, car]', 'van: [car]', 'van: {', '3'])
def test_other_files_are_no_class_maps(tmp_path, text):
    with pytest.raises(DataError, match='class map'):
        read_class_map([str(write_text(tmp_path / 'map.yaml', text))])
