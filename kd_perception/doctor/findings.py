"""What a check found: green, yellow or red, and for the latter two what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

MIB = 1 << 20


class Level(IntEnum):
    """How bad it is."""

    GREEN = 0
    YELLOW = 1
    RED = 2


_MARKS = {Level.GREEN: '✔', Level.YELLOW: '!', Level.RED: '✘'}
_COLORS = {Level.GREEN: '32', Level.YELLOW: '33', Level.RED: '31'}


@dataclass(frozen=True)
class Finding:
    """One fact of the machine, judged.

    Attributes:
        subject: what was looked at, a few words.
        found: what was seen, one line.
        level: how bad it is.
        advice: what to do about it; empty for what is green.
    """

    subject: str
    found: str
    level: Level = Level.GREEN
    advice: str = ''

    def __post_init__(self) -> None:
        if bool(self.advice) != (self.level > Level.GREEN):
            raise ValueError(f'{self.subject}: what is yellow or red, and only that, needs an advice')


Sections = Mapping[str, Sequence[Finding]]


def worst(sections: Sections) -> Level:
    """The level of the whole."""
    return max((finding.level for findings in sections.values() for finding in findings), default=Level.GREEN)


def render(sections: Sections, color: bool) -> str:
    """The report as people read it."""
    width = max((len(finding.subject) for findings in sections.values() for finding in findings), default=0)
    lines: list[str] = []
    for title, findings in sections.items():
        lines += ['', title]
        for finding in findings:
            lines.append(f'  {_mark(finding.level, color)} {finding.subject.ljust(width)}  {finding.found}')
            if finding.advice:
                lines.append(f'    {" " * width}  → {finding.advice}')
    return '\n'.join([*lines[1:], '', _summary(sections)])


def as_json(sections: Sections) -> dict[str, Any]:
    """The report for other programs."""
    return {
        'level': worst(sections).name.lower(),
        'sections': {
            title: [{**asdict(finding), 'level': finding.level.name.lower()} for finding in findings]
            for title, findings in sections.items()
        },
    }


def _mark(level: Level, color: bool) -> str:
    return f'\033[{_COLORS[level]}m{_MARKS[level]}\033[0m' if color else _MARKS[level]


def _summary(sections: Sections) -> str:
    levels = [finding.level for findings in sections.values() for finding in findings]
    red, yellow = levels.count(Level.RED), levels.count(Level.YELLOW)
    if not red and not yellow:
        return 'all is well'
    return f'{red} red (repair these), {yellow} yellow (look at these)'
