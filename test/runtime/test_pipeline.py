"""The pipeline on a real engine that takes commands: every frame is counted once, and only the engine is watched as an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import faulty_engine
import numpy as np
import pytest
from networks import image_with_cells, make_bundle
from patience import PATIENCE

from kd_perception import engines
from kd_perception.errors import MalformedImageError
from kd_perception.runtime.frame import Frame, FrameOptions
from kd_perception.runtime.frame_counters import FrameCounters
from kd_perception.runtime.live_model import LiveModel
from kd_perception.runtime.load_shedding import LoadShedding
from kd_perception.runtime.model import ModelSettings
from kd_perception.runtime.pipeline import Pipeline
from kd_perception.selection import first_run

AT_ONCE = 0.0
"""A watchdog's limit that everything in work is over."""


class Counters(FrameCounters):
    """Tells a test of every frame that is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.when_dropped: Callable[[str], None] = lambda cause: None

    def drop(self, cause: str) -> None:
        super().drop(cause)
        self.when_dropped(cause)


class Camera:
    """A source whose messages are images, or functions that give one."""

    slot = 0

    def __init__(self) -> None:
        self.counters = Counters()
        self.rejection = ''
        self.sent: list[int] = []
        self.ended = threading.Condition()

    def age_ms(self, message) -> float:
        return 1000.0

    def decode(self, message) -> np.ndarray:
        return message() if callable(message) else message

    def rejects(self, reason: str) -> None:
        self.rejection = reason

    def seconds(self, message) -> float:
        return 0.0

    def publish(self, message, detections, classes) -> None:
        self.sent.append(len(detections))

    def published(self, times, at) -> None:
        pass

    def publish_extras(self, message, image, detections, times, classes) -> None:
        pass


class Rig:
    """A running pipeline with one camera."""

    def __init__(self, folder: str) -> None:
        log = type('Log', (), {name: staticmethod(lambda line: None) for name in ('info', 'warning', 'error')})
        self.announced: list[bool] = []
        self.live = LiveModel(log, lambda *_: self.announced.append(self.pipeline.is_running), lambda: None)
        self.settings = ModelSettings(folder, 'onnxruntime', threads=1)
        self.camera = Camera()
        self.options = FrameOptions()
        self.faults: list[str] = []
        shedding = LoadShedding(lambda line: None)
        self.pipeline = Pipeline(self.live, shedding, 1, lambda: self.options, lambda: 0.0, self.faults.append)
        assert self.live.request(self.settings).wait(PATIENCE)
        self.pipeline.start()

    def show(self, *messages) -> None:
        for message in messages:
            self.camera.counters.receive()
            self.pipeline.submit(Frame(self.camera, message, 0.0, 0.0))

    def wait_for(self, **expected: int) -> None:
        """Wait until so many frames are published, or dropped by a cause."""

        def met() -> bool:
            counts = self.camera.counters.snapshot()
            figures = {**counts.dropped, 'published': counts.published, 'pending': counts.pending}
            return all(figures[key] == value for key, value in expected.items())

        waiting = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if met():
                return
            waiting.wait(0.01)
        pytest.fail(f'waited in vain for {expected}: {self.camera.counters.snapshot()}')


@pytest.fixture
def rig(tmp_path, monkeypatch) -> Iterator[Rig]:
    monkeypatch.setitem(engines.ENGINES, 'onnxruntime', faulty_engine.KIND)
    monkeypatch.setattr(first_run, 'check', lambda selection, report: None)
    make_bundle(tmp_path / 'bright_cells')
    rig = Rig(str(tmp_path / 'bright_cells'))
    yield rig
    faulty_engine.before_inference.clear()
    rig.pipeline.stop(PATIENCE)
    rig.live.close()


class Gate:
    """Something that is begun, and ends when the test allows it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.allowed = threading.Event()

    def pass_through(self, *_) -> np.ndarray:
        self.begun.set()
        assert self.allowed.wait(PATIENCE)
        return image_with_cells(1)


@pytest.fixture
def stuck_engine(rig) -> Iterator[Gate]:
    """Every inference waits at the gate."""
    gate = Gate()
    faulty_engine.before_inference.append(gate.pass_through)
    yield gate
    gate.allowed.set()


def fail(error: Exception) -> Callable[[], np.ndarray]:
    def decode() -> np.ndarray:
        raise error

    return decode


@pytest.mark.parametrize(
    ('message', 'counted', 'rejection', 'faults'),
    [
        (image_with_cells(1, 2), 'published', '', 0),
        (fail(MalformedImageError('no picture')), 'undecodable', 'no picture', 0),
        (fail(ZeroDivisionError('our own fault')), 'failed', '', 1),
    ],
)
def test_a_frame_is_counted_by_what_became_of_it_and_the_next_is_served(rig, message, counted, rejection, faults):
    rig.show(message)
    rig.wait_for(**{counted: 1, 'pending': 0})
    assert (rig.camera.rejection, len(rig.faults)) == (rejection, faults)
    published = rig.camera.counters.snapshot().published
    rig.show(image_with_cells(3))
    rig.wait_for(published=published + 1, pending=0)
    assert rig.camera.rejection == ''


