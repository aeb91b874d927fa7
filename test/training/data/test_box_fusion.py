"""Boxes of several looks at a picture made into one list: what is kept, what is joined, and what a score is then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.box_fusion import Answer, Look, fused

NAMES = ('car', 'truck')


def look(*rows, knows=NAMES, weight=1.0):
    boxes, scores, names = zip(*rows, strict=True) if rows else ((), (), ())
    return Look(Answer(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores), tuple(names)), knows, weight)


def test_two_looks_at_one_object_give_the_weighted_box_of_the_paper():
    found = fused([look(((0, 0, 10, 10), 0.9, 'car')), look(((1, 0, 11, 10), 0.6, 'car'))])
    assert found.names == ('car',)
    assert found.boxes[0] == pytest.approx([0.4, 0, 10.4, 10])  # (0.9 · 0 + 0.6 · 1) / 1.5
    assert found.scores[0] == pytest.approx(0.75)


def test_what_one_of_two_sees_keeps_half_of_its_score_unless_the_other_does_not_know_the_class():
    lone = look(((0, 0, 10, 10), 0.9, 'truck'))
    assert fused([lone, look()]).scores[0] == pytest.approx(0.45)
    assert fused([lone, look(knows=('car',))]).scores[0] == pytest.approx(0.9)
    assert fused([lone, look(weight=3)]).scores[0] == pytest.approx(0.225)


def test_neighbours_of_one_look_stay_apart_and_so_do_classes():
    pair = look(((0, 0, 10, 10), 0.9, 'car'), ((2, 0, 12, 10), 0.8, 'car'))
    assert len(fused([pair, pair]).names) == 2
    assert fused([look(((0, 0, 10, 10), 0.9, 'car')), look(((0, 0, 10, 10), 0.8, 'truck'))]).names == ('car', 'truck')


def test_nobody_says_anything():
    found = fused([look(), look()])
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)
    assert found.names == ()


@st.composite
def looks(draw):
    """Some looks at a picture of 100 × 100, any boxes at all."""

    def box():
        x, y, width, height = (
            draw(st.floats(0, 60)),
            draw(st.floats(0, 60)),
            *draw(st.tuples(*[st.floats(1, 40)] * 2)),
        )
        return x, y, x + width, y + height

    score = st.floats(0.01, 1)
    return [
        look(
            *[(box(), draw(score), draw(st.sampled_from(NAMES))) for _ in range(draw(st.integers(0, 4)))],
            weight=draw(st.floats(0.1, 5)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


@given(looks())
def test_every_box_lies_among_those_it_was_made_of_and_scores_stay_between_0_and_1(given_looks):
    found = fused(given_looks)
    every = sum(len(one.answer.names) for one in given_looks)
    assert len(found.names) <= every
    assert len(found.names) >= max(len(one.answer.names) for one in given_looks)
    assert ((found.scores > 0) & (found.scores <= 1 + 1e-9)).all()
    assert (np.diff(found.scores) <= 0).all()
    for box, name in zip(found.boxes, found.names, strict=True):
        of_class = np.concatenate(
            [one.answer.boxes[[named == name for named in one.answer.names]] for one in given_looks]
        )
        assert (box >= of_class.min(0) - 1e-9).all()
        assert (box <= of_class.max(0) + 1e-9).all()


@given(looks(), st.integers(2, 4))
def test_a_look_joined_with_itself_is_itself(given_looks, times):
    alone, several = fused(given_looks[:1]), fused(given_looks[:1] * times)
    assert several.names == alone.names
    assert several.scores == pytest.approx(alone.scores)
    assert several.boxes == pytest.approx(alone.boxes)
