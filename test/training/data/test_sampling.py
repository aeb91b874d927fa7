"""Which images a stage takes: each session in proportion, the same for the same seed."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampling import NAMES, SESSIONS, stratified, training_images
from training.errors import DataError, RecipeError


@pytest.fixture
def folder(tmp_path):
    """Sixty images of Berlin before twenty of Bremen and four of Ulm, whose names do not say so."""
    images = []
    (tmp_path / 'images/train').mkdir(parents=True)
    (tmp_path / 'annotations').mkdir()
    for number in range(84):
        name = f'{number:03d}.jpg'
        (tmp_path / 'images/train' / name).touch()
        images.append({'file_name': name, 'session': 'Berlin' if number < 60 else 'Bremen' if number < 80 else 'Ulm'})
    (tmp_path / 'annotations/train.json').write_text(json.dumps({'images': images}))
    return tmp_path


def cities(images):
    return Counter('Berlin' if int(file.stem) < 60 else 'Bremen' if int(file.stem) < 80 else 'Ulm' for file in images)


def test_a_sixth_of_the_images_is_a_sixth_of_every_session(folder):
    taken = training_images(folder, 21, SESSIONS, 0)
    assert cities(taken) == {'Berlin': 15, 'Bremen': 5, 'Ulm': 1}
    assert taken == sorted(taken)
    assert taken == training_images(folder, 21, SESSIONS, 0)
    assert taken != training_images(folder, 21, SESSIONS, 1)


def test_ranges_share_none_and_make_up_the_whole(folder):
    parts = [set(training_images(folder, wanted, SESSIONS, 3)) for wanted in ((0, 30), (30, 60), (60, 84))]
    assert set().union(*parts) == set(training_images(folder, 'all', SESSIONS, 3))
    assert sum(map(len, parts)) == 84
    assert parts[0] < set(training_images(folder, 40, SESSIONS, 3))


def test_by_name_the_first_ones_are_taken(folder):
    assert [file.stem for file in training_images(folder, 3, NAMES, 0)] == ['000', '001', '002']
    assert [file.stem for file in training_images(folder, (2, 4), NAMES, 0)] == ['002', '003']


def test_a_set_with_fewer_is_refused(folder):
    with pytest.raises(RecipeError, match='holds 84 training images, but a stage asks for 0 to 85; `all` takes'):
        training_images(folder, 85, SESSIONS, 0)
    (folder / 'annotations/train.json').write_text('[1]')
    with pytest.raises(DataError, match='no list of images'):
        training_images(folder, 3, SESSIONS, 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 9), st.data())
def test_every_beginning_holds_each_session_in_proportion(sessions, seed, data):
    names = [str(session) for session in sessions]
    order = stratified(list(range(len(names))), names, seed)
    assert sorted(order) == list(range(len(names)))
    count = data.draw(st.integers(0, len(names)))
    taken, whole = Counter(names[place] for place in order[:count]), Counter(names)
    for session, of_whole in whole.items():
        share = of_whole * count / len(names)
        assert abs(taken[session] - share) <= 1 + len(whole) * of_whole / len(names)
