"""Damaged bags, and what is no bag: each is refused in words, and one bad image spoils only itself."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_files import (
    FORMS,
    START,
    image_bag,
    join_splits,
    numbered_image,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_perception.bags.message_types import IMAGE, message
from kd_perception.bags.reader import open_bag, read_objects
from kd_perception.bags.writer import BagWriter, header
from kd_perception.detection.detections import Detections
from kd_perception.errors import BagError, MalformedImageError, UnsupportedEncodingError

every_form = pytest.mark.parametrize(('storage', 'compression'), FORMS)


def test_an_undecodable_image_spoils_only_itself(tmp_path):
    good = numbered_image(1)
    fields = {'height': 48, 'width': 64, 'is_bigendian': 0, 'data': good.reshape(-1)}
    with BagWriter(tmp_path / 'bag') as bag:
        for k, (encoding, step) in enumerate([('bgr8', 192), ('bgr8', 193), ('hologram', 192), ('bgr8', 192)]):
            head = header(START + k, 'camera')
            bag.write('/image', IMAGE, START + k, message(IMAGE, header=head, encoding=encoding, step=step, **fields))
    first, wrong_step, strange, last = open_bag(tmp_path / 'bag')
    with pytest.raises(MalformedImageError):
        wrong_step.decode()
    with pytest.raises(UnsupportedEncodingError, match='hologram'):
        strange.decode()
    for frame in (first, last):
        np.testing.assert_array_equal(frame.decode(), good)


@pytest.mark.parametrize(
    ('name', 'content', 'says'),
    [
        ('absent', None, 'no such file or folder'),
        ('notes.txt', b'hello', 'neither .mcap nor .db3'),
        ('bag.mcap', b'', 'not an mcap file'),
        ('bag.mcap', b'hello, this is no bag at all', 'not an mcap file'),
        ('bag.mcap', b'\x89MCAP0\r\n' + bytes(200), 'truncated.*bag recover'),
        ('bag.db3', b'hello, this is no bag at all', 'not an sqlite3 file'),
        ('bag.db3', b'', 'not an sqlite3 file'),
        ('bag.mcap.zstd', b'hello', 'cannot be read'),
        ('metadata.yaml', b'rosbag2_bagfile_information: 7', 'metadata.yaml is damaged'),
        ('metadata.yaml', b'{[', 'metadata.yaml is damaged'),
    ],
)
def test_what_is_no_bag_says_why(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=says):
        list(open_bag(tmp_path / name))


def test_a_folder_without_a_bag_says_so(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'')
    with pytest.raises(BagError, match='it holds neither metadata.yaml nor a .mcap or .db3 file'):
        open_bag(tmp_path)


def test_a_lost_split_is_named(tmp_path):
    parts = [image_bag(tmp_path / f'part{n}', first=5 * n) for n in range(3)]
    whole = join_splits(parts, tmp_path / 'whole')
    (whole / 'whole_1.mcap').unlink()
    with pytest.raises(BagError, match='files that are not there: whole_1.mcap'):
        open_bag(whole)


@pytest.fixture(scope='module')
def healthy(tmp_path_factory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp('healthy')
    bags = {}
    for storage, compression in FORMS:
        path = folder / f'{storage}_{compression}'
        with BagWriter(path, storage=storage, compression=compression) as bag:
            for k in range(3):
                bag.image('/image', START + k, numbered_image(k, 32, 24))
                bag.detections('/detections', START + k, Detections(np.ones((2, 4)), np.ones(2), np.ones(2)))
        bags[storage, compression] = path
    return bags


def read_everything(path: Path) -> int:
    """Number of images read; BagError is the only way to fail, besides an image that cannot be decoded."""
    read = 0
    for frame in open_bag(path, '/image'):
        frame.decode()
        read += 1
    read_objects(path, '/detections')
    return read


def damaged_copy(source: Path, target: Path, damage) -> Path:
    shutil.copytree(source, target)
    (file,) = (file for file in target.iterdir() if file.name != 'metadata.yaml')
    file.write_bytes(damage(file.read_bytes()))
    return target


@every_form
@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_truncated_file_is_refused(tmp_path, healthy, storage, compression, with_metadata):
    for part in (0.1, 0.5, 0.9, 0.999):
        copy = damaged_copy(
            healthy[storage, compression], tmp_path / f'{part}', lambda raw, part=part: raw[: int(part * len(raw))]
        )
        if not with_metadata:
            (copy / 'metadata.yaml').unlink()
        with pytest.raises(BagError):
            read_everything(copy)


@given(
    form=st.sampled_from(FORMS),
    where=st.floats(0, 1, exclude_max=True),
    garbage=st.one_of(st.binary(min_size=1, max_size=64), st.just(b'\xff' * 16), st.just(b'\x00' * 16)),
    with_metadata=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_a_bag_is_a_bag_error_or_goes_unnoticed(
    tmp_path_factory, healthy, form, where, garbage, with_metadata
):
    def overwrite(raw: bytes) -> bytes:
        at = int(where * len(raw))
        return raw[:at] + garbage + raw[at + len(garbage) :]

    copy = damaged_copy(healthy[form], tmp_path_factory.mktemp('fuzz') / 'bag', overwrite)
    if not with_metadata:
        (copy / 'metadata.yaml').unlink()
    with suppress(BagError, MalformedImageError, UnsupportedEncodingError):
        assert read_everything(copy) <= 3
    shutil.rmtree(copy)


@given(content=st.binary(max_size=300), suffix=st.sampled_from(['.mcap', '.db3', '.mcap.zstd']), magic=st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_bytes_are_no_bag(tmp_path_factory, content, suffix, magic):
    path = tmp_path_factory.mktemp('fuzz') / f'bag{suffix}'
    ends = b'\x89MCAP0\r\n' if magic and suffix == '.mcap' else b''
    path.write_bytes(ends + content + ends)
    with pytest.raises(BagError):
        list(open_bag(path))


@given(
    text=st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    ),
    key=st.sampled_from(['relative_file_paths', 'topics_with_message_count', 'rosbag2_bagfile_information']),
)
@settings(max_examples=60, deadline=None)
def test_nonsense_in_the_metadata_is_a_bag_error(tmp_path_factory, healthy, text, key):
    copy = tmp_path_factory.mktemp('fuzz') / 'bag'
    shutil.copytree(healthy['mcap', 'none'], copy)
    document = yaml.safe_load((copy / 'metadata.yaml').read_text())
    (document if key in document else document['rosbag2_bagfile_information'])[key] = text
    (copy / 'metadata.yaml').write_text(yaml.safe_dump(document))
    with pytest.raises(BagError):
        read_everything(copy)
