"""The journal: nothing is lost by an interrupt, and nothing of another run is taken over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import StageTimes
from kd_perception.evaluation.results import FrameResult, Journal

IDENTITY = {'bag': 'a', 'artifact': 'b'}


def result(stamp: int, score: float = 0.1) -> FrameResult:
    box = np.array([[0.1, 1 / 3, 200.7, 1e5]], np.float32)
    return FrameResult(stamp, Detections(box, np.array([score]), np.array([3])), StageTimes(infer=1 / 7))


def written(path, *stamps: int) -> None:
    journal = Journal(path, IDENTITY, resume=False)
    for stamp in stamps:
        journal.add(result(stamp))
    journal.close()


def test_resume_gives_back_every_bit(tmp_path):
    written(tmp_path / 'j', 10, 20)
    journal = Journal(tmp_path / 'j', IDENTITY, resume=True)
    assert journal.results == {10: result(10), 20: result(20)}


@settings(max_examples=50)
@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_survives_the_text(tmp_path_factory, boxes):
    path = tmp_path_factory.mktemp('journal') / 'j'
    journal = Journal(path, IDENTITY, resume=False)
    journal.add(FrameResult(1, Detections(boxes, np.zeros(3), np.zeros(3)), StageTimes()))
    journal.close()
    np.testing.assert_array_equal(Journal(path, IDENTITY, resume=True).results[1].detections.boxes, boxes)


def test_a_torn_last_line_is_dropped_and_the_file_is_whole_again(tmp_path):
    written(tmp_path / 'j', 10, 20)
    content = (tmp_path / 'j').read_bytes()
    (tmp_path / 'j').write_bytes(content[:-7])
    journal = Journal(tmp_path / 'j', IDENTITY, resume=True)
    assert list(journal.results) == [10]
    journal.add(result(20))
    journal.close()
    assert (tmp_path / 'j').read_bytes() == content


@pytest.mark.parametrize(
    ('identity', 'resume'), [({'bag': 'other', 'artifact': 'b'}, True), (IDENTITY, False)], ids=['other run', 'anew']
)
def test_another_run_starts_anew(tmp_path, identity, resume):
    written(tmp_path / 'j', 10)
    assert Journal(tmp_path / 'j', identity, resume).results == {}


@pytest.mark.parametrize('content', [b'', b'\xff\xfe', b'not json\n'])
def test_a_file_that_is_no_journal_starts_anew(tmp_path, content):
    (tmp_path / 'j').write_bytes(content)
    assert Journal(tmp_path / 'j', IDENTITY, resume=True).results == {}
