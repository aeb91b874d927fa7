"""A bag played to the real node over DDS: stepped, it finds what the evaluation finds; at its pace, nothing waits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_files import START, stamps
from detector_process import wait_for
from networks import CELL, make_bundle
from patience import PATIENCE, patient
from programs import run_program
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.bags.making import BagForm, make_bag
from kd_perception.bags.message_types import IMAGE, types
from kd_perception.bags.reader import open_bag
from kd_perception.bags.sources import SceneSource
from kd_perception.bags.storage import BagStorage
from kd_perception.bags.writer import BagWriter
from kd_perception.bundles.bundle import load_bundle
from kd_perception.cli.main import main
from kd_perception.detection.detections import Detections
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.evaluate import Job, run_job
from kd_perception.ros import replay
from kd_perception.ros.replay import Replay, ReplayError, replay_node, restamped
from kd_perception.ros.replay_options import ReplayOptions
from kd_perception.ros.spinning import spinning

SIZES = [(64, 64), (128, 96), (100, 333)]
COUNT = 12


def cells_image(k: int) -> np.ndarray:
    """Cells of random brightness and color, in a size that changes from image to image."""
    rng = np.random.default_rng(k)
    cells = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(CELL, axis=0).repeat(CELL, axis=1)
    height, width = SIZES[k % len(SIZES)]
    rows, columns = np.arange(height) * 64 // height, np.arange(width) * 64 // width
    return np.ascontiguousarray(cells[rows][:, columns])


def cells_bag(path: Path, form: str = 'bgr8', count: int = COUNT) -> Path:
    with BagWriter(path) as bag:
        for k, stamp in enumerate(stamps(count)):
            if form == 'jpeg':
                bag.jpeg('/camera/image/compressed', stamp, cells_image(k))
            else:
                bag.image('/camera/image', stamp, cells_image(k))
    return path


@pytest.fixture
def play() -> Iterator[Callable[..., Replay]]:
    """Play a bag from a node of its own."""

    def play(bag: Path, **options: Any) -> Replay:
        with replay_node(None) as node:
            player = Replay(node, open_bag(bag), ReplayOptions(bag=str(bag), **options))
            player.play()
        return player

    terminate = signal.getsignal(signal.SIGTERM)
    yield play
    signal.signal(signal.SIGTERM, terminate)


def found_offline(bag: Path, bundle: Path, precision: str = 'auto') -> dict[int, Detections]:
    """What `kd_perception evaluate` finds in every frame, at the bundle's thresholds."""
    loaded = load_bundle(bundle)
    frames = run_job(Job(bag=bag, bundle=bundle, threads=1, precision=precision)).frames
    at, names = loaded.thresholds, loaded.classes
    return {f.stamp_ns: f.detections.select(at.reported(f.detections, names)) for f in frames}


@pytest.mark.parametrize(('form', 'transport'), [('bgr8', 'raw'), ('jpeg', 'compressed')])
def test_stepped_replay_finds_what_the_evaluation_finds(start_detector, play, tmp_path, form, transport):
    bag = cells_bag(tmp_path / 'bag', form)
    make_bundle(tmp_path / 'model')
    start_detector(tmp_path / 'model', client={'transport': transport}, image_transport=transport).wait_until_active()
    player = play(bag, step=True)
    assert (player.summary().sent, player.summary().answered, player.summary().missing) == (COUNT, COUNT, 0)
    expected = found_offline(bag, tmp_path / 'model')
    assert sum(len(detections) for detections in expected.values()) > COUNT
    assert player.answers == expected


def test_stepped_replay_of_a_flight_finds_what_the_evaluation_finds(start_detector, play, repository, tmp_path):
    bundle = repository / 'models' / 'aerial_traffic'
    if not bundle.is_dir():
        pytest.skip('the bundle aerial_traffic has not been made yet')
    bag = tmp_path / 'flight'
    make_bag(SceneSource(3, 640, 480, 30.0), bag, BagForm(frames=6))
    start_detector(bundle).wait_until_active()
    player = play(bag, step=True, timeout=PATIENCE)
    expected = found_offline(bag, bundle)
    assert sum(len(detections) for detections in expected.values()) > 0
    assert player.answers == expected


