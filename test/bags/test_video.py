"""An H.264 video with every picture at its time, and pictures fitted into it."""

from pathlib import Path

import av
import numpy as np
import pytest

from kd_perception.bags.video import Video
from kd_perception.detection.drawing import fit


def picture(shade: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def test_a_video_is_h264_with_every_picture_at_its_time(tmp_path: Path) -> None:
    times, shades = [0.0, 0.1, 0.45, 1.0], [30, 90, 150, 210]
    with Video(tmp_path / 'a.mp4') as video:
        for seconds, shade in zip(times, shades, strict=True):
            video.add(picture(shade), seconds)
    with av.open(str(tmp_path / 'a.mp4')) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ('h264', 'yuv420p')
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=2e-3)
    assert [frame.to_ndarray(format='bgr24').mean() for frame in frames] == pytest.approx(shades, abs=4)


def test_odd_and_changing_sizes_fit_into_the_first_ones_even_size(tmp_path: Path) -> None:
    with Video(tmp_path / 'a.mp4') as video:
        for index, size in enumerate([(65, 49), (120, 30), (16, 90)]):
            video.add(picture(128, *size), index * 0.1)
    with av.open(str(tmp_path / 'a.mp4')) as container:
        assert {(frame.width, frame.height) for frame in container.decode(video=0)} == {(64, 48)}


def test_two_pictures_of_one_time_are_both_kept(tmp_path: Path) -> None:
    with Video(tmp_path / 'a.mp4') as video:
        video.add(picture(10), 0.0)
        video.add(picture(20), 0.0)
    with av.open(str(tmp_path / 'a.mp4')) as container:
        assert len(list(container.decode(video=0))) == 2


def test_a_video_without_pictures_is_no_error(tmp_path: Path) -> None:
    Video(tmp_path / 'a.mp4').close()


@pytest.mark.parametrize(('size', 'inner'), [((64, 48), (64, 48)), ((64, 96), (64, 48)), ((200, 48), (64, 48))])
def test_a_picture_keeps_its_shape(size: tuple[int, int], inner: tuple[int, int]) -> None:
    fitted = fit(picture(200), size)
    assert fitted.shape == (size[1], size[0], 3)
    rows, columns = np.nonzero(fitted[..., 0] > 100)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == inner
