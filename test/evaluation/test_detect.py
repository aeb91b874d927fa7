"""`kd_perception detect`: COCO results and pictures of images and videos, whatever else lies among them."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from networks import CELL, image_with_cells, make_bundle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kd_perception.cli.main import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / 'bundle').folder


@pytest.fixture
def run(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `detect` into the folder `out`; exit status and everything that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        command = ['detect', *arguments, '--bundle', bundle, '--out', tmp_path / 'out', '--threads', 1]
        status = main([str(argument) for argument in command])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Any]:
    return lambda name: json.loads((tmp_path / 'out' / f'{name}.json').read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 128 × 96: two bright cells, none, one."""
    place = tmp_path / 'photos'
    place.mkdir()
    for name, cells in (('a.png', (5, 10)), ('b.png', ()), ('c.png', (6,))):
        cv2.imwrite(str(place / name), picture(*cells))
    return place


def picture(*cells: int) -> np.ndarray:
    return image_with_cells(*cells, width=128, height=128)


def make_video(path: Path, *cells: int) -> Path:
    """A video of 12.5 frames a second with one bright cell a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12.5, (128, 128))
    for cell in cells:
        writer.write(picture(cell))
    writer.release()
    return path


def test_a_folder_becomes_coco_results_with_names_for_the_ids(run, folder, written):
    status, said = run(folder)
    assert (status, '3 detections in 3 images' in said) == (0, True)
    images, found = written('images'), written('detections')
    assert images['categories'] == [{'id': 0, 'name': 'bright'}, {'id': 1, 'name': 'blue'}]
    names = {image['id']: Path(image['file_name']).name for image in images['images']}
    assert list(names.values()) == ['a.png', 'b.png', 'c.png']
    boxes = {(names[entry['image_id']], *entry['bbox']) for entry in found}
    side = 2 * CELL  # the images are twice as large as the network's input
    assert boxes == {('a.png', 32, 32, side, side), ('a.png', 64, 64, side, side), ('c.png', 64, 32, side, side)}
    assert all(entry['category_id'] == 0 and entry['score'] == pytest.approx(1, abs=1e-3) for entry in found)


def test_the_files_are_what_pycocotools_reads(run, folder, tmp_path, written):
    run(folder)
    truth = written('images')
    truth['annotations'] = [
        entry | {'id': number, 'area': 1024, 'iscrowd': 0} for number, entry in enumerate(written('detections'), 1)
    ]
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(tmp_path / 'truth.json'))
        evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / 'out' / 'detections.json')), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_pictures_show_the_boxes(run, folder, tmp_path, written):
    run(folder)
    drawn = {image['file_name']: tmp_path / 'out' / image['picture'] for image in written('images')['images']}
    assert {path.name for path in drawn.values()} == {'a.jpg', 'b.jpg', 'c.jpg'}
    for name, path in drawn.items():
        before, after = cv2.imread(name).astype(int), cv2.imread(str(path)).astype(int)
        assert after.shape == before.shape
        assert (np.abs(after - before).max() > 100) == (path.name != 'b.jpg')


def test_a_video_keeps_its_times_and_becomes_an_annotated_one(run, tmp_path, written):
    status, _ = run(make_video(tmp_path / 'clip.avi', 5, 6, 9))
    assert status == 0
    images = written('images')['images']
    assert [(image['frame'], image['seconds']) for image in images] == [(0, 0), (1, 0.08), (2, 0.16)]
    assert [entry['image_id'] for entry in written('detections')] == [1, 2, 3]
    assert {image['picture'] for image in images} == {'annotated/clip.mp4'}
    assert len({image['file_name'] for image in images}) == 3
    with av.open(str(tmp_path / 'out' / 'annotated' / 'clip.mp4')) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.08, 0.16], abs=2e-3)
    assert (frames[0].width, frames[0].height) == (128, 128)


def test_equal_names_get_pictures_of_their_own_and_one_file_counts_once(run, folder, tmp_path, written):
    other = tmp_path / 'other'
    other.mkdir()
    for name in ('a.png', 'A.bmp', 'a_2.png'):
        cv2.imwrite(str(other / name), picture(9))
    assert run(folder / 'a.png', other, folder / '..' / 'photos' / 'a.png')[0] == 0
    pictures = [image['picture'] for image in written('images')['images']]
    assert pictures == [f'annotated/{name}.jpg' for name in ('a', 'A_2', 'a_3', 'a_2_2')]
    assert sorted(path.name for path in (tmp_path / 'out' / 'annotated').iterdir()) == sorted(
        Path(name).name for name in pictures
    )


@pytest.mark.parametrize(
    ('name', 'content', 'says'),
    [
        ('text.jpg', b'no picture', 'only JPEG and PNG'),
        ('empty.png', b'', 'empty'),
        ('cut.jpg', cv2.imencode('.jpg', picture(5))[1].tobytes()[:-200], 'truncated'),
        ('damaged.bmp', b'BM' + bytes(20), 'damaged'),
        ('text.mp4', b'no video', 'neither a video'),
    ],
)
def test_what_cannot_be_read_is_said_and_the_rest_goes_on(run, folder, tmp_path, written, name, content, says):
    (tmp_path / name).write_bytes(content)
    status, said = run(tmp_path / name, folder)
    assert status == 1
    assert f'skipped: {tmp_path / name}' in said
    assert says in said
    assert len(written('images')['images']) == 3
    assert len(list((tmp_path / 'out' / 'annotated').iterdir())) == 3


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda place: place / 'nothing.jpg', 'no such file'),
        (lambda place: place.mkdir() or place, 'no image'),
        (lambda place: place.mkdir() or (place / 'metadata.yaml').touch() or place, 'kd_perception evaluate'),
    ],
    ids=['nothing', 'empty folder', 'bag'],
)
def test_nothing_to_read_leaves_nothing(run, tmp_path, make, says):
    status, said = run(make(tmp_path / 'place'))
    assert status == 1
    assert says in said
    assert not (tmp_path / 'out').exists()


def test_an_image_on_which_the_engine_fails_is_only_one(run, folder, bundle, written):
    make_bundle(bundle, poison=200)
    cv2.imwrite(str(folder / 'b.png'), picture(0))
    status, said = run(folder)
    assert status == 1
    assert 'b.png' in said
    assert [Path(image['file_name']).name for image in written('images')['images']] == ['a.png', 'c.png']


@pytest.mark.parametrize(('score', 'found'), [('0.9', 0), ('0.3', 1)])
def test_the_lowest_score_is_the_users(run, tmp_path, written, score, found):
    cv2.imwrite(str(tmp_path / 'grey.png'), picture(5) // 2)
    run(tmp_path / 'grey.png', '--score', score)
    assert len(written('detections')) == found


def test_large_images_are_seen_in_tiles(run, tmp_path, written):
    small = np.zeros((128, 128, 3), np.uint8)
    small[80:96, 32:48] = 255
    cv2.imwrite(str(tmp_path / 'small.png'), small)
    _, said = run(tmp_path / 'small.png', '--tiles', '2x2', '--tile-overlap', 0, '--score', 0.5)
    assert [found['bbox'] for found in written('detections')] == [[32, 80, 16, 16]]
    assert '2x2 of 128x128 at scale 1.00, 4 passes' in said


@pytest.mark.parametrize('option', [('--tiles', '2by2'), ('--tiles', '2x2', '--tile-overlap', 0.9)])
def test_tiles_that_nobody_can_read_end_with_a_line(run, folder, tmp_path, option):
    status, said = run(folder, *option)
    assert status == 1
    assert 'tile' in said
    assert not (tmp_path / 'out').exists()


def test_without_pictures_there_are_only_the_two_files(run, folder, tmp_path, written):
    make_video(tmp_path / 'clip.avi', 5)
    assert run(folder, tmp_path / 'clip.avi', '--no-pictures')[0] == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['detections.json', 'images.json']
    assert not any('picture' in image for image in written('images')['images'])


def test_a_photograph_is_seen_upright(run, tmp_path, written):
    sensor = cv2.imencode('.jpg', image_with_cells(3, width=128, height=64), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    turned = bytes.fromhex('ffe1 0022 457869660000 4d4d002a00000008 0001 0112 0003 00000001 0006 0000 00000000')
    stream = sensor.tobytes()
    (tmp_path / 'phone.jpg').write_bytes(stream[:2] + turned + stream[2:])
    run(tmp_path / 'phone.jpg')
    (image,) = written('images')['images']
    assert (image['width'], image['height']) == (64, 128)
    drawn = cv2.imread(str(tmp_path / 'out' / image['picture']))
    assert drawn.shape[:2] == (128, 64)


def test_inputs_are_never_painted_over(run, folder, tmp_path):
    run(folder)
    before = {path: path.read_bytes() for path in (tmp_path / 'out' / 'annotated').iterdir()}
    status, said = run(tmp_path / 'out' / 'annotated')
    assert (status, 'another --out' in said) == (1, True)
    assert {path: path.read_bytes() for path in before} == before


def test_on_a_full_disk_it_ends_with_a_line(run, folder, tmp_path):
    (tmp_path / 'out' / 'annotated').mkdir(parents=True)
    (tmp_path / 'out' / 'annotated' / '.b.part.jpg').symlink_to('/dev/full')
    status, said = run(folder)
    assert status == 1
    assert 'No space left' in said
    assert [path.name for path in (tmp_path / 'out' / 'annotated').iterdir()] == ['a.jpg']


@pytest.mark.parametrize('kind', ['images', 'video'])
def test_an_interrupt_leaves_what_was_done(tmp_path, bundle, written, kind):
    count = 4000
    if kind == 'images':
        source = tmp_path / 'many'
        source.mkdir()
        cv2.imwrite(str(source / '0000.bmp'), picture(5))
        for number in range(1, count):
            (source / f'{number:04d}.bmp').hardlink_to(source / '0000.bmp')
    else:
        source = make_video(tmp_path / 'long.avi', *[5] * count)
    out = tmp_path / 'out'
    command = [sys.executable, '-m', 'kd_perception', 'detect', source, '--bundle', bundle, '--out', out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / 'annotated').exists() or not any((out / 'annotated').iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert 'Traceback' not in said
    done = len(written('images')['images'])
    assert 0 < done < count
    assert len(written('detections')) == done
    if kind == 'images':
        assert len(list((out / 'annotated').iterdir())) == done
    else:
        with av.open(str(out / 'annotated' / 'long.mp4')) as container:
            assert sum(1 for _ in container.decode(video=0)) == done
