"""Detector nodes beside each other: what a round measures, and what the table says of the rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from networks import make_bundle
from patience import PATIENCE

from benchmarks import machine, peers


def run(*arguments: str, repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'benchmarks.peers', *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=4 * PATIENCE)


def test_a_node_and_a_peer_answer_the_same_camera_in_turn(repository, tmp_path):
    make_bundle(tmp_path / 'cells')
    node = (
        f'{sys.executable} -m kd_perception.ros.start_detector --ros-args -p model:={tmp_path}/cells -p autostart:=true'
    )
    given = [
        '--peer',
        f'peer={node} -r detections:=/found',
        '--topic',
        'peer=/found',
        '--ours',
        f'ours={tmp_path}/cells,threads=1',
    ]
    camera = ['--width', '64', '--height', '64', '--rate', '20', '--rounds', '1', '--seconds', '2']
    ended = run(*given, *camera, '--out', str(tmp_path), repository=repository)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / 'peers.json').read_text())
    assert (list(results['rounds']), results['base']) == (['peer', 'ours'], 'peer')
    for (measured,) in results['rounds'].values():
        assert 0 < measured['fps'] < 40
        assert 0 < measured['age_ms'] <= measured['age_p95_ms']
        assert measured['cores'] >= 0
        assert measured['memory_mb'] > 20
    assert '| ours |' in ended.stdout


def test_the_table_compares_each_round_with_the_same_round_of_the_first_node():
    rounds = {
        name: [dict.fromkeys(peers.FIGURES, 1.0) | {'fps': f} for f in fps]
        for name, fps in {'slow': (10, 5), 'quick': (20, 20)}.items()
    }
    results = {
        'machine': machine.describe(),
        'rounds': rounds,
        'base': 'slow',
        'size': (640, 480),
        'rate': 60.0,
        'seconds': 1.0,
    }
    text = peers.markdown(results)
    assert '640x480 bgr8, camera at 60 Hz, 2 alternating rounds' in text
    assert "| times slow's |" in text
    assert '| quick | 20.0 | 3.0 (2.0 to 4.0) |' in text


def test_without_a_node_there_is_nothing_to_measure(repository):
    ended = run(repository=repository)
    assert (ended.returncode, 'name at least one node' in ended.stderr) == (2, True)
