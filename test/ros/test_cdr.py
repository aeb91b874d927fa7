"""Images read from CDR and detections written to it are what rclpy makes of the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from kd_perception.detection.detections import Detections
from kd_perception.ros import cdr, messages

UINT32 = st.integers(0, 2**32 - 1)
TEXTS = st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=20)
HEADERS = st.builds(
    lambda sec, nanosec, frame_id: Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id),
    st.integers(-(2**31), 2**31 - 1),
    UINT32,
    TEXTS,
)
IMAGES = st.builds(
    Image,
    header=HEADERS,
    height=UINT32,
    width=UINT32,
    encoding=TEXTS,
    is_bigendian=st.integers(0, 255),
    step=UINT32,
    data=st.binary(max_size=50),
)
COMPRESSED = st.builds(CompressedImage, header=HEADERS, format=TEXTS, data=st.binary(max_size=50))
FIELDS = ('header', 'height', 'width', 'encoding', 'is_bigendian', 'step')
READERS = (cdr.read_image, cdr.read_compressed_image)


def boxes(count: int) -> st.SearchStrategy[Detections]:
    numbers = st.floats(0, 5000, width=32)
    rows = st.lists(st.tuples(*[numbers] * 4), min_size=count, max_size=count)
    scores = st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)
    ids = st.lists(st.integers(0, 3), min_size=count, max_size=count)
    tracks = st.none() | st.lists(st.integers(0, 10**12), min_size=count, max_size=count)
    return st.builds(
        lambda b, s, i, t: Detections(np.array(b).reshape(-1, 4), np.array(s), np.array(i), t),
        rows,
        scores,
        ids,
        tracks,
    )


def test_the_middleware_here_transports_what_we_read_and_write():
    assert messages.transports_cdr()


@pytest.mark.fuzz
@given(IMAGES)
def test_an_image_is_read_as_it_was_sent(image):
    read = cdr.read_image(serialize_message(image))
    assert [getattr(read, field) for field in FIELDS] == [getattr(image, field) for field in FIELDS]
    assert bytes(read.data) == bytes(image.data)
    assert read.format is None
    assert read.message() == image


@pytest.mark.fuzz
@given(COMPRESSED)
def test_a_compressed_image_is_read_as_it_was_sent(image):
    read = cdr.read_compressed_image(serialize_message(image))
    assert (read.header, read.format, bytes(read.data)) == (image.header, image.format, bytes(image.data))
    assert read.message() == image


BIG_ENDIAN = (
    b'\0\0\0\0'
    + b'\0\0\0\1\0\0\0\2'
    + b'\0\0\0\4cam\0'
    + b'\0\0\0\1\0\0\0\2'
    + b'\0\0\0\6mono8\0'
    + b'\0\0'
    + b'\0\0\0\2'
)


def test_the_other_byte_order_is_read():
    read = cdr.read_image(BIG_ENDIAN + b'\0\0\0\2' + b'\7\x09')
    assert (read.stamp, read.frame_id, read.height, read.width, read.encoding) == ((1, 2), 'cam', 1, 2, 'mono8')
    assert (read.step, bytes(read.data)) == (2, b'\7\x09')


@pytest.mark.parametrize('read', READERS)
def test_a_message_that_ends_early_is_refused_wherever_it_ends(read):
    kind = Image if read is cdr.read_image else CompressedImage
    whole = serialize_message(kind(header=Header(frame_id='camera'), data=[1, 2, 3]))
    end = len(whole) - len(whole[4:]) % 4
    read(whole)
    for length in range(end - 4):
        with pytest.raises(cdr.CdrError):
            read(whole[:length])


@pytest.mark.fuzz
@given(st.sampled_from(READERS), st.sampled_from([b'', b'\0\1\0\0', b'\0\0\0\0', b'\0\7\0\0']), st.binary(max_size=200))
def test_hostile_bytes_are_read_or_refused(read, beginning, rest):
    try:
        image = read(beginning + rest)
    except cdr.CdrError:
        return
    assert len(image.data) <= len(rest)


@pytest.mark.parametrize('beginning', [b'\0\2\0\0', b'\0\x0b\0\0', b'{"he'])
def test_another_representation_is_left_to_rclpy(beginning):
    with pytest.raises(cdr.CdrError, match='no CDR of fields in their order'):
        cdr.read_image(beginning + bytes(100))


@pytest.mark.fuzz
@given(st.integers(0, 5).flatmap(boxes), HEADERS, st.sampled_from([(), ('car', 'bus', 'tram', 'größer')]))
def test_detections_are_written_as_rclpy_reads_them(detections, header, names):
    stamp = (header.stamp.sec, header.stamp.nanosec)
    written = cdr.write_detections(detections, stamp, header.frame_id, names)
    assert deserialize_message(written, Detection2DArray) == messages.detections_message(detections, header, names)
