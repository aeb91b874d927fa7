"""JPEG: a picture that lacks pixels is refused whatever its kind, and cameras' harmless oddities are not."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.detection import jpeg
from kd_perception.detection.image import decode_compressed
from kd_perception.detection.jpeg import MAX_PASSES, exif_orientation, read_header, upright
from kd_perception.errors import ImageTooLargeError, MalformedImageError

STREET = cv2.resize(
    np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8), (320, 192), interpolation=cv2.INTER_CUBIC
)


def encoded(*settings: int, picture: np.ndarray = STREET) -> bytes:
    return cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 90, *settings])[1].tobytes()


KINDS = {
    'baseline': encoded(),
    '4:4:4': encoded(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    'grey': encoded(picture=STREET[..., 0]),
    'restarts': encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 7),
    'optimized': encoded(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    'progressive': encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
}


@pytest.fixture(params=['simplejpeg', 'opencv'])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both decoders: a robot may lack simplejpeg."""
    if request.param == 'opencv':
        monkeypatch.setattr(jpeg, 'simplejpeg', None)
    return str(request.param)


def shortened(stream: bytes, share: float) -> bytes:
    """So much of the scans, and the end marker, as a camera leaves it that loses packets."""
    scan = stream.find(b'\xff\xda')
    cut = scan + 20 + int(share * (len(stream) - scan - 22))
    while stream[cut - 1] == 0xFF:
        cut += 1
    return stream[:cut] + b'\xff\xd9'


@pytest.mark.parametrize('kind', KINDS)
def test_whole_pictures_pass_and_are_those_of_opencv(kind: str, decoder: str) -> None:
    reference = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decode_compressed(KINDS[kind]), reference)


@pytest.mark.parametrize(('kind', 'share'), [*itertools.product(KINDS, [0.01, 0.1, 0.5, 0.9, 0.98])])
def test_a_scan_that_lacks_data_is_refused_although_its_end_marker_is_there(
    kind: str, share: float, decoder: str
) -> None:
    if decoder == 'opencv' and kind == 'progressive':
        share /= 20  # of finer scans that are missing OpenCV says nothing
    with pytest.raises(MalformedImageError, match='lacks pixels|cannot hold'):
        decode_compressed(shortened(KINDS[kind], share))


@pytest.mark.parametrize('kind', ['baseline', '4:4:4', 'grey', 'restarts', 'progressive'])
@pytest.mark.parametrize('start', [0.2, 0.5])
def test_a_packet_lost_in_the_middle_is_refused(kind: str, start: float) -> None:
    stream = KINDS[kind]
    scan = stream.find(b'\xff\xda') + 20
    at = scan + int(start * (len(stream) - scan))
    with pytest.raises(MalformedImageError):
        decode_compressed(stream[:at] + stream[at + 1000 :])


def test_lost_restart_intervals_are_refused() -> None:
    stream = KINDS['restarts']
    first, second = stream.index(b'\xff\xd2'), stream.index(b'\xff\xd5')
    with pytest.raises(MalformedImageError):
        decode_compressed(stream[:first] + stream[second:])


@pytest.mark.parametrize('stray', [b'\0', b'\0\0\0\0', bytes(40)])
def test_padding_before_the_end_marker_passes(stray: bytes) -> None:
    whole = KINDS['baseline']
    assert np.array_equal(decode_compressed(whole[:-2] + b'\x55' + stray + whole[-2:]), decode_compressed(whole))


def test_a_flat_gray_picture_is_no_damaged_one(decoder: str) -> None:
    assert (decode_compressed(encoded(picture=np.full((64, 64, 3), 128, np.uint8))) == 128).all()


def test_a_height_that_was_made_smaller_is_refused() -> None:
    stream = KINDS['baseline']
    at = stream.index(b'\xff\xc0') + 5
    with pytest.raises(MalformedImageError):
        decode_compressed(stream[:at] + (96).to_bytes(2, 'big') + stream[at + 2 :])


@pytest.mark.parametrize(('width', 'height'), [(6000, 6000), (320, 65000), (65000, 192)])
def test_a_size_that_the_bytes_cannot_hold_is_refused_before_decoding(width: int, height: int) -> None:
    stream = encoded(picture=np.zeros((8, 8, 3), np.uint8))
    at = stream.index(b'\xff\xc0') + 5
    with pytest.raises(MalformedImageError, match='cannot hold'):
        decode_compressed(stream[:at] + height.to_bytes(2, 'big') + width.to_bytes(2, 'big') + stream[at + 4 :])


def test_many_scans_are_for_small_pictures() -> None:
    stream = KINDS['progressive']
    scan = stream.rindex(b'\xff\xda')
    many = stream[:-2] + stream[scan:-2] * 12 + stream[-2:]
    pixels = STREET.shape[0] * STREET.shape[1]
    scans = many.count(b'\xff\xda')
    assert read_header(many, pixels * scans).scans == scans
    with pytest.raises(ImageTooLargeError, match=f'in {scans} scans'):
        read_header(many, pixels * scans // MAX_PASSES - 1)


@pytest.mark.parametrize('order', ['II', 'MM'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_photographs_are_turned_as_opencv_turns_them(orientation: int, order: str) -> None:
    name = 'little' if order == 'II' else 'big'
    number = [(42).to_bytes(2, name), (8).to_bytes(4, name), (1).to_bytes(2, name), (0x112).to_bytes(2, name)]
    number += [(3).to_bytes(2, name), (1).to_bytes(4, name), orientation.to_bytes(2, name), bytes(2), bytes(4)]
    block = order.encode() + b''.join(number)
    segment = b'\xff\xe1' + (len(block) + 8).to_bytes(2, 'big') + b'Exif\0\0' + block
    stream = KINDS['baseline'][:2] + segment + KINDS['baseline'][2:]
    reference = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_COLOR)
    assert exif_orientation(block) == orientation
    assert np.array_equal(decode_compressed(stream, upright=True), reference)
    assert decode_compressed(stream).shape == STREET.shape


@given(st.binary(max_size=64))
def test_any_exif_block_has_an_orientation(block: bytes) -> None:
    for order in (b'II*\0', b'MM\0*', b''):
        assert 1 <= exif_orientation(order + block) <= 8
    assert upright(STREET, 1).shape == STREET.shape


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(['baseline', '4:4:4', 'grey', 'optimized']),
    start=st.floats(0.0, 0.95),
    length=st.integers(400, 4000),
)
def test_what_is_cut_out_of_a_scan_never_passes_for_the_whole(kind: str, start: float, length: int) -> None:
    stream = KINDS[kind]
    scan = stream.find(b'\xff\xda') + 20
    at = scan + int(start * (len(stream) - scan - 420))
    with pytest.raises(MalformedImageError):
        decode_compressed(stream[:at] + stream[min(at + length, len(stream) - 2) :])
