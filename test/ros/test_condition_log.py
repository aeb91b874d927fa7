"""What reaches the log of a condition that begins, lasts, flickers and ends, on a clock that the test moves."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from kd_perception.ros.condition_log import ConditionLog

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Lines:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def error(self, line: str) -> None:
        self.all.append(f'ERROR {line}')

    def warning(self, line: str) -> None:
        self.all.append(f'WARN {line}')

    def info(self, line: str) -> None:
        self.all.append(f'INFO {line}')


FINE = (OK, '', 'active')
STALE = (ERROR, 'stale', 'stale: 2 s')
LOSS = (WARN, 'loss', '83 % lost')
WAITING = (WARN, 'waiting', 'waiting: nobody')


@pytest.mark.parametrize(
    ('course', 'lines'),
    [
        ([FINE] * 5, []),
        ([STALE] * 5, ['ERROR input: stale: 2 s']),
        ([STALE] + [FINE] * 5, ['ERROR input: stale: 2 s', 'INFO input: active (was: stale)']),
        ([STALE, FINE] * 10, ['ERROR input: stale: 2 s']),  # what flickers is one condition
        ([LOSS, STALE] * 5, ['WARN input: 83 % lost', 'ERROR input: stale: 2 s']),
        (
            [LOSS] + [STALE] * 9 + [FINE] * 4,
            ['WARN input: 83 % lost', 'ERROR input: stale: 2 s', 'INFO input: active (was: stale)'],
        ),
        (
            [STALE] + [FINE] * 4 + [STALE],
            ['ERROR input: stale: 2 s', 'INFO input: active (was: stale)', 'ERROR input: stale: 2 s'],
        ),
        ([WAITING] * 3 + [FINE] * 5, []),  # every start begins so
        ([WAITING] * 9, ['WARN input: waiting: nobody']),
    ],
)
def test_each_condition_is_logged_when_it_begins_and_when_it_is_over(course, lines):
    logger = Lines()
    log = ConditionLog(logger, {'waiting': 3.0})
    for second, (level, condition, message) in enumerate(course):
        log.update('input', level, condition, message, float(second))
    assert logger.all == lines


def test_tasks_have_conditions_of_their_own():
    logger = Lines()
    log = ConditionLog(logger, {})
    for task in ('input', 'latency'):
        log.update(task, WARN, 'odd', 'odd', 0.0)
    log.update('input', OK, '', 'fine', 5.0)
    assert logger.all == ['WARN input: odd', 'WARN latency: odd', 'INFO input: fine (was: odd)']
