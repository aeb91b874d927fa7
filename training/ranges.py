"""What a setting may be: the range of a number, or the names that are known, refused in one wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.schema import nearest


@dataclass(frozen=True)
class Range:
    """The numbers between two ends; NaN is in none.

    Attributes:
        least: the smallest one.
        above: all are larger than this; instead of `least`.
        most: the largest one.
        below: all are smaller than this; instead of `most`.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def check(self, **settings: float | None) -> None:
        """Refuse settings outside; None is a setting that is not given.

        Raises:
            ValueError: naming the setting, the range and the value.

        Example:
            >>> Range(least=1).check(batch=0)
            Traceback (most recent call last):
            ValueError: batch must be at least 1, not 0
        """
        for name, value in settings.items():
            if value is not None and not self._holds(value):
                raise ValueError(f'{name} must be {self}, not {value}')

    def _holds(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f'from {_plain(self.least)} to {_plain(self.most)}'
        ends = {'at least': self.least, 'above': self.above, 'at most': self.most, 'below': self.below}
        return ' and '.join(f'{words} {_plain(end)}' for words, end in ends.items() if end is not None)


SHARE = Range(least=0, most=1)
COUNT = Range(least=1)
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)


def one_of(known: Sequence[str], **settings: str) -> None:
    """Refuse settings that are none of the known names.

    Raises:
        ValueError: naming the setting, the names and the value; the nearest name is offered.

    Example:
        >>> one_of(('adamw', 'sgd'), optimizer='adamm')
        Traceback (most recent call last):
        ValueError: optimizer must be one of adamw, sgd, not 'adamm': did you mean 'adamw'?
    """
    for name, value in settings.items():
        if value not in known:
            raise ValueError(f'{name} must be one of {", ".join(known)}, not {value!r}{nearest(value, known)}')


def _plain(end: float) -> str:
    return str(end) if isinstance(end, int) else f'{end:g}'
