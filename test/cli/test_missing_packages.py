"""Every command with every package missing that it may lack: it works without, or says in one line what to install."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import pytest
from networks import CELLS, image_with_cells, make_bundle

from kd_perception.bags.writer import BagWriter
from kd_perception.cli import console, missing_packages
from kd_perception.detection.detections import Detections

BAGS = ('rosbags', 'backports', 'lz4')
COMMANDS = {
    'bag from-scene --out {out}/bag --frames 1 --width 64 --height 48': (*BAGS, 'tqdm'),
    'bag from-images {inputs}/pictures --out {out}/bag': (*BAGS, 'tqdm'),
    'bag from-video {inputs}/video.mp4 --out {out}/bag': (*BAGS, 'tqdm'),
    'bag info {inputs}/bag': BAGS,
    'evaluate {inputs}/bag --bundle {inputs}/bright_cells --out {out}': (*BAGS, 'tqdm', 'jinja2', 'faster_coco_eval'),
    'compare {inputs}/report --out {out}/compare': (*BAGS, 'jinja2'),
    'detect {inputs}/pictures --bundle {inputs}/bright_cells --out {out}': ('tqdm',),
    'detect {inputs}/video.mp4 --bundle {inputs}/bright_cells --out {out} --no-pictures': ('tqdm',),
    'replay {inputs}/bag --wait 0.01': (*BAGS, 'tqdm', 'rclpy', 'vision_msgs'),
    'demo --source {inputs}/absent.mp4 --out {out}': (*BAGS, 'tqdm', 'jinja2', 'av', 'rclpy', 'vision_msgs'),
    'doctor': (),
    'bundle show {inputs}/bright_cells': (),
    'bundle create {inputs}/bright_cells/model.onnx --classes a,b --out {out}/bundle': (),
    'select {inputs}/bright_cells': (),
    'engine cache': (),
}
"""Command → the packages beyond those of every installation that it asks for."""

NODES = {
    'detector_node --ros-args -p what': ('rclpy', 'vision_msgs'),
    'replay_node --ros-args -p bag:={inputs}/bag -p wait:=0.01': (*BAGS, 'rclpy', 'vision_msgs'),
    'scene_camera --ros-args -p frames:=1': ('rclpy', 'vision_msgs'),
}
INSTALL = {
    'rosbags': 'rosbags>=',
    'tqdm': 'tqdm>=',
    'jinja2': 'Jinja2>=',
    'faster_coco_eval': 'faster-coco-eval>=',
    'backports': 'backports.zstd>=',
    'lz4': 'lz4>=',
    'av': 'av>=',
}
ROS = ('rclpy', 'vision_msgs')
BASE = ('cv2', 'jsonschema', 'numpy', 'yaml')
"""What every installation has, unless the pip line of the colcon installation was left out."""

# Imports the modules of its first argument. Then, for every line of JSON on its input: starts a console script without any of
# `missing`, then again with the one that it asked for, and so on until it asks for none. Each time is a child process; one JSON
# line for each.
RUNNER = """
import importlib, json, os, re, sys, tempfile, traceback

for name in sys.argv[1].split():
    importlib.import_module(name)

class Without:
    def __init__(self, finder, missing):
        self._finder, self._missing = finder, missing

    def __getattr__(self, name):  # it finds metadata as well
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.split('.')[0] in self._missing
        return None if hidden else self._finder.find_spec(name, path, target)

def run(missing, words, stderr):
    for stream, descriptor in ((open(os.devnull), 0), (open(os.devnull, 'w'), 1), (stderr, 2)):
        os.dup2(stream.fileno(), descriptor)
    sys.meta_path = [Without(finder, missing) for finder in sys.meta_path]
    assert not missing & set(sys.modules)
    sys.argv = words
    from kd_perception.cli import console
    status = 1
    try:
        status = getattr(console, words[0])()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)  # libraries that were loaded before a fork may hang at an interpreter's end

for line in sys.stdin:
    task = json.loads(line)
    missing, asked = set(task['missing']), 'nothing yet'
    while asked:
        with tempfile.TemporaryFile('w+') as stderr:
            child = os.fork()
            if child == 0:
                run(missing, task['words'], stderr)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            stderr.seek(0)
            says = stderr.read()
        found = re.search(r'Python package (\\w+) is|this needs ROS 2 .(\\w+)', says)
        asked = found and (found[1] or found[2])
        missing.discard(asked)
        made = os.listdir(task['out'])
        print(json.dumps({'asked': asked, 'status': status, 'says': says, 'made': made}), flush=True)
