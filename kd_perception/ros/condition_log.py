"""Says in the log, once each, when a condition on /diagnostics begins and when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

REST_S = 3.0
"""Seconds that a condition must be absent before it is over: what flickers is one condition, and one line."""


@dataclass
class _Episode:
    began: float
    seen: float
    logged: bool = False


class ConditionLog:
    """Follows the condition of each task. Times are given, never read."""

    def __init__(self, logger: Any, grace_s: dict[str, float]) -> None:
        """See the class.

        Args:
            logger: has the methods error, warning and info of a ROS logger.
            grace_s: condition → seconds that it must last before it is worth a line; 0 for all others.
        """
        self._logger = logger
        self._grace_s = grace_s
        self._episodes: dict[str, dict[str, _Episode]] = {}

    def update(self, task: str, level: bytes, condition: str, message: str, now: float) -> None:
        """Take in what a task says now.

        Args:
            task: whose condition it is.
            level: of DiagnosticStatus.
            condition: its name, the same as long as it lasts; empty while all is well.
            message: the sentence, whose figures may change.
            now: monotonic seconds.
        """
        episodes = self._episodes.setdefault(task, {})
        if condition:
            episode = episodes.setdefault(condition, _Episode(now, now))
            episode.seen = now
            if not episode.logged and now - episode.began >= self._grace_s.get(condition, 0.0):
                episode.logged = True
                self._log(level, f'{task}: {message}')
        over = {name: episode for name, episode in episodes.items() if now - episode.seen >= REST_S}
        for name in over:
            del episodes[name]
        logged = [name for name, episode in over.items() if episode.logged]
        if logged and not episodes:
            self._logger.info(f'{task}: {message} (was: {", ".join(logged)})')

    def _log(self, level: bytes, line: str) -> None:
        # ROS loggers want one severity for each line of code.
        if level == DiagnosticStatus.ERROR:
            self._logger.error(line)
        else:
            self._logger.warning(line)
