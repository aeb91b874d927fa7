"""Settings out of their range are refused by name, and by what they may be."""

import math
import re

import pytest

from training.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, one_of


@pytest.mark.parametrize(
    ('allowed', 'within', 'outside', 'words'),
    [
        (SHARE, (0, 0.5, 1), (-0.001, 1.001), 'from 0 to 1'),
        (COUNT, (1, 10**9), (0, -1), 'at least 1'),
        (NOT_NEGATIVE, (0, 1e-9, math.inf), (-1e-9, -math.inf), 'at least 0'),
        (POSITIVE, (1e-9, math.inf), (0, -1), 'above 0'),
        (Range(above=0, most=1), (1e-9, 1), (0, 1.5), 'above 0 and at most 1'),
        (Range(least=0, below=1), (0, 0.999), (1, -1), 'at least 0 and below 1'),
        (Range(least=0, most=10_000_000), (10_000_000,), (10_000_001,), 'from 0 to 10000000'),
        (Range(least=0, most=1 / 3), (0.3,), (0.4,), 'from 0 to 0.333333'),
    ],
)
def test_a_range_has_its_ends_and_its_words(allowed, within, outside, words):
    for value in within:
        allowed.check(setting=value)
    for value in (*outside, math.nan):
        with pytest.raises(ValueError, match=f'^setting must be {re.escape(words)}, not {re.escape(str(value))}$'):
            allowed.check(setting=value)


def test_the_setting_that_is_outside_is_named_among_those_that_are_not():
    with pytest.raises(ValueError, match='^hsv_s must be from 0 to 1, not 2$'):
        SHARE.check(hsv_h=1, hsv_s=2, hsv_v=0)


def test_a_setting_that_is_not_given_is_in_every_range():
    COUNT.check(steps=None)


def test_a_name_is_one_of_those_known():
    one_of(('adamw', 'sgd'), optimizer='sgd', other='adamw')
    with pytest.raises(ValueError, match=r"^optimizer must be one of adamw, sgd, not 'adamm': did you mean 'adamw'\?$"):
        one_of(('adamw', 'sgd'), optimizer='adamm')
