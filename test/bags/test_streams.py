"""Live streams: a real MJPEG server that breaks off and comes back; no camera is at hand."""

from __future__ import annotations

import itertools

import pytest
from mjpeg_server import MjpegServer

from kd_perception.bags.sources import SourceError
from kd_perception.bags.streams import LONGEST_WAIT_S, StreamSource, is_stream


@pytest.mark.parametrize(
    ('path', 'yes'),
    [
        ('rtsp://user:secret@camera:554/stream', True),
        ('http://10.0.0.7/video.mjpg', True),
        ('/dev/video0', True),
        ('/dev/video', False),
        ('/dev/zero', False),
        ('flight.mp4', False),
        ('', False),
        ('file:///etc/passwd', False),
        ('rtsp://', False),
    ],
)
def test_what_is_a_stream(path, yes):
    assert is_stream(path) == yes


def test_a_stream_that_breaks_off_is_opened_again():
    server = MjpegServer(frames=10)
    said: list[str] = []
    waits: list[float] = []

    def wait(seconds: float) -> None:
        """While nobody is there; the third attempt finds the camera again."""
        waits.append(seconds)
        if len(waits) == 3:
            servers.append(MjpegServer(frames=10, port=server.port))

    servers: list[MjpegServer] = []
    source = StreamSource(server.address, said.append, wait)
    frames = source.frames()
    first = next(frames)
    assert first.image.shape == (48, 64, 3)
    assert abs(int(first.image.mean()) - 128) < 3
    server.close()
    for _ in itertools.takewhile(lambda _: not servers, frames):
        pass
    assert next(frames).image.shape == (48, 64, 3)
    servers[0].close()
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert all(seconds <= LONGEST_WAIT_S for seconds in waits)
    assert 'broke off' in said[0]
    assert 'is back' in said[1]


@pytest.mark.parametrize(
    ('address', 'says'),
    [('http://user:secret@127.0.0.1:9/x', 'no picture comes from there'), ('/dev/video63', 'is it plugged in')],
)
def test_nobody_is_there_and_a_password_is_not_shown(address, says):
    with pytest.raises(SourceError, match=says) as failure:
        StreamSource(address)
    assert 'secret' not in str(failure.value)