def test_an_image_without_answer_is_counted_and_does_not_stop_the_others(start_detector, play, tmp_path):
    good = cells_image(0)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.jpeg('/image/compressed', START, good)
        bag.jpeg('/image/compressed', START + 1, b'\xff\xd8 no picture')
        bag.jpeg('/image/compressed', START + 2, good)
    detector = start_detector(client={'transport': 'compressed'}, image_transport='compressed').wait_until_active()
    player = play(tmp_path / 'bag', step=True, timeout=patient(0.5))
    assert list(player.answers) == [START, START + 2]
    assert str(player.summary()).endswith('2 answered, 1 missing')
    wait_for(lambda: detector.counts()['dropped.undecodable'] == 1, 'the detector to count the image')


class Listener(Node):
    """A subscriber that notes when images come; it answers nothing."""

    def __init__(self) -> None:
        super().__init__('listener')
        self.arrivals: list[tuple[float, int]] = []
        self.clock: list[int] = []
        self.create_subscription(Image, 'image', self._on_image, 50)
        self.create_subscription(Clock, '/clock', self._on_clock, 500)

    def _on_image(self, message: Any) -> None:
        self.arrivals.append((time.monotonic(), message.header.stamp.sec * 10**9 + message.header.stamp.nanosec))

    def _on_clock(self, message: Clock) -> None:
        self.clock.append(message.clock.sec * 10**9 + message.clock.nanosec)


@pytest.fixture
def listener(_rclpy: None) -> Iterator[Listener]:
    with spinning(Listener()) as node:
        yield node


def test_images_come_at_their_own_pace_times_the_rate(play, listener, tmp_path):
    player = play(cells_bag(tmp_path / 'bag'), rate=0.5)
    wait_for(lambda: len(listener.arrivals) == COUNT, 'all images')
    assert [stamp for _, stamp in listener.arrivals] == stamps(COUNT)
    # The bag lasts 11 periods of 1/30 s. A busy machine may be late, never early.
    assert listener.arrivals[-1][0] - listener.arrivals[0][0] > 2 * 10 / 30
    assert player.summary().missing == COUNT


def test_the_clock_goes_with_the_bag(play, listener, tmp_path):
    play(cells_bag(tmp_path / 'bag'), clock=True, rate=0.5)
    wait_for(lambda: len(listener.arrivals) == COUNT, 'all images')
    assert listener.clock == sorted(listener.clock)
    during = [t for t in listener.clock if stamps(COUNT)[0] <= t <= stamps(COUNT)[-1]]
    assert len(during) > COUNT
    assert listener.clock[-1] >= stamps(COUNT)[-1]


def test_restamped_images_are_of_now(play, listener, tmp_path):
    before = time.time_ns()
    play(cells_bag(tmp_path / 'bag', count=3), restamp=True, rate=10.0)
    wait_for(lambda: len(listener.arrivals) == 3, 'all images')
    assert all(before < stamp < time.time_ns() for _, stamp in listener.arrivals)


def test_answers_to_restamped_images_are_known_by_the_recorded_stamps(start_detector, play, tmp_path):
    bag = cells_bag(tmp_path / 'bag', count=3)
    start_detector().wait_until_active()
    assert list(play(bag, step=True, restamp=True).answers) == stamps(3)


@pytest.mark.parametrize('little_endian', [True, False])
def test_a_new_stamp_changes_nothing_else(tmp_path, little_endian):
    (old,) = BagStorage(cells_bag(tmp_path / 'bag', count=1)).messages(['/camera/image'])
    content = old.decode()
    raw = bytes(types().serialize_cdr(content, IMAGE, little_endian=little_endian))
    new = types().deserialize_cdr(restamped(raw, 5_000_000_007), IMAGE)
    assert (new.header.stamp.sec, new.header.stamp.nanosec) == (5, 7)
    assert new.header.frame_id == content.header.frame_id
    np.testing.assert_array_equal(new.data, content.data)


def test_nobody_there_says_what_to_start(play, tmp_path):
    with pytest.raises(ReplayError, match='nobody subscribes to /image after 0.2 s. Start the detector'):
        play(cells_bag(tmp_path / 'bag'), wait=0.2)


