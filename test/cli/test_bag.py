"""`kd_perception bag …`: what is no bag becomes one, frames, boxes and all."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import image_bag

from kd_perception.bags.reader import open_bag
from kd_perception.bags.truth_sources import read_ground_truth
from kd_perception.cli.main import main
from kd_perception.scene import CLASS_NAMES

SECOND = 1_000_000_000


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str]]:
    """Run a command line; exit status and everything that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def gray(shade: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), shade, np.uint8)


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10.0, (64, 48))
    for k in range(6):
        writer.write(gray(40 * k))
    writer.release()
    return path


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / 'clip.csv'
    path.write_text('frame,label,x,y,w,h\n0,BIRD,1,2,3,4\n0,DRONE,10,20,20,20\n1,DRONE,11,20,20,20\n5,,,,,\n')
    return path


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_video_becomes_a_bag_with_boxes(run, video, table, tmp_path, storage):
    status, said = run(
        'bag', 'from-video', video, '--ground-truth', table, '--out', tmp_path / 'bag', '--storage', storage
    )
    assert status == 0
    assert '6 frames of clip.avi, 3 objects in 3 of them' in said
    assert '3 frames have no ground truth' in said
    frames = list(open_bag(tmp_path / 'bag'))
    assert [frame.stamp_ns for frame in frames] == [SECOND + k * SECOND // 10 for k in range(6)]
    assert [int(frame.decode().mean().round()) for frame in frames] == pytest.approx([40 * k for k in range(6)], abs=3)
    truth = read_ground_truth(tmp_path / 'bag', '', ['drone', 'bird'])
    assert {stamp: there.objects.class_ids.tolist() for stamp, there in truth.items()} == {
        frames[0].stamp_ns: [1, 0],
        frames[1].stamp_ns: [0],
        frames[5].stamp_ns: [],
    }
    assert truth[frames[1].stamp_ns].objects.boxes.tolist() == [[11, 20, 31, 40]]


def test_the_form_of_the_bag_can_be_chosen(run, video, tmp_path):
    out = tmp_path / 'bag'
    form = ['--jpeg', '--topic', 'drone/camera/', '--frame-id', 'lens', '--fps', 5, '--frames', 3, '--start', 100]
    assert run('bag', 'from-video', video, '--out', out, *form)[0] == 0
    images = open_bag(out)
    assert images.topic == '/drone/camera/compressed'
    frames = list(images)
    assert [frame.stamp_ns for frame in frames] == [100 * SECOND + k * SECOND // 5 for k in range(3)]
    assert {frame.frame_id for frame in frames} == {'lens'}
    assert frames[2].decode().shape == (48, 64, 3)


def test_a_folder_of_images_becomes_a_bag_with_the_boxes_of_a_coco_file(run, tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for k, name in enumerate(['b.png', 'a.png', 'c.png']):
        cv2.imwrite(str(folder / name), gray(50 * k, (40 + k, 60)))
    truth = {
        'images': [{'id': 1, 'file_name': 'b.png'}, {'id': 2, 'file_name': 'c.png'}],
        'categories': [{'id': 3, 'name': 'cat'}],
        'annotations': [
            {'image_id': 1, 'category_id': 3, 'bbox': [1, 2, 3, 4], 'iscrowd': 1},
            {'image_id': 1, 'category_id': 3, 'bbox': [5, 5, 5, 5], 'ignore': 1},
        ],
    }
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    assert (
        run('bag', 'from-images', folder, '--ground-truth', tmp_path / 'truth.json', '--out', tmp_path / 'bag')[0] == 0
    )
    frames = list(open_bag(tmp_path / 'bag'))
    assert [frame.decode().shape[0] for frame in frames] == [41, 40, 42]
    there = read_ground_truth(tmp_path / 'bag', '', ['dog', 'cat'])
    assert list(there) == [frames[1].stamp_ns, frames[2].stamp_ns]
    first = there[frames[1].stamp_ns]
    assert (first.objects.class_ids.tolist(), first.crowd.tolist()) == ([1], [True])
    assert first.ignored.tolist() == [[5, 5, 10, 10]]


def test_a_scene_becomes_a_bag_and_the_same_bag_again(run, tmp_path):
    size = ['--width', 160, '--height', 120, '--frames', 4, '--seed', 5]
    status, said = run('bag', 'from-scene', *size, '--out', tmp_path / 'one')
    assert status == 0
    assert run('bag', 'from-scene', *size, '--out', tmp_path / 'two', '--storage', 'sqlite3')[0] == 0
    one, two = (list(open_bag(tmp_path / name)) for name in ('one', 'two'))
    assert len(one) == 4
    for first, second in zip(one, two, strict=True):
        assert first.stamp_ns == second.stamp_ns
        np.testing.assert_array_equal(first.decode(), second.decode())
    truths = [read_ground_truth(tmp_path / name, '', CLASS_NAMES) for name in ('one', 'two')]
    assert list(truths[0]) == [frame.stamp_ns for frame in one]
    assert all(truths[0][stamp].objects == truths[1][stamp].objects for stamp in truths[0])
    objects, ignored = (
        sum(map(len, sides)) for sides in zip(*((t.objects, t.ignored) for t in truths[0].values()), strict=True)
    )
    assert ignored > 0
    assert f'{objects} objects in 4 of them' in said


def test_info_says_what_is_in_a_bag(run, video, table, tmp_path):
    run('bag', 'from-video', video, '--ground-truth', table, '--out', tmp_path / 'bag')
    status, said = run('bag', 'info', tmp_path / 'bag')
    assert status == 0
    for part in ('1 file', '/image ', '64x48, 10.0 frames/s for 0.5 s', '/ground_truth ', '3 frames, drone 2, bird 1'):
        assert part in said


def test_info_of_a_bag_without_ground_truth(run, tmp_path):
    assert 'ground truth: none' in run('bag', 'info', image_bag(tmp_path / 'bag'))[1]


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['info', 'absent'], 'absent: no such file or folder'),
        (['from-video', 'absent.mp4', '--out', 'bag'], 'absent.mp4'),
        (['from-video', 'clip.avi', '--ground-truth', 'absent.csv', '--out', 'bag'], 'absent.csv'),
        (['from-video', 'clip.avi', '--out', 'bag', '--fps', '-1'], '--fps and --frames must not be negative'),
        (['from-video', 'clip.avi', '--out', 'clip.avi'], 'exists already'),
        (['from-video', 'clip.avi', '--out', 'clip.avi', '--force'], 'exists already and is no bag'),
        (['from-images', 'empty', '--out', 'bag'], 'no image'),
        (['from-scene', '--width', '0', '--out', 'bag'], 'must be positive'),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(run, video, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    status, said = run('bag', *arguments)
    assert status == 1
    assert says in said
    assert 'Traceback' not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clip.avi', 'empty']


def test_help_is_quick_because_nothing_heavy_is_loaded():
    code = (
        'import sys\nfrom kd_perception.cli.main import main\n'
        'try: main(["bag", "from-video", "--help"])\nexcept SystemExit: pass\n'
        'print([name for name in ("rosbags", "tqdm", "rclpy", "torch") if name in sys.modules])'
    )
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == '[]'


@pytest.mark.parametrize('name', ['V_DRONE_001', 'IR_DRONE_096'])
def test_the_clips_become_bags_with_every_box(run, shared_data, tmp_path, name):
    clips = shared_data / 'flying_objects' / 'clips'
    table = clips / 'gt' / f'{name}.csv'
    source = ['bag', 'from-video', clips / 'videos' / f'{name}.mp4', '--ground-truth', table]
    assert run(*source, '--jpeg', '--out', tmp_path / 'bag')[0] == 0
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    truth = read_ground_truth(tmp_path / 'bag', '', ['airplane', 'bird', 'drone', 'helicopter'])
    stamps = [frame.stamp_ns for frame in open_bag(tmp_path / 'bag')]
    assert list(truth) == stamps
    assert len(stamps) == 1 + max(int(row['frame']) for row in rows)
    written = [box for stamp in stamps for box in truth[stamp].objects.boxes.tolist()]
    expected = [[float(row[key]) for key in 'xywh'] for row in rows]
    np.testing.assert_allclose(np.subtract(written, [[0, 0, x, y] for x, y, _, _ in written]), expected, atol=1e-3)


def test_recover_says_what_is_missing_and_saves_the_rest(tmp_path, capsys):
    assert (
        main(
            ['bag', 'from-scene', '--frames', '3', '--width', '64', '--height', '48', '--out', str(tmp_path / 'whole')]
        )
        == 0
    )
    (file,) = (tmp_path / 'whole').glob('*.mcap')
    file.write_bytes(file.read_bytes()[:-40])
    assert main(['bag', 'info', str(tmp_path / 'whole')]) == 1
    assert 'kd_perception bag recover' in capsys.readouterr().err
    assert main(['bag', 'recover', str(file), '--out', str(tmp_path / 'saved')]) == 0
    printed = capsys.readouterr()
    assert 'whole.mcap: truncated' in printed.err
    assert 'saved: 7 messages saved' in printed.out
    assert main(['bag', 'info', str(tmp_path / 'saved')]) == 0
