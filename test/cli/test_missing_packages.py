"""Every command with every package missing that it may lack: it works without, or says in one line what to install."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
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

# Starts a console script without any of the modules, then again with the one that it asked for, and so on until it asks for
# none. Each time is a child process; one JSON line for each.
RUNNER = """
import json, os, re, sys, tempfile

missing, script, arguments = set(sys.argv[1].split()), sys.argv[2], sys.argv[3:]

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):  # it finds metadata as well
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.split('.')[0] in missing
        return None if hidden else self._finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
asked = 'nothing yet'
while asked:
    with tempfile.TemporaryFile('w+') as stderr:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(stderr.fileno(), 2)
            sys.argv = [script, *arguments]
            from kd_perception.cli import console, missing_packages
            sys.exit(getattr(console, script)())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stderr.seek(0)
        says = stderr.read()
    found = re.search(r'Python package (\\w+) is|this needs ROS 2 .(\\w+)', says)
    asked = found and (found[1] or found[2])
    missing.discard(asked)
    made = os.listdir(os.environ['OUT'])
    print(json.dumps({'asked': asked, 'status': status, 'says': says, 'made': made}), flush=True)
"""


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


def ask(inputs: Path, out: Path, line: str, hidden: Iterable[str]) -> tuple[list[dict], dict]:
    """Run a line as RUNNER does; what it answered while something was missing, and at last."""
    words = shlex.split(line.replace('{inputs}', str(inputs)).replace('{out}', str(out)))
    environment = {name: value for name, value in os.environ.items() if name != 'ROS_DISTRO'} | {'OUT': str(out)}
    ran = subprocess.run(
        [sys.executable, '-c', RUNNER, ' '.join(hidden), *words],
        capture_output=True, text=True, timeout=280, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    *refused, last = [json.loads(text) for text in ran.stdout.splitlines()]
    assert 'Traceback' not in last['says'], last
    for case in refused:
        assert (case['status'], case['says'].count('\n'), case['made']) == (1, 1, []), case
    return refused, last


@pytest.mark.parametrize(('line', 'needs'), [*((f'kd_perception {c}', n) for c, n in COMMANDS.items()), *NODES.items()])
def test_what_is_missing_is_one_line_that_says_what_to_install(inputs, tmp_path, line, needs):
    refused, _ = ask(inputs, tmp_path, line, (*INSTALL, *ROS))
    assert {case['asked'] for case in refused} == set(needs)
    for case in refused:
        assert INSTALL.get(case['asked'], 'source /opt/ros') in case['says']


@pytest.mark.parametrize('line', ['kd_perception doctor', *NODES])
def test_what_every_installation_has_is_asked_for_as_well(inputs, tmp_path, line):
    refused, _ = ask(inputs, tmp_path, line, BASE)
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


def test_a_fault_of_our_own_is_a_traceback(tmp_path, monkeypatch):
    (tmp_path / 'faulty.py').write_text('from kd_perception.errors import NoSuchError')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match='NoSuchError'):
        console.run('detector', 'faulty')