@pytest.mark.parametrize(
    ('form', 'subscribed', 'says'),
    [
        ('jpeg', 'image', 'the bag has compressed images, for /image/compressed, and only /image is subscribed to'),
        ('bgr8', 'image/compressed', 'the bag has raw images, for /image, and only /image/compressed is subscribed to'),
    ],
)
def test_another_transport_is_named_while_it_waits_and_at_the_end(
    play, make_client, monkeypatch, capfd, tmp_path, form, subscribed, says
):
    monkeypatch.setattr(replay, '_PATIENCE', 0.0)
    make_client().create_subscription(CompressedImage if 'compressed' in subscribed else Image, subscribed, print, 1)
    cure = f'Start the detector with image_transport:={"compressed" if form == "jpeg" else "raw"}'
    with pytest.raises(ReplayError, match=f'{says} after 2 s. {cure}'):
        play(cells_bag(tmp_path / 'bag', form), wait=2.0)
    assert capfd.readouterr().err.count(f'still waiting: {says}. {cure}') == 1


def test_stepping_needs_somebody_who_answers(play, listener, tmp_path):
    with pytest.raises(ReplayError, match='nobody publishes /detections'):
        play(cells_bag(tmp_path / 'bag'), wait=5.0, step=True)  # long enough for the two to find each other under load


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'bag': ''}, 'no bag given'),
        ({'rate': 0.0}, 'rate is 0; it must be above 0'),
        ({'rate': float('inf')}, 'rate is inf'),
        ({'timeout': 0.0}, 'timeout is 0'),
        ({'clock': True, 'restamp': True}, 'clock and restamp exclude each other'),
    ],
)
def test_options_out_of_range_say_so(changes, says):
    with pytest.raises(KdPerceptionError, match=says):
        replace(ReplayOptions(bag='bag'), **changes)


def test_the_command_says_what_became_of_the_images(start_detector, tmp_path):
    bag = cells_bag(tmp_path / 'bag')
    start_detector(arguments=['-r', 'image:=/front/image', '-r', 'detections:=/front/found'])
    replay = ['replay', str(bag), '--step', '--image', '/front/image', '--detections', '/front/found']
    done = run_program('kd_perception.cli.main', *replay)
    assert done.returncode == 0, done.stderr
    assert f'{COUNT} images sent in' in done.stdout
    assert f'{COUNT} answered, 0 missing' in done.stdout


def test_the_command_refuses_what_it_cannot_play(tmp_path, capsys):
    assert main(['replay', str(tmp_path / 'absent')]) == 1
    assert 'absent: no such file or folder' in capsys.readouterr().err


def test_the_node_takes_its_options_as_parameters(listener, tmp_path):
    bag = cells_bag(tmp_path / 'bag', count=4)
    parameters = ['-p', f'bag:={bag}', '-p', 'rate:=4.0', '-p', 'topic:=/camera/image']
    done = run_program('kd_perception.ros.replay', '--ros-args', *parameters)
    assert done.returncode == 0, done.stderr
    assert '4 images sent' in done.stdout + done.stderr
    wait_for(lambda: len(listener.arrivals) == 4, 'all images')


@pytest.mark.parametrize(
    ('parameter', 'says'),
    [('rate:=fast', 'parameter rate'), ('rate:=-1.0', 'rate is -1'), ('topic:=/rear', 'no topic /rear')],
)
def test_the_node_refuses_wrong_parameters(tmp_path, parameter, says):
    bag = cells_bag(tmp_path / 'bag', count=1)
    done = run_program('kd_perception.ros.replay', '--ros-args', '-p', f'bag:={bag}', '-p', parameter)
    assert done.returncode == 1
    assert says in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('how', [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_a_replay_for_ever_ends_on_a_signal_and_sums_up(listener, tmp_path, how):
    bag = cells_bag(tmp_path / 'bag', count=2)
    command = [sys.executable, '-m', 'kd_perception', 'replay', str(bag), '--loop', '--rate', '5']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(listener.arrivals) > 6, 'the bag to be played again and again')
        for number in how:
            process.send_signal(number)
        out, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert 'images sent' in out
