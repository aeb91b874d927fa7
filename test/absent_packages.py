"""A plugin for pytest that skips a test, or a file of tests, for want of a package that is not installed."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


def lack(call: pytest.CallInfo[Any]) -> str:
    """Which package an import in a test, or in the conftest of its folder, missed; empty when it was something else."""
    error = call.excinfo.value if call.excinfo else None
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return f'{error.name} is not installed'
        error = error.__cause__
    return ''


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """Skip what cannot be imported."""
    report = (yield).get_result()
    reason = lack(report.call)
    if reason:
        report.outcome, report.longrepr = 'skipped', (str(collector.path), 0, f'Skipped: {reason}')


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, Any, None]:
    """Skip what imports only when it runs."""
    reason = lack(call)
    if reason:
        try:
            pytest.skip(reason)
        except pytest.skip.Exception:
            call.excinfo = pytest.ExceptionInfo.from_current()
    yield
