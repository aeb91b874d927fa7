"""Images and detections come out of a bag as they went in, whatever form the bag has; what is no bag says so."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_files import PERIOD, START, first_generation_bag, image_bag, join_splits, numbered_image, rename_types, stamps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin

from kd_perception.bags.message_types import DETECTIONS, IMAGE, LABEL_INFO, message, types
from kd_perception.bags.reader import open_bag, read_detections, read_labels, read_objects
from kd_perception.bags.storage import BagStorage
from kd_perception.bags.writer import BagWriter, header
from kd_perception.detection.detections import Detections
from kd_perception.errors import BagError, MalformedImageError, UnsupportedEncodingError

FORMS = [
    ('mcap', 'none'),
    ('mcap', 'file'),
    ('mcap', 'message'),
    ('mcap', 'storage'),
    ('sqlite3', 'none'),
    ('sqlite3', 'file'),
    ('sqlite3', 'message'),
]
every_form = pytest.mark.parametrize(('storage', 'compression'), FORMS)


def assert_numbered(path: Path, numbers: range) -> None:
    with open_bag(path) as images:
        assert images.count == len(numbers)
        frames = list(images)
    assert [frame.stamp_ns for frame in frames] == [START + k * PERIOD for k in numbers]
    for k, frame in zip(numbers, frames, strict=True):
        np.testing.assert_array_equal(frame.decode(), numbered_image(k))


# What is in a bag


@every_form
def test_images_come_back_in_order(tmp_path, storage, compression):
    path = image_bag(tmp_path / 'bag', storage=storage, compression=compression)
    assert_numbered(path, range(5))


def test_a_frame_tells_when_it_was_taken_and_when_it_was_recorded(tmp_path):
    frame = next(iter(open_bag(image_bag(tmp_path / 'bag'))))
    assert (frame.stamp_ns, frame.received_ns, frame.frame_id) == (START, START + 5_000_000, 'camera')
    assert frame.key == START


def test_an_unstamped_frame_is_known_by_when_it_was_recorded(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.image('/image', 0, numbered_image(0), received_ns=START)
    frame = next(iter(open_bag(tmp_path / 'bag')))
    assert (frame.stamp_ns, frame.key) == (0, START)


def test_a_raw_image_is_not_copied(tmp_path):
    frame = next(iter(open_bag(image_bag(tmp_path / 'bag'))))
    image = frame.decode()
    assert not image.flags.owndata
    assert np.shares_memory(image, np.frombuffer(frame.message.raw, np.uint8))


def test_jpeg_images_are_decoded(tmp_path):
    smooth = np.full((48, 64, 3), (200, 120, 40), np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.jpeg('/image/compressed', START, smooth)
    decoded = next(iter(open_bag(tmp_path / 'bag'))).decode()
    np.testing.assert_allclose(decoded.astype(int), smooth.astype(int), atol=3)


def test_a_bag_can_be_read_again_after_a_loop_that_was_broken_off(tmp_path):
    with open_bag(image_bag(tmp_path / 'bag')) as images:
        for frame in images:
            assert frame.stamp_ns == START
            break
        assert [frame.stamp_ns for frame in images] == stamps(5)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_old_type_names(tmp_path, storage):
    new = image_bag(tmp_path / 'new', storage=storage)
    old = rename_types(new, tmp_path / 'old', lambda name: name.replace('/msg/', '/'), StoragePlugin[storage.upper()])
    assert {topic.type for topic in BagStorage(old).topics.values()} == {IMAGE}
    assert_numbered(old, range(5))


@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_bag_of_the_first_ros_2_releases(tmp_path, with_metadata):
    new = image_bag(tmp_path / 'new')
    images = [bytes(message.raw) for message in BagStorage(new).messages(['/camera/image'])]
    old = first_generation_bag(tmp_path / 'old', images)
    if not with_metadata:
        (old / 'metadata.yaml').unlink()
    assert_numbered(old, range(5))


@every_form
def test_a_split_bag_is_one_bag(tmp_path, storage, compression):
    parts = [
        image_bag(tmp_path / f'part{n}', count=2, first=2 * n, storage=storage, compression=compression)
        for n in range(12)
    ]
    whole = join_splits(parts, tmp_path / 'whole')
    assert_numbered(whole, range(24))
    (whole / 'metadata.yaml').unlink()
    assert_numbered(whole, range(24))  # whole_10 comes after whole_9


@every_form
def test_missing_metadata_is_recovered(tmp_path, storage, compression):
    path = image_bag(tmp_path / 'bag', storage=storage, compression=compression)
    (path / 'metadata.yaml').unlink()
    assert_numbered(path, range(5))


@every_form
def test_a_storage_file_can_be_opened_by_itself(tmp_path, storage, compression):
    path = image_bag(tmp_path / 'bag', storage=storage, compression=compression)
    (file,) = (file for file in path.iterdir() if file.name != 'metadata.yaml')
    assert_numbered(file, range(5))
    assert_numbered(path / 'metadata.yaml', range(5))


# Topics


@pytest.fixture
def two_cameras(tmp_path) -> Path:
    with BagWriter(tmp_path / 'two') as bag:
        for k, stamp in enumerate(stamps(3)):
            bag.image('/left/image', stamp, numbered_image(k))
            bag.image('/right/image', stamp, numbered_image(100 + k))
    return tmp_path / 'two'


@pytest.mark.parametrize(('topic', 'first'), [('/left/image', 0), ('/right/image', 100), ('right/image', 100)])
def test_one_of_several_cameras_is_chosen_by_name(two_cameras, topic, first):
    frames = list(open_bag(two_cameras, topic))
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[0].decode(), numbered_image(first))


@pytest.mark.parametrize(
    ('topic', 'says'),
    [
        (None, r'several image topics, choose one of: /left/image \(3\), /right/image \(3\)'),
        ('/middle/image', r'no topic /middle/image; its image topics are: /left/image \(3\), /right/image'),
    ],
)
def test_several_cameras_are_listed(two_cameras, topic, says):
    with pytest.raises(BagError, match=says):
        open_bag(two_cameras, topic)


def test_depth_images_do_not_compete_with_color_images(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.image('/image', START, numbered_image(0))
        bag.jpeg('/depth/compressedDepth', START, b'')
    assert open_bag(tmp_path / 'bag').topic == '/image'


def test_a_bag_without_images_lists_what_it_has(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.label_info('/label_info', START, ['car'])
    with pytest.raises(BagError, match=r'no image topic; its topics are: /label_info \(vision_msgs/msg/LabelInfo\)'):
        open_bag(tmp_path / 'bag')
    with pytest.raises(BagError, match='/label_info holds vision_msgs/msg/LabelInfo, not images'):
        open_bag(tmp_path / 'bag', '/label_info')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_an_empty_bag_says_so(tmp_path, storage):
    with BagWriter(tmp_path / 'bag', storage=storage):
        pass
    with pytest.raises(BagError, match='no image topic; its topics are: none, the bag is empty'):
        open_bag(tmp_path / 'bag')


# Detections


detections_values = st.lists(
    st.tuples(
        *[st.floats(0, 4000, width=32)] * 2,
        *[st.floats(0, 4000, width=32)] * 2,
        st.floats(0, 1, width=32),
        st.integers(0, 1000),
    ),
    max_size=8,
)


@given(rows=detections_values, storage=st.sampled_from(['mcap', 'sqlite3']))
@settings(max_examples=20, deadline=None)
def test_detections_make_the_round_trip(tmp_path_factory, rows, storage):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], np.float32)
    written = Detections(
        boxes, np.array([row[4] for row in rows], np.float32), np.array([row[5] for row in rows], np.int32)
    )
    path = tmp_path_factory.mktemp('bags') / 'bag'
    with BagWriter(path, storage=storage) as bag:
        bag.detections('/detections', START, written)
        bag.detections('/detections', START + 1, Detections.empty())
    read = read_detections(path)
    np.testing.assert_allclose(read[START].boxes, written.boxes, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(read[START].scores, written.scores)
    np.testing.assert_array_equal(read[START].class_ids, written.class_ids)
    assert len(read[START + 1]) == 0


def test_the_best_hypothesis_counts_and_class_ids_may_be_names(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.detections('/found', START, Detections(np.array([[0, 0, 2, 2]]), np.array([0.25]), np.array([3])))
    content = next(BagStorage(tmp_path / 'bag').messages(['/found'])).decode()
    first = content.detections[0].results[0]
    best = message('vision_msgs/msg/ObjectHypothesis', class_id='tram', score=0.75)
    content.detections[0].results.append(type(first)(hypothesis=best, pose=first.pose))
    with BagWriter(tmp_path / 'named') as bag:
        bag.write('/found', DETECTIONS, START, content)
    (found,) = read_objects(tmp_path / 'named')[START]
    assert (found.class_id, found.score, found.box) == ('tram', 0.75, (0, 0, 2, 2))
    with pytest.raises(BagError, match='class ids tram are no numbers'):
        read_detections(tmp_path / 'named')


def test_labels_are_found_beside_the_detections(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.detections('/ground_truth', START, Detections.empty())
        bag.label_info('/ground_truth/label_info', START, ['drone', 'bird'])
        bag.label_info('/label_info', START, ['car', 'bus'])
    storage = BagStorage(tmp_path / 'bag')
    assert read_labels(storage, '/ground_truth') == {'0': 'drone', '1': 'bird'}
    assert read_labels(storage, '/detections') == {'0': 'car', '1': 'bus'}
    assert read_labels(storage, '/other/detections') == {}


def test_the_type_hashes_are_those_of_the_standard():
    # From `ros2 topic info --verbose` of a ROS 2 with vision_msgs 4: with another hash, players and nodes do not match.
    vision_msgs = pytest.importorskip('vision_msgs.msg')
    for name, kind in ((DETECTIONS, vision_msgs.Detection2DArray), (LABEL_INFO, vision_msgs.LabelInfo)):
        fields = {f: t.replace('/', '/msg/') for f, t in kind.get_fields_and_field_types().items()}
        ours = [field for field, _ in types().fielddefs[name][1]]
        assert ours == list(fields)


def test_the_packaged_definitions_are_the_interfaces(repository):
    packaged = repository / 'kd_perception' / 'bags' / 'vision_msgs'
    standard = repository / 'interfaces' / 'vision_msgs' / 'msg'
    read = {folder: {file.name: file.read_text() for file in folder.iterdir()} for folder in (packaged, standard)}
    assert read[packaged] == read[standard]


# Damage


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