"""


class Runner:
    """RUNNER as a process."""

    def __init__(self, *imported: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != 'ROS_DISTRO'}
        command = [sys.executable, '-c', RUNNER, ' '.join(imported)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, inputs: Path, out: Path, line: str, hidden: Iterable[str]) -> list[dict]:
        """Run a line; what it answered while something was missing."""
        words = shlex.split(line.replace('{inputs}', str(inputs)).replace('{out}', str(out)))
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({'missing': list(hidden), 'words': words, 'out': str(out)}) + '\n')
        self._process.stdin.flush()
        assert self._process.stdout is not None
        answers = []
        while not answers or answers[-1]['asked']:
            answers.append(json.loads(self._process.stdout.readline()))
        *refused, last = answers
        assert 'Traceback' not in last['says'], last
        for case in refused:
            assert (case['status'], case['says'].count('\n'), case['made']) == (1, 1, []), case
        return refused

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(scope='module')
def runner() -> Iterator[Runner]:
    """With all that every installation has."""
    runner = Runner(*BASE, 'onnxruntime')
    yield runner
    runner.end()


@pytest.fixture
def bare_runner() -> Iterator[Runner]:
    """With nothing."""
    runner = Runner()
    yield runner
    runner.end()


@pytest.fixture(scope='module')
def inputs(tmp_path_factory, repository) -> Path:
    """What the commands work on."""
    from synthetic_results import synthetic_result

    from kd_perception.bags.video import Video
    from kd_perception.bundles.bundle import load_bundle
    from kd_perception.report.report import Streaming, make_report

    folder = tmp_path_factory.mktemp('inputs')
    make_bundle(folder / 'bright_cells')
    (folder / 'pictures').mkdir()
    cv2.imwrite(str(folder / 'pictures' / 'one.png'), image_with_cells(3))
    with BagWriter(folder / 'bag') as bag:
        bag.image('/image', 1, image_with_cells(3))
        bag.detections('/ground_truth', 1, Detections(CELLS[[3]], [1], [0]))
    bundle = load_bundle(repository / 'models' / 'aerial_traffic')
    report = make_report(bundle, bundle.artifacts[0], [synthetic_result(frames=20)], (), Streaming(1))
    (folder / 'report').mkdir()
    (folder / 'report' / 'report.json').write_text(json.dumps(report))
    with Video(folder / 'video.mp4') as video:
        video.add(image_with_cells(3), 0.0)
    return folder


@pytest.mark.parametrize(('line', 'needs'), [*((f'kd_perception {c}', n) for c, n in COMMANDS.items()), *NODES.items()])
def test_what_is_missing_is_one_line_that_says_what_to_install(runner, inputs, tmp_path, line, needs):
    refused = runner.ask(inputs, tmp_path, line, (*INSTALL, *ROS))
    assert {case['asked'] for case in refused} == set(needs)
    for case in refused:
        assert INSTALL.get(case['asked'], 'source /opt/ros') in case['says']


@pytest.mark.parametrize('line', ['kd_perception doctor', *NODES])
def test_what_every_installation_has_is_asked_for_as_well(bare_runner, inputs, tmp_path, line):
    refused = bare_runner.ask(inputs, tmp_path, line, BASE)
    assert {case['asked'] for case in refused} == set(BASE)


def test_training_without_its_extra_says_what_to_install(tmp_path, repository):
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['training', 'run', 'x.yaml']; "
        "runpy.run_module('training', run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert ran.stderr.startswith("training: the Python package torch is not installed: pip install 'torch>=")
    assert ran.stderr.count('\n') == 1


def test_every_package_of_the_table_is_declared():
    """What the message names comes from the metadata, as pip has it from setup.py."""
    for module, requirement in INSTALL.items():
        assert any(text.startswith(requirement) for text in missing_packages.packages(module))


def test_a_library_that_cannot_be_loaded_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / 'broken.py').write_text("raise ImportError('libGL.so.1: no such file\\nmore', name='cv2')")
    monkeypatch.syspath_prepend(tmp_path)
    assert console.run('detector', 'broken') == 1
    assert capsys.readouterr().err == 'detector: cv2 cannot be loaded: libGL.so.1: no such file\n'


def test_ctrl_c_while_a_library_is_loaded_is_no_missing_library(capsys, tmp_path, monkeypatch):
    """As pybind11 raises what comes while it starts a module."""
    (tmp_path / 'slow_start.py').write_text("raise ImportError('initialization failed') from KeyboardInterrupt()")
    monkeypatch.syspath_prepend(tmp_path)
    assert console.run('kd_perception', 'slow_start') == console.INTERRUPTED
    assert capsys.readouterr().err == ''


def test_a_fault_of_our_own_is_a_traceback(tmp_path, monkeypatch):
    (tmp_path / 'faulty.py').write_text('from kd_perception.errors import NoSuchError')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match='NoSuchError'):
        console.run('detector', 'faulty')
