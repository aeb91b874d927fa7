"""Images and detections come out of a bag as they went in, whatever form the bag has; what is no bag says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_files import (
    FORMS,
    PERIOD,
    START,
    first_generation_bag,
    image_bag,
    join_splits,
    numbered_image,
    rename_types,
    stamps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin

from kd_perception.bags.message_types import DETECTIONS, IMAGE, LABEL_INFO, message, types
from kd_perception.bags.reader import open_bag, read_detections, read_labels, read_objects
from kd_perception.bags.storage import BagStorage
from kd_perception.bags.writer import BagWriter
from kd_perception.detection.detections import Detections
from kd_perception.errors import BagError

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
