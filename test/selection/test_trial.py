"""A network timed in a process of its own: what it reports, and how a refusal, a crash and a hang differ."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import image_with_cells, make_bundle
from patience import PATIENCE, patient

from kd_perception.errors import EngineError
from kd_perception.selection import trial
from kd_perception.selection.trial import Limits, Trial


def quick(folder, **changes) -> Trial:
    return Trial(
        **{'folder': str(folder), 'artifact': ('onnxruntime', 'fp32'), 'engine': 'onnxruntime', 'frames': 12} | changes
    )


def wait_for(condition: Callable[[], Any]) -> Any:
    """Poll until a condition gives something true, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if met := condition():
            return met
        time.sleep(0.02)
    pytest.fail('waited in vain')


def test_times_memory_and_detections_come_back(tmp_path):
    make_bundle(tmp_path)
    frames = [image_with_cells(3), image_with_cells(0, 5), image_with_cells(width=128)]
    outcome = trial.run(quick(tmp_path, detect=True, threads=1), frames)
    assert len(outcome.total) == 12
    assert np.all(outcome.total > 0)
    assert outcome.total == pytest.approx(np.array(outcome.preprocess) + outcome.infer + outcome.postprocess)
    assert outcome.info['engine'] == 'onnxruntime'
    assert outcome.info['threads'] == 1
    assert 10 < outcome.peak_memory_mb < 4000
    assert [len(found) for found in outcome.found()] == [1, 2, 0]
    assert outcome.found()[0].boxes.tolist() == [[48, 0, 64, 16]]


def test_a_refusal_keeps_its_words(tmp_path):
    make_bundle(tmp_path)
    (tmp_path / 'bright_cells.onnx').write_bytes(b'altered')
    with pytest.raises(EngineError, match='truncated or altered'):
        trial.run(quick(tmp_path), [image_with_cells(3)])


@pytest.fixture
def saboteur(tmp_path, monkeypatch):
    """Code that runs in the process before anything else, as a faulty library's would."""

    def plant(code: str) -> None:
        (tmp_path / 'site').mkdir()
        (tmp_path / 'site' / 'sitecustomize.py').write_text(f'import sys\nif "-m" in sys.orig_argv:\n    {code}\n')
        monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))

    return plant


def test_a_crash_is_named_by_its_signal_and_last_words(tmp_path, saboteur):
    make_bundle(tmp_path / 'bundle')
    saboteur(
        'import os; sys.stderr.write("illegal instruction in kernel\\n"); sys.stderr.flush(); os.kill(os.getpid(), 4)'
    )
    with pytest.raises(EngineError, match='killed by signal 4: illegal instruction in kernel'):
        trial.run(quick(tmp_path / 'bundle'), [image_with_cells(3)])


def test_a_hang_ends_at_the_limit_and_leaves_no_process(tmp_path, saboteur):
    make_bundle(tmp_path / 'bundle')
    note = tmp_path / 'pid'
    saboteur(f'import os, time; open({str(note)!r}, "w").write(str(os.getpid())); time.sleep(600)')
    with pytest.raises(EngineError, match='the engine hangs'):
        trial.run(quick(tmp_path / 'bundle'), [image_with_cells(3)], limits=Limits(load_s=patient(2.0)))
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_what_a_library_prints_does_not_disturb(tmp_path, saboteur):
    make_bundle(tmp_path / 'bundle')
    saboteur('import atexit; atexit.register(print, "goodbye from a library")')
    assert len(trial.run(quick(tmp_path / 'bundle'), [image_with_cells(3)]).total) == 12


def test_scene_frames_are_of_the_size_asked_for():
    frames = trial.scene_frames((320, 192), count=2)
    assert [frame.shape for frame in frames] == [(192, 320, 3)] * 2
    assert not np.array_equal(*frames)


def test_it_ends_with_its_caller(tmp_path, saboteur):
    """A node that is killed leaves no process behind that times a network for ever."""
    make_bundle(tmp_path / 'bundle')
    note = tmp_path / 'pid'
    saboteur(f'import os; open({str(note)!r}, "w").write(str(os.getpid()))')
    code = (
        'import sys; from kd_perception.selection import trial; import numpy as np; '
        f'trial.run(trial.Trial({str(tmp_path / "bundle")!r}, ("onnxruntime", "fp32"), "onnxruntime", '
        'frames=10**9, seconds=600.0), [np.zeros((64, 64, 3), np.uint8)])'
    )
    caller = subprocess.Popen([sys.executable, '-c', code])
    child = int(wait_for(lambda: note.exists() and note.read_text()))
    caller.kill()
    caller.wait()
    wait_for(lambda: not Path(f'/proc/{child}').exists())
