"""The first run of a network: a crash, a hang and a hunger for memory end in an error, and what has run is not run again."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import endless, make_bundle

from kd_perception.bundles.bundle import load_bundle
from kd_perception.engines import cache
from kd_perception.errors import EngineError
from kd_perception.machine import host
from kd_perception.selection import first_run
from kd_perception.selection.selection import Request, Selection, select
from kd_perception.selection.timing import Timing


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> None:
    """Nothing has run before."""
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / 'cache'))


def selected(folder: Path) -> Selection:
    return select(load_bundle(folder), Request('onnxruntime'))


def test_a_network_is_tried_once_and_remembered_by_its_hash(tmp_path):
    make_bundle(tmp_path / 'a')
    make_bundle(tmp_path / 'copy', name='copy')
    reports: list[str] = []
    for name in ('a', 'a', 'copy'):
        first_run.check(selected(tmp_path / name), reports.append)
    assert reports == [
        'the first run of bright_cells fp32 on onnxruntime on this machine is in a process of its own',
    ]
    make_bundle(tmp_path / 'another', poison=200)
    first_run.check(selected(tmp_path / 'another'), reports.append)
    assert len(reports) == 2


def test_a_network_that_never_ends_is_refused_and_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(first_run, 'CPU_RUN_LIMIT_S', 1.0)
    make_bundle(tmp_path, network=endless())
    for _ in range(2):
        with pytest.raises(EngineError, match='failed in its first run, in a process of its own: .*the engine hangs'):
            first_run.check(selected(tmp_path), print)


def test_a_network_that_takes_too_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(host, 'available_memory_mb', lambda: 8.0)
    make_bundle(tmp_path)
    with pytest.raises(EngineError, match='takes more than 6 MiB of memory'):
        first_run.check(selected(tmp_path), print)


def test_a_crash_is_refused_by_its_signal(tmp_path, monkeypatch):
    make_bundle(tmp_path / 'bundle')
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, sys\nif "-m" in sys.orig_argv:\n    os.kill(os.getpid(), 11)\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(EngineError, match="the engine's process was killed by signal 11"):
        first_run.check(selected(tmp_path / 'bundle'), print)


def test_what_was_timed_for_the_selection_has_run(tmp_path):
    make_bundle(tmp_path)
    timed = select(load_bundle(tmp_path), Request(family=False), measure=lambda candidate: Timing(1.0, 1.0, 60))
    reports: list[str] = []
    first_run.check(timed, reports.append)
    assert reports == []
