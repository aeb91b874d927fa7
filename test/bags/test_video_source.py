"""Videos in: every frame at its own time, upright, and none missing without a word."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from kd_perception.bags import video_source
from kd_perception.bags.sources import SourceError
from kd_perception.bags.video_source import VideoSource

EVEN = tuple(range(0, 1000, 40))
PHONE = (0, 33, 66, 100, 133, 1000, 2000, 3000, 4000, 4033)
PATTERN = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)


def picture(number: int) -> np.ndarray:
    return np.roll(cv2.resize(PATTERN, (160, 96), interpolation=cv2.INTER_NEAREST), 3 * number, axis=1)


def record(path: Path, milliseconds: Iterable[int] = EVEN, codec: str = 'libx264', **options: str) -> Path:
    faststart = {'movflags': 'faststart'} if path.suffix == '.mp4' else {}
    with av.open(str(path), 'w', options=faststart) as video:
        stream = video.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
        if codec != 'mjpeg':
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, ms in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(picture(number), format='bgr24')
            frame.pts, frame.time_base = (number, Fraction(1, 25)) if codec == 'mjpeg' else (ms, Fraction(1, 1000))
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path


@pytest.fixture(params=['av', 'opencv'])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == 'opencv':
        monkeypatch.setattr(video_source, 'av', None)
    return str(request.param)


@pytest.mark.parametrize('name', ['phone.mp4', 'phone.mkv'])
@pytest.mark.parametrize('b_frames', ['0', '2'])
@pytest.mark.parametrize('times', [PHONE, EVEN, tuple(ms + 5000 for ms in PHONE)], ids=['uneven', 'even', 'late start'])
def test_each_frame_has_its_own_time(
    name: str, b_frames: str, times: tuple[int, ...], tmp_path: Path, reader: str
) -> None:
    source = VideoSource(record(tmp_path / name, times, bf=b_frames))
    seconds = [frame.seconds for frame in source.frames()]
    assert np.allclose(seconds, (np.array(times) - times[0]) / 1000, atol=0.002)


def test_times_always_grow(tmp_path: Path) -> None:
    seconds = [frame.seconds for frame in VideoSource(record(tmp_path / 'raw.h264', EVEN, bf='0')).frames()]
    assert len(seconds) == len(EVEN)
    assert np.all(np.diff(seconds) > 0)


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The video with another display matrix in its track header, as a telephone writes it."""
    content = bytearray(path.read_bytes())
    at = content.index(b'tkhd') + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        content[at + place : at + place + 4] = (value & 0xFFFFFFFF).to_bytes(4, 'big')
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('matrix', [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_a_telephone_that_was_turned_gives_upright_frames(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = turned(record(tmp_path / 'phone.mp4', EVEN[:3]), matrix)
    found, reference = cv2.VideoCapture(str(path)).read()
    frame = next(VideoSource(path).frames()).image
    assert found
    assert frame.shape == reference.shape
    assert np.abs(frame.astype(int) - reference).mean() < 12


@pytest.mark.parametrize('share', [0.9, 0.6, 0.35])
@pytest.mark.parametrize(('name', 'codec'), [('a.mp4', 'libx264'), ('a.mkv', 'libx264'), ('a.avi', 'mjpeg')])
def test_a_video_that_breaks_off_says_so(name: str, codec: str, share: float, tmp_path: Path) -> None:
    path = record(tmp_path / name, codec=codec)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    source = VideoSource(path)
    with pytest.raises(SourceError, match='breaks off|damaged'):
        list(source.frames())


@pytest.mark.parametrize('share', [0.3, 0.5, 0.7])
def test_frames_that_are_damaged_are_counted(share: float, tmp_path: Path) -> None:
    path = record(tmp_path / 'a.mp4', bf='0')
    content = bytearray(path.read_bytes())
    at = int(share * len(content))
    content[at : at + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r'\d+ of its frames are damaged.*; \d+ frames were read'):
        list(VideoSource(path).frames())


def test_a_trimmed_video_is_whole(tmp_path: Path) -> None:
    """Editors leave the frames in and hide them by an edit list."""
    whole, path = record(tmp_path / 'whole.mp4', bf='0'), tmp_path / 'trimmed.mp4'
    with av.open(str(whole)) as source, av.open(str(path), 'w', options={'avoid_negative_ts': 'disabled'}) as trimmed:
        stream = trimmed.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                shift = int(Fraction(4, 10) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                trimmed.mux(packet)
    assert len(list(VideoSource(path).frames())) == len(EVEN) - 10


@pytest.mark.parametrize(
    'content',
    [
        '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n',
        "ffconcat version 1.0\nfile '{clip}'\n",
        'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n',
        '[playlist]\nFile1={clip}\n',
        'hello',
        '',
    ],
    ids=['m3u8', 'concat', 'sdp', 'pls', 'text', 'empty'],
)
@pytest.mark.parametrize('suffix', ['.mp4', '.m3u8', '.txt', '.ffconcat', '.sdp'])
def test_a_playlist_opens_no_other_file(content: str, suffix: str, tmp_path: Path, reader: str) -> None:
    clip = record(tmp_path / 'clip.mp4', EVEN[:3])
    path = tmp_path / f'list{suffix}'
    path.write_text(content.format(clip=clip.name))
    with pytest.raises(SourceError, match='list'):
        VideoSource(path)


@pytest.mark.parametrize('name', ['a#b.mp4', 'a?b.mp4', '100%25.mp4', 'zwei Wörter.mp4', 'frame_%03d.mp4', 'a:b.mp4'])
def test_any_name_is_only_a_name(name: str, tmp_path: Path, reader: str) -> None:
    assert len(list(VideoSource(record(tmp_path / 'plain.mp4', EVEN[:3]).rename(tmp_path / name)).frames())) == 3
