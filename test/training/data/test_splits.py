"""Training and validation by session."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.picture import Picture, session_of
from training.data.splits import assign_splits, draw_validation, shared_sessions
from training.errors import DataError


def pictures(*names, split=''):
    return [Picture(name, lambda: np.zeros((1, 1, 3), np.uint8), (), session_of(name), split) for name in names]


def splits(found):
    return {picture.name: picture.split for picture in found}


def assign(found, **changes):
    settings = {'split_by': 'source', 'session_pattern': '', 'val_share': 0.5, 'seed': 0, **changes}
    return assign_splits(found, **settings)


@pytest.mark.parametrize(
    ('name', 'session'),
    [
        ('DJI_0005-0018.jpg', 'DJI_0005'),
        ('V_AIRPLANE_001_f0098.jpg', 'V_AIRPLANE_001_f'),
        ('000000000139.jpg', '000000000139'),
        ('drive/00012.png', 'drive/'),
        ('559a_jpg.rf.0bc1.jpg', '559a_jpg'),
    ],
)
def test_names_tell_sessions(name, session):
    assert session_of(name) == session


def test_the_sources_own_splits_stay():
    found = [*pictures('a1', 'b1', split='train'), *pictures('a2', split='val'), *pictures('c1', split='test')]
    assert splits(assign(found)) == {'a1': 'train', 'b1': 'train', 'a2': 'val', 'c1': 'test'}


def test_a_missing_validation_is_taken_from_train_and_test_stays():
    found = splits(assign([*pictures('a1', 'a2', 'b1', 'b2', split='train'), *pictures('c1', split='test')]))
    assert found['c1'] == 'test'
    assert found['a1'] == found['a2'] != found['b1'] == found['b2']


def test_splits_can_be_drawn_anew():
    found = [*pictures('a1', 'b1', split='train'), *pictures('a2', 'b2', split='val')]
    assert not shared_sessions(assign(found, split_by='session'))
    assert shared_sessions(found) == {'a': ['train', 'val'], 'b': ['train', 'val']}


def test_the_users_pattern_finds_sessions():
    found = assign(pictures('x-left-1', 'x-right-1', 'y-left-1', 'y-right-1'), session_pattern='-(left|right)-')
    assert {picture.session for picture in found} == {'left', 'right'}


@pytest.mark.parametrize(
    ('pattern', 'message'), [('(', 'no regular expression'), ('z', 'does not match the picture x1')]
)
def test_patterns_that_do_not_serve_are_refused(pattern, message):
    with pytest.raises(DataError, match=message):
        assign(pictures('x1', 'y1'), session_pattern=pattern)


def test_one_session_alone_cannot_be_parted():
    with pytest.raises(DataError, match=r'of one session, .*--session-pattern'):
        assign(pictures('x1', 'x2'))
    assert set(splits(assign(pictures('x1', 'x2'), val_share=0)).values()) == {'train'}


@given(st.lists(st.sampled_from('abcdefgh'), min_size=2), st.floats(0.05, 0.95), st.integers(0, 3))
def test_both_splits_get_whole_sessions(sessions, share, seed):
    if len(set(sessions)) < 2:
        return
    drawn = draw_validation(sessions, share, seed)
    assert set() < drawn < set(sessions)
    held = sum(session in drawn for session in sessions)
    assert held >= share * len(sessions) or len(drawn) == len(set(sessions)) - 1


def test_the_seed_draws():
    sessions = [f's{number}' for number in range(40)]
    assert draw_validation(sessions, 0.2, 1) == draw_validation(sessions[::-1], 0.2, 1)
    assert draw_validation(sessions, 0.2, 1) != draw_validation(sessions, 0.2, 2)
