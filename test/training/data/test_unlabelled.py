"""Frames of bags, videos and folders become image files that the trainer takes."""

import cv2
import numpy as np
import pytest
from bag_files import image_bag

from training.data.unlabelled import UnlabelledSettings, extract
from training.errors import DataError


def write_video(file, frames):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return file


def gray(value):
    return np.full((48, 64, 3), value, np.uint8)


def numbers(folder):
    return [int(file.stem.rsplit('_', 1)[1]) for file in sorted((folder / 'images').iterdir())]


def test_a_bag(tmp_path):
    bag = image_bag(tmp_path / 'flight', count=7)
    assert extract(bag, tmp_path / 'out', UnlabelledSettings(every=3)) == 3
    files = sorted((tmp_path / 'out' / 'images').iterdir())
    assert [file.name for file in files] == ['flight_000000.jpg', 'flight_000003.jpg', 'flight_000006.jpg']
    assert cv2.imread(str(files[0])).shape == (48, 64, 3)


def test_a_video_and_its_near_duplicates(tmp_path):
    video = write_video(tmp_path / 'drive.avi', [gray(value) for value in (50, 50, 51, 90, 90, 200)])
    settings = UnlabelledSettings(every=1, difference=5.0)
    assert extract(video, tmp_path / 'out', settings) == 3
    assert numbers(tmp_path / 'out') == [0, 3, 5]


def test_a_folder_and_the_limits(tmp_path):
    folder = tmp_path / 'stills'
    folder.mkdir()
    for value in range(6):
        cv2.imwrite(str(folder / f'{value}.png'), np.full((100, 200, 3), 40 * value, np.uint8))
    assert extract(folder, tmp_path / 'out', UnlabelledSettings(count=4, longest_side=100)) == 4
    assert {cv2.imread(str(file)).shape for file in (tmp_path / 'out' / 'images').iterdir()} == {(50, 100, 3)}


def test_again_with_other_settings_replaces_the_frames_of_this_source_only(tmp_path):
    video = write_video(tmp_path / 'drive.avi', [gray(value) for value in (0, 40, 80, 120)])
    extract(video, tmp_path / 'out', UnlabelledSettings(every=1))
    for other in ('other_000000.jpg', 'drive_2_000000.jpg'):
        (tmp_path / 'out' / 'images' / other).write_bytes(b'')
    extract(video, tmp_path / 'out', UnlabelledSettings(every=2))
    names = sorted(file.name for file in (tmp_path / 'out' / 'images').iterdir())
    assert names == ['drive_000000.jpg', 'drive_000002.jpg', 'drive_2_000000.jpg', 'other_000000.jpg']


@pytest.mark.parametrize('content', [None, b'no video'])
def test_a_source_that_cannot_be_read(tmp_path, content):
    source = tmp_path / 'source.mp4'
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError, match=r'source\.mp4'):
        extract(source, tmp_path / 'out', UnlabelledSettings())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'every': 0}, 'every must be at least 1'),
        ({'count': -1}, 'count must be at least 0'),
        ({'difference': -1.0}, 'difference must be at least 0'),
        ({'longest_side': 8}, 'longest_side must be at least 32'),
        ({'jpeg_quality': 0}, 'jpeg_quality must be from 1 to 100'),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        UnlabelledSettings(**changes)