def test_a_stale_frame_is_not_decoded(rig):
    rig.options = FrameOptions(max_age_ms=500.0)
    rig.show(fail(AssertionError('was decoded')))
    rig.wait_for(stale=1, pending=0)


@pytest.mark.parametrize('off', ['is_enabled', 'running'])
def test_a_pipeline_that_takes_nothing_counts_frames_as_disabled(rig, off):
    if off == 'is_enabled':
        rig.pipeline.is_enabled = False
    else:
        rig.pipeline.stop(PATIENCE)
    rig.show(image_with_cells(1))
    rig.wait_for(disabled=1, pending=0)


def test_a_picture_that_is_slow_to_decode_is_undecodable_and_the_next_frame_is_served(rig):
    gate, model = Gate(), rig.live.model
    rig.show(gate.pass_through)
    assert gate.begun.wait(PATIENCE)
    rig.pipeline.watch(AT_ONCE)
    rig.wait_for(undecodable=1, pending=0)
    assert 'took longer than' in rig.camera.rejection
    rig.show(image_with_cells(1))
    rig.wait_for(published=1, pending=0)
    gate.allowed.set()  # the late picture goes neither to the engine nor out
    rig.show(image_with_cells(1))
    rig.wait_for(published=2, undecodable=1, pending=0)
    assert (rig.live.model, rig.live.is_halted, rig.live.engine_errors) == (model, False, 0)


def test_the_time_of_decoding_is_not_the_engines(rig, stuck_engine):
    """A picture that was slow and has gone to the engine is the engine's from there on."""
    rig.show(image_with_cells(1))
    assert stuck_engine.begun.wait(PATIENCE)
    rig.pipeline.watch(PATIENCE)
    assert (rig.live.is_halted, rig.camera.counters.snapshot().pending) == (False, 1)
    rig.pipeline.watch(AT_ONCE)
    rig.wait_for(failed=1, pending=0)
    assert rig.live.is_halted


def test_between_claiming_a_stuck_frame_and_abandoning_its_engine_no_frame_is_taken(rig, stuck_engine):
    rig.show(image_with_cells(1))
    assert stuck_engine.begun.wait(PATIENCE)
    rig.show(image_with_cells(2))  # waits behind it
    worker, runs = rig.pipeline._worker, []

    def come_back_just_now(cause: str) -> None:
        if cause == 'failed':  # claimed and counted, and the engine not abandoned yet
            faulty_engine.before_inference[:] = [lambda info: runs.append(info)]
            stuck_engine.allowed.set()
            worker.join(PATIENCE)
            assert not worker.is_alive()

    rig.camera.counters.when_dropped = come_back_just_now
    rig.pipeline.watch(AT_ONCE)
    rig.wait_for(failed=1, disabled=1, published=0, pending=0)
    assert (runs, rig.live.model, rig.live.is_halted) == ([], None, True)
    assert rig.live.request(rig.settings).wait(PATIENCE)
    rig.show(image_with_cells(1))
    rig.wait_for(failed=1, disabled=1, published=1, pending=0)


def test_a_model_that_waited_behind_a_stuck_frame_is_installed_and_announced_by_a_running_pipeline(rig, stuck_engine):
    rig.show(image_with_cells(1))
    assert stuck_engine.begun.wait(PATIENCE)
    faulty_engine.before_inference.clear()
    request = rig.live.request(rig.settings)
    builder = rig.live._builder
    if builder is not None:  # else it has built already
        builder.join(PATIENCE)
    assert (request.state.value, request.has_ended) == ('ready', False)
    rig.pipeline.watch(AT_ONCE)
    assert (request.is_installed, rig.announced) == (True, [False, True])
    rig.show(image_with_cells(1))
    rig.wait_for(failed=1, published=1, pending=0)


def test_a_stuck_frame_is_given_up_when_the_pipeline_stops_and_its_engine_is_not_closed(rig, stuck_engine):
    rig.show(image_with_cells(1))
    assert stuck_engine.begun.wait(PATIENCE)
    rig.pipeline.stop(AT_ONCE)
    rig.wait_for(failed=1, pending=0)
    assert rig.live.model is None


def test_at_the_end_a_slow_engine_is_no_fault(rig, stuck_engine):
    rig.show(image_with_cells(1))
    assert stuck_engine.begun.wait(PATIENCE)
    rig.pipeline.stop(AT_ONCE, ending=True)
    rig.wait_for(disabled=1, failed=0, pending=0)
    assert (rig.live.engine_errors, rig.live.failure) == (0, '')
