"""A bag appears whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from bag_files import START, image_bag, numbered_image
from rosbags.highlevel import AnyReader

from kd_perception.bags.message_types import types
from kd_perception.bags.reader import open_bag, read_detections
from kd_perception.bags.writer import BagWriter
from kd_perception.detection.detections import Detections
from kd_perception.errors import BagError


class FullDisk:
    """/dev/full: a file on a disk without space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = Path.open

        def on_full_disk(path: Path, mode: str = 'r', *args, **more):
            return opened(Path('/dev/full') if 'x' in mode else path, mode.replace('x', 'r+'), *args, **more)

        monkeypatch.setattr(Path, 'open', on_full_disk)


def test_another_reader_understands_it(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.image('/image', START, numbered_image(3))
        bag.detections('/detections', START, Detections(np.array([[1, 2, 5, 8]]), np.array([0.5]), np.array([4])))
    with AnyReader([tmp_path / 'bag'], default_typestore=types()) as reader:
        read = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()}
    image, (box,) = read['/image'], read['/detections'].detections
    assert (image.width, image.height, image.encoding, image.step) == (64, 48, 'bgr8', 192)
    assert (box.bbox.center.position.x, box.bbox.center.position.y, box.bbox.size_x, box.bbox.size_y) == (3, 5, 4, 6)
    assert (box.results[0].hypothesis.class_id, box.results[0].hypothesis.score) == ('4', 0.5)
    assert box.results[0].pose.pose.orientation.w == 1


def test_a_bag_that_is_there_stays(tmp_path):
    image_bag(tmp_path / 'bag')
    with pytest.raises(BagError, match=r'exists already; choose another place, or replace it \(--force\)'):
        BagWriter(tmp_path / 'bag')


def test_a_bag_can_be_replaced(tmp_path):
    image_bag(tmp_path / 'bag', count=5)
    image_bag(tmp_path / 'bag', count=2, storage='sqlite3', overwrite=True)
    assert open_bag(tmp_path / 'bag').count == 2
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_only_a_bag_is_replaced(tmp_path):
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter.txt').write_text('years of work')
    with pytest.raises(BagError, match='exists already and is no bag'):
        BagWriter(tmp_path / 'thesis', overwrite=True)
    assert (tmp_path / 'thesis' / 'chapter.txt').exists()


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_an_interrupt_leaves_nothing_and_the_old_bag(tmp_path, storage):
    image_bag(tmp_path / 'bag', count=5)

    def write_and_interrupt() -> None:
        with BagWriter(tmp_path / 'bag', storage, overwrite=True) as bag:
            bag.image('/image', START, numbered_image(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt()
    assert open_bag(tmp_path / 'bag').count == 5
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
@pytest.mark.parametrize('count', [1, 200])
def test_a_full_disk_is_a_clear_error_and_leaves_the_old_bag(tmp_path, monkeypatch, count):
    image_bag(tmp_path / 'bag', count=5)
    with monkeypatch.context() as patch:
        FullDisk(patch)
        with pytest.raises(BagError, match='bag cannot be written.*No space left') as caught:
            image_bag(tmp_path / 'bag', count=count, overwrite=True)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    assert open_bag(tmp_path / 'bag').count == 5
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot be written'), BagWriter(tmp_path / 'file' / 'bag'):
        pytest.fail('the block must not run')


def test_messages_are_copied_as_they_are(tmp_path):
    source = image_bag(tmp_path / 'source', compression='message')
    with open_bag(source) as images, BagWriter(tmp_path / 'copy', storage='sqlite3') as copy:
        for frame in images:
            copy.copy(frame.message)
            copy.detections('/detections', frame.stamp_ns, Detections.empty(), frame.frame_id, frame.received_ns)
    frames = list(open_bag(tmp_path / 'copy'))
    assert [(f.stamp_ns, f.received_ns) for f in frames] == [(f.stamp_ns, f.received_ns) for f in open_bag(source)]
    np.testing.assert_array_equal(frames[4].decode(), numbered_image(4))
    assert list(read_detections(tmp_path / 'copy')) == [frame.stamp_ns for frame in frames]
