"""Chains of transforms at a moment, and what is no transform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.localization.transforms import (
    DisconnectedError,
    TooEarlyError,
    TooLateError,
    TransformBuffer,
    TransformError,
    UnknownFrameError,
    quaternion_of,
)

S = 1_000_000_000
STRAIGHT = (0.0, 0.0, 0.0, 1.0)
HALF = np.sqrt(0.5)
QUARTER_LEFT = (0.0, 0.0, HALF, HALF)
unit = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
place = st.tuples(*[st.floats(-100, 100)] * 3)


def buffer(*rows) -> TransformBuffer:
    made = TransformBuffer()
    for row in rows:
        made.add(*row)
    return made


def moving() -> TransformBuffer:
    """A base that drives 1 m/s along x and turns left from second 1 to 2, with a camera one meter ahead of it."""
    return buffer(
        ('map', 'base', 1 * S, (0, 0, 0), STRAIGHT),
        ('map', 'base', 2 * S, (1, 0, 0), QUARTER_LEFT),
        ('base', 'camera', 0, (1, 0, 0), STRAIGHT, True),
    )


@pytest.mark.parametrize(
    ('stamp', 'where'),
    [
        (1 * S, (1.0, 0.0, 0.0)),
        (2 * S, (1.0, 1.0, 0.0)),
        (3 * S // 2, (0.5 + HALF, HALF, 0.0)),
        (0, (1.0, 1.0, 0.0)),
    ],
)
def test_a_chain_is_interpolated_at_the_stamp(stamp, where):
    assert moving().lookup('map', 'camera', stamp).apply(np.zeros((1, 3)))[0] == pytest.approx(where)


def test_siblings_are_joined_by_their_common_parent():
    siblings = buffer(('base', 'a', 0, (1, 0, 0), STRAIGHT, True), ('/base', '/b', 0, (0, 2, 0), QUARTER_LEFT, True))
    assert siblings.lookup('b', 'a', 5 * S).apply(np.zeros((1, 3)))[0] == pytest.approx((-2.0, -1.0, 0.0))


@pytest.mark.parametrize(
    ('target', 'source', 'stamp', 'error'),
    [
        ('map', 'lidar', S, UnknownFrameError),
        ('earth', 'camera', S, UnknownFrameError),
        ('map', 'camera', S // 2, TooEarlyError),
        ('map', 'camera', 3 * S, TooLateError),
    ],
)
def test_what_is_not_known_is_a_typed_error(target, source, stamp, error):
    with pytest.raises(error):
        moving().lookup(target, source, stamp)


def test_trees_beside_each_other_and_circles_are_not_joined():
    apart = buffer(('map', 'a', S, (0, 0, 0), STRAIGHT), ('odom', 'b', S, (0, 0, 0), STRAIGHT))
    circle = buffer(
        ('a', 'b', S, (0, 0, 0), STRAIGHT), ('b', 'a', S, (0, 0, 0), STRAIGHT), ('m', 'c', S, (0, 0, 0), STRAIGHT)
    )
    for transforms, source in ((apart, 'a'), (circle, 'c')):
        with pytest.raises(DisconnectedError):
            transforms.lookup('b', source, S)


@pytest.mark.parametrize(
    ('parent', 'child', 'translation', 'quaternion'),
    [
        ('', 'a', (0, 0, 0), STRAIGHT),
        ('a', 'a', (0, 0, 0), STRAIGHT),
        ('a', 'b', (np.nan, 0, 0), STRAIGHT),
        ('a', 'b', (0, 0, 0), (0, 0, 0, 0)),
        ('a', 'b', (0, 0, 0), (np.inf, 0, 0, 0)),
    ],
)
def test_what_is_no_transform_is_refused(parent, child, translation, quaternion):
    with pytest.raises(TransformError):
        TransformBuffer().add(parent, child, S, translation, quaternion)


def test_old_transforms_go_and_a_bag_that_starts_again_begins_anew():
    transforms = buffer(*[('map', 'base', second * S, (second, 0, 0), STRAIGHT) for second in range(1, 31)])
    with pytest.raises(TooEarlyError):
        transforms.lookup('map', 'base', 15 * S)
    transforms.add('map', 'base', 2 * S, (7, 0, 0), STRAIGHT)
    assert transforms.lookup('map', 'base', 2 * S).translation.tolist() == [7, 0, 0]


def test_transforms_in_disorder_and_a_new_parent_are_taken():
    transforms = buffer(*[('map', 'base', second * S, (second, 0, 0), STRAIGHT) for second in (3, 1, 2, 2)])
    assert transforms.lookup('map', 'base', 3 * S // 2).translation[0] == pytest.approx(1.5)
    transforms.add('odom', 'base', 3 * S, (9, 0, 0), STRAIGHT)
    assert transforms.lookup('odom', 'base', 3 * S).translation[0] == 9


@given(unit, place, unit, place, st.floats(0, 1))
def test_there_and_back_is_where_it_was_and_rotations_stay_rotations(one, here, other, there, share):
    transforms = buffer(('map', 'base', S, here, one), ('map', 'base', 2 * S, there, other))
    stamp = S + round(share * S)
    forth, back = transforms.lookup('map', 'base', stamp), transforms.lookup('base', 'map', stamp)
    points = np.array([(1.0, 2.0, 3.0), (-4.0, 0.0, 50.0)])
    assert back.apply(forth.apply(points)) == pytest.approx(points, abs=1e-6)
    assert forth.rotation @ forth.rotation.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(forth.rotation) == pytest.approx(1.0)


@given(unit)
def test_a_quaternion_comes_back_up_to_its_sign(quaternion):
    given_ = np.array(quaternion) / np.linalg.norm(quaternion)
    rotation = buffer(('map', 'base', S, (0, 0, 0), quaternion)).lookup('map', 'base', S).rotation
    assert abs(quaternion_of(rotation) @ given_) == pytest.approx(1.0)
