"""Ids stay with their objects: over lost frames, irregular times, weak detections and crossings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.detection.detections import NO_TRACK, Detections
from kd_perception.detection.overlap import iou
from kd_perception.tracking.bytetrack import ByteTracker, TrackerSettings
from kd_perception.tracking.motion import BoxMotion


def detections(*boxes, scores=0.9, classes=0):
    count = len(boxes)
    return Detections(np.array(boxes, np.float32), np.full(count, scores), np.full(count, classes))


def moving(seconds, x=0.0, speed=100.0, size=40.0, y=0.0):
    left = x + speed * seconds
    return left, y, left + size, y + size


def test_first_frame_is_confirmed_at_once_and_ids_begin_at_one():
    assert ByteTracker().update(detections(moving(0), moving(0, y=200)), 0.0).tolist() == [1, 2]


def test_a_new_object_is_confirmed_by_its_second_detection():
    tracker = ByteTracker()
    tracker.update(detections(moving(0)), 0.0)
    both = [detections(moving(t), moving(t, y=200)) for t in (0.1, 0.2)]
    assert tracker.update(both[0], 0.1).tolist() == [1, NO_TRACK]
    assert tracker.update(both[1], 0.2).tolist() == [1, 2]


def test_an_object_seen_once_gets_no_id_later():
    tracker = ByteTracker()
    tracker.update(detections(moving(0)), 0.0)
    tracker.update(detections(moving(0.1), moving(0, y=200)), 0.1)
    tracker.update(detections(moving(0.2)), 0.2)
    assert tracker.update(detections(moving(0.3), moving(0, y=200)), 0.3).tolist() == [1, NO_TRACK]


@pytest.mark.parametrize('speed', [0, 100, -250, 400])
def test_ids_survive_five_lost_frames_at_30_hz(speed):
    """A box of 40 px that moves by up to twice its size meanwhile: without motion by time it would be lost."""
    tracker = ByteTracker()
    for frame in range(15):
        assert tracker.update(detections(moving(frame / 30, speed=speed)), frame / 30).tolist() == [1]
    late = (14 + 6) / 30
    assert tracker.update(detections(moving(late, speed=speed)), late).tolist() == [1]


@given(steps=st.lists(st.floats(0.005, 0.2), min_size=5, max_size=40), speed=st.floats(-150, 150))
def test_irregular_times_do_not_matter(steps, speed):
    tracker, seconds = ByteTracker(), 0.0
    for frame in range(10):
        seconds = frame / 30
        tracker.update(detections(moving(seconds, speed=speed)), seconds)
    for step in steps:
        seconds += step
        assert tracker.update(detections(moving(seconds, speed=speed)), seconds).tolist() == [1]


def test_a_weak_detection_continues_a_track_but_begins_none():
    tracker = ByteTracker()
    tracker.update(detections(moving(0)), 0.0)
    weak = detections(moving(0.03), moving(0, y=200), scores=0.2)
    assert tracker.update(weak, 0.03).tolist() == [1, NO_TRACK]
    assert tracker.update(weak, 0.06).tolist() == [1, NO_TRACK]
    below = detections(moving(0.09), scores=0.05)
    assert tracker.update(below, 0.09).tolist() == [NO_TRACK]


@pytest.mark.parametrize(
    ('publish_score', 'ids', 'kept'),
    [
        (-1.0, [1, 2, NO_TRACK], [True, False, False]),
        (0.3, [1, 2, NO_TRACK], [True, True, False]),
        (0.45, [1, 2, NO_TRACK], [True, False, False]),
        (0.3, None, [True, False, False]),
    ],
)
def test_a_detection_that_continues_a_track_may_be_published_from_a_lower_score(publish_score, ids, kept):
    found = Detections(np.zeros((3, 4)), np.array([0.9, 0.4, 0.4]), np.zeros(3), ids and np.array(ids))
    settings = TrackerSettings(publish_score=publish_score)
    assert settings.published(found, found.scores >= 0.5).tolist() == kept


def test_two_objects_that_pass_each_other_keep_their_ids():
    tracker = ByteTracker()
    for frame in range(60):
        t = frame / 30
        there, back = moving(t, speed=200), moving(t, x=400, speed=-200, y=15)
        assert tracker.update(detections(there, back), t).tolist() == [1, 2]


def test_a_track_is_kept_for_its_seconds_and_no_longer():
    tracker = ByteTracker(TrackerSettings(keep_s=1.0))
    still = detections(moving(0, speed=0))
    for t in (0.0, 0.1, 1.05):
        assert tracker.update(still, t).tolist() == [1]
    assert tracker.update(still, 2.2).tolist() == [NO_TRACK]
    assert tracker.update(still, 2.3).tolist() == [2]


def test_a_bag_that_starts_again_begins_new_tracks_and_a_small_step_back_does_not():
    tracker = ByteTracker()
    still = detections(moving(0, speed=0))
    for t in (100.0, 100.1, 100.05):
        assert tracker.update(still, t).tolist() == [1]
    assert tracker.update(still, 3.0).tolist() == [2]


def test_reset_forgets_tracks_and_gives_no_id_twice():
    tracker = ByteTracker()
    assert tracker.update(detections(moving(0)), 0.0).tolist() == [1]
    tracker.reset()
    assert tracker.update(detections(moving(0)), 0.1).tolist() == [2]


def test_a_class_that_changes_for_a_frame_keeps_the_id():
    tracker = ByteTracker()
    for frame, kind in enumerate([0, 0, 1, 0]):
        assert tracker.update(detections(moving(frame / 30), classes=kind), frame / 30).tolist() == [1]


@pytest.mark.parametrize(
    ('votes', 'published'), [(True, [0, 0, 0, 0, 1, 1]), (False, [0, 0, 1, 0, 1, 1])], ids=['vote', 'frame']
)
def test_the_class_of_a_track_is_that_of_its_scores(votes, published):
    """0.9 + 0.9 against 0.8; then, a minute later, what was is forgotten."""
    tracker = ByteTracker(TrackerSettings(keep_s=60.0, votes=votes))
    seen = [(0.0, 0, 0.9), (0.1, 0, 0.9), (0.2, 1, 0.8), (0.3, 0, 0.9), (60.0, 1, 0.6), (60.1, 1, 0.6)]
    still = (0.0, 0.0, 40.0, 40.0)
    found = [tracker.track(detections(still, scores=score, classes=kind), t) for t, kind, score in seen]
    assert [one.class_ids.tolist() for one in found] == [[kind] for kind in published]
    assert {one.track_ids.tolist()[0] for one in found} == {1}


def test_what_has_no_id_keeps_its_class():
    tracker = ByteTracker()
    tracker.track(detections(moving(0), classes=3), 0.0)
    found = tracker.track(detections(moving(0.1), moving(0, y=200), classes=7), 0.1)
    assert found.track_ids.tolist() == [1, NO_TRACK]
    assert found.class_ids.tolist() == [7, 7], 'nearly equal scores: the newer counts more'


def test_no_detections():
    tracker = ByteTracker()
    assert tracker.update(Detections.empty(), 0.0).tolist() == []
    tracker.update(detections(moving(0.1)), 0.1)
    assert tracker.update(Detections.empty(), 0.2).tolist() == []


boxes = st.lists(st.tuples(*[st.floats(-500, 5000, width=32)] * 2, *[st.floats(1, 500, width=32)] * 2), max_size=12)


@given(frames=st.lists(st.tuples(boxes, st.floats(0, 1), st.floats(-3, 3)), max_size=12))
def test_whatever_comes_ids_are_unique_in_a_frame(frames):
    tracker, seconds = ByteTracker(), 0.0
    for corners, score, step in frames:
        seconds += step
        found = detections(*[(x, y, x + w, y + h) for x, y, w, h in corners], scores=score)
        ids = tracker.update(found, seconds)
        given_ids = ids[ids != NO_TRACK]
        assert len(ids) == len(found)
        assert len(set(given_ids.tolist())) == len(given_ids)


def test_velocity_is_learned_in_pixels_per_second():
    motion = BoxMotion.starting_at(np.array([moving(0)]))
    for frame in range(1, 60):
        motion.advance(1 / 30)
        motion.correct(np.array([0]), np.array([moving(frame / 30)]))
    assert motion.velocity[0, 0] == pytest.approx(100, rel=0.02)
    assert motion.velocity[0, 1:] == pytest.approx(0, abs=1)
    before = motion.covariance[0, 0, 0]
    motion.advance(0.5)
    assert motion.boxes()[0] == pytest.approx(moving(59 / 30 + 0.5), abs=3)
    assert motion.covariance[0, 0, 0] > before


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    b = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]], float)
    assert iou(a, b) == pytest.approx(np.array([[1 / 3, 0, 0], [0, 1, 0]]))
