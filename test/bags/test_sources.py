"""Sources of the scene camera: scenes, videos, folders and bags, and what cannot be read."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from kd_perception.bags.sources import open_source
from kd_perception.errors import KdPerceptionError

SHADES = (40, 120, 200)
STORE = get_typestore(Stores.ROS2_HUMBLE)


def picture(shade: int) -> np.ndarray:
    return np.full((48, 64, 3), shade, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / 'images'
    place.mkdir()
    for index, shade in enumerate(SHADES):
        cv2.imwrite(str(place / f'{index}.png'), picture(shade))
    return place


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12.0, (64, 48))
    for shade in SHADES:
        writer.write(picture(shade))
    writer.release()
    return path


def write_bag(path: Path, plugin: StoragePlugin = StoragePlugin.SQLITE3, compressed: bool = False) -> Path:
    """Three images, 0.1 s apart, on /camera, beside a topic of another type."""
    header_type, time_type = STORE.types['std_msgs/msg/Header'], STORE.types['builtin_interfaces/msg/Time']
    name = 'sensor_msgs/msg/CompressedImage' if compressed else 'sensor_msgs/msg/Image'
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        text = writer.add_connection('/note', 'std_msgs/msg/String', typestore=STORE)
        images = writer.add_connection('/camera', name, typestore=STORE)
        writer.write(text, 0, STORE.serialize_cdr(STORE.types['std_msgs/msg/String'](data='x'), text.msgtype))
        for index, shade in enumerate(SHADES):
            header = header_type(stamp=time_type(sec=0, nanosec=index * 100_000_000), frame_id='camera')
            image = picture(shade)
            if compressed:
                message = STORE.types[name](header, 'jpeg', cv2.imencode('.jpg', image)[1])
            else:
                message = STORE.types[name](header, 48, 64, 'rgb8', 0, 192, image.reshape(-1))
            writer.write(images, index * 100_000_000, STORE.serialize_cdr(message, name))
    return path


def shades(path: Path) -> list[int]:
    return [int(frame.image[24, 32].mean().round()) for frame in open_source(str(path)).frames()]


def test_a_folder_gives_its_images_by_name(folder: Path) -> None:
    source = open_source(str(folder))
    assert source.count == 3
    assert shades(folder) == list(SHADES)


def test_a_folder_skips_what_cannot_be_decoded(folder: Path) -> None:
    (folder / '1.png').write_bytes(b'not a picture')
    assert shades(folder) == [SHADES[0], SHADES[2]]


def test_a_video_gives_its_frames_and_rate(video: Path) -> None:
    source = open_source(str(video))
    assert (source.count, source.fps) == (3, 12.0)
    assert shades(video) == pytest.approx(SHADES, abs=4)


@pytest.mark.parametrize('plugin', list(StoragePlugin))
@pytest.mark.parametrize('compressed', [False, True])
def test_a_bag_gives_the_images_of_its_image_topic(tmp_path: Path, plugin: StoragePlugin, compressed: bool) -> None:
    bag = write_bag(tmp_path / 'bag', plugin, compressed)
    source = open_source(str(bag))
    assert source.count == 3
    assert source.fps == pytest.approx(10.0)
    assert shades(bag) == pytest.approx(SHADES, abs=2)


def test_a_source_can_be_played_again(folder: Path) -> None:
    source = open_source(str(folder))
    assert len(list(source.frames())) == len(list(source.frames())) == 3


def test_no_path_is_a_scene_without_end_and_with_ground_truth() -> None:
    source = open_source('', seed=3, width=320, height=240, fps=10.0)
    assert source.count is None
    frames = list(islice(source.frames(), 3))
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    assert all(frame.truth is not None for frame in frames)
    assert sum(len(frame.truth.objects) for frame in frames) > 0


def make_nothing(place: Path) -> Path:
    return place / 'missing'


def make_text(place: Path) -> Path:
    (place / 'notes.txt').write_text('no video')
    return place / 'notes.txt'


def make_empty_folder(place: Path) -> Path:
    (place / 'empty').mkdir()
    return place / 'empty'


def make_broken_images(place: Path) -> Path:
    (place / 'broken').mkdir()
    (place / 'broken' / 'a.jpg').write_bytes(b'\xff\xd8\xff')
    return place / 'broken'


def make_broken_bag(place: Path) -> Path:
    (place / 'bag').mkdir()
    (place / 'bag' / 'metadata.yaml').write_text('rosbag2_bagfile_information: 3\n')
    return place / 'bag'


def make_truncated_mcap(place: Path) -> Path:
    (place / 'cut.mcap').write_bytes(b'\x89MCAP0\r\n\x01')
    return place / 'cut.mcap'


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (make_nothing, 'no such file or folder'),
        (make_text, 'is a text file: neither a video'),
        (make_empty_folder, 'no image'),
        (make_broken_images, 'no frame in it can be read'),
        (make_broken_bag, 'damaged'),
        (make_truncated_mcap, 'truncated'),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, make, says: str) -> None:
    with pytest.raises(KdPerceptionError, match=says) as caught:
        open_source(str(make(tmp_path)))
    assert '\n' not in str(caught.value)


def test_a_wrong_topic_names_those_of_the_bag(tmp_path: Path) -> None:
    with pytest.raises(KdPerceptionError, match='no topic /rear.*: /camera'):
        open_source(str(write_bag(tmp_path / 'bag')), topic='/rear')
