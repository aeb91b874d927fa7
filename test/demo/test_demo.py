"""The whole demo, for real: three processes, DDS, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from networks import make_bundle
from patience import PATIENCE

from kd_perception.demo.processes import Child, ChildError

Start = Callable[..., 'subprocess.Popen[str]']


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny network in place of a detector of vehicles."""
    make_bundle(tmp_path / 'bundle')
    return tmp_path / 'bundle'


@pytest.fixture
def start(repository: Path, tmp_path: Path) -> Start:
    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'kd_perception', 'demo', '--out', tmp_path / 'out', *arguments]
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(repository), os.environ.get('PYTHONPATH', '')])}
        return subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def nodes_of(out: Path) -> list[int]:
    """Process ids of the nodes whose log lies in `out`."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            outputs = os.readlink(process / 'fd' / '1')
        except OSError:
            continue
        if outputs.startswith(str(out)):
            found.append(int(process.name))
    return found


def wait_for_pictures(out: Path, process: subprocess.Popen[str]) -> None:
    """Until the camera shows frames."""
    deadline = time.monotonic() + PATIENCE
    while not (out / 'camera.log').exists() or 'showing' not in (out / 'camera.log').read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_finished(child: Child) -> None:
    while not child.finished():
        time.sleep(0.05)


def test_a_flight_goes_through_the_node_and_leaves_its_results(start: Start, bundle: Path, tmp_path: Path) -> None:
    demo = start('--model', bundle, '--frames', 60, '--width', 320, '--height', 240)
    output, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, errors
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    frames = summary['frames']
    assert 50 <= frames['received'] <= 60
    assert frames['received'] == frames['published'] + sum(frames['dropped'].values())
    assert (summary['bundle'], summary['precision']) == ('bright_cells', 'fp32')
    assert set(summary['latency_ms']['age']) == {'p50', 'p95', 'p99'}
    assert 'bright_cells fp32' in output
    with av.open(str(tmp_path / 'out' / 'annotated.mp4')) as container:
        pictures = list(container.decode(video=0))
    assert len(pictures) == frames['recorded'] >= 0.8 * frames['published']
    assert (pictures[0].width, pictures[0].height) == (320, 240)
    assert cv2.imread(str(tmp_path / 'out' / 'contact_sheet.png')) is not None
    assert nodes_of(tmp_path / 'out') == []
    for mode in ('every', 'realtime'):
        evaluation = tmp_path / 'out' / 'evaluation' / mode
        assert json.loads((evaluation / 'report.json').read_text())['bags'][0]['with_ground_truth'] == 60
        assert str(evaluation / 'report.html') in output


def test_a_folder_of_images_of_different_sizes(start: Start, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    for index, size in enumerate([(64, 48), (80, 48), (300, 200)]):
        cv2.imwrite(str(folder / f'{index}.png'), np.full((size[1], size[0], 3), 90, np.uint8))
    demo = start('--model', bundle, '--source', folder)
    _, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, errors
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['frames']['received'] == summary['frames']['recorded'] == 3
    assert summary['map50'] is None


def test_ctrl_c_ends_all_processes(start: Start, bundle: Path, tmp_path: Path) -> None:
    demo = start('--model', bundle, '--width', 160, '--height', 120)
    wait_for_pictures(tmp_path / 'out', demo)
    assert len(nodes_of(tmp_path / 'out')) == 2
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    assert 'Traceback' not in errors
    assert nodes_of(tmp_path / 'out') == []


def test_a_dead_detector_ends_the_demo_with_its_last_words(start: Start, bundle: Path, tmp_path: Path) -> None:
    demo = start('--model', bundle, '--width', 160, '--height', 120)
    wait_for_pictures(tmp_path / 'out', demo)
    for node in nodes_of(tmp_path / 'out'):
        if 'start_detector' in Path(f'/proc/{node}/cmdline').read_text():
            os.kill(node, signal.SIGKILL)
    _, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert 'start_detector ended with status -9' in errors
    assert 'bright_cells fp32' in errors
    assert nodes_of(tmp_path / 'out') == []


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (('--source', '/no/such/place'), '/no/such/place: no such file or folder'),
        (('--model', 'no_such_model'), "there is no model bundle 'no_such_model'"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(start: Start, bundle: Path, arguments, says: str) -> None:
    demo = start('--model', bundle, *arguments)
    output, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert says in errors
    assert errors.count('\n') == 1
    assert output == ''


def test_a_child_that_fails_hands_over_the_end_of_its_log(tmp_path: Path) -> None:
    parameters = {'source': str(tmp_path / "isn't there")}
    with Child('kd_perception.ros.scene_camera', parameters, [], tmp_path / 'log') as child:
        with pytest.raises(
            ChildError, match="(?s)scene_camera ended with status 1.*isn't there: no such file"
        ) as caught:
            wait_until_finished(child)
        assert str(tmp_path / 'log') in str(caught.value)
