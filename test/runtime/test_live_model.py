"""The live model: every request ends once and by its own name, and no model is closed in a frame or forgotten unclosed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import image_with_cells, make_bundle
from patience import PATIENCE

from kd_perception.errors import BundleError, EngineError
from kd_perception.runtime.live_model import LiveModel, Request, RequestState
from kd_perception.runtime.model import ModelSettings


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.info = self.warning = self.error = self.lines.append


class Product:
    """Stands for a model: remembers whether it was closed, and objects to being closed in a frame."""

    fallbacks = ()

    def __init__(self, settings: ModelSettings, device: str = 'cpu') -> None:
        self.settings = settings
        self.bundle = SimpleNamespace(name=settings.model)
        self.info = SimpleNamespace(precision='fp32', device=device, engine='onnxruntime', provider=device.upper())
        self.selection = SimpleNamespace(table=lambda: 'as asked for')
        self.in_use = False
        self.closed = 0

    def describe(self) -> str:
        return f'{self.settings.model} fp32'

    def warnings(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        assert not self.in_use
        self.closed += 1


class Workshop:
    """A live model whose builds wait until the test says what becomes of them."""

    def __init__(self) -> None:
        self.begun: queue.Queue[ModelSettings] = queue.Queue()
        self.orders: queue.Queue[Callable[[ModelSettings], Product]] = queue.Queue()
        self.products: list[Product] = []
        self.announced: list[tuple[str, int]] = []
        self.log = Log()
        self.live = LiveModel(
            self.log,
            lambda model, version: self.announced.append((model.bundle.name, version)),
            lambda: None,
            lambda settings, report, fallbacks: self.build(settings),
            lambda settings, report: self.build(settings),
        )

    def build(self, settings: ModelSettings) -> Product:
        self.begun.put(settings)
        product = self.orders.get(timeout=PATIENCE)(settings)
        self.products.append(product)
        return product

    def run(self, name: str) -> Product:
        """Have a model built and installed."""
        self.orders.put(Product)
        request = self.live.request(settings(name))
        assert request.wait(PATIENCE)
        assert request.is_installed
        return self.products[-1]


def settings(name: str) -> ModelSettings:
    return ModelSettings(name, 'onnxruntime')


def refuse(_: ModelSettings) -> Product:
    raise BundleError('no such bundle')


def stumble(_: ModelSettings) -> Product:
    raise RuntimeError('the library stumbles')


def out_of_work(live: LiveModel) -> None:
    """Wait for the builder's thread to end."""
    builder = live._builder
    if builder is not None:
        builder.join(PATIENCE)
        assert not builder.is_alive()


def test_a_request_is_built_installed_announced_and_answered_by_its_number():
    workshop = Workshop()
    workshop.run('a')
    request = workshop.live.request(settings('b'))
    workshop.orders.put(Product)
    assert request.wait(PATIENCE)
    assert (request.number, request.state, request.answer) == (2, RequestState.INSTALLED, 'request 2: b fp32')
    assert workshop.live.model is workshop.products[1]
    assert workshop.announced == [('a', 1), ('b', 2)]
    assert [product.closed for product in workshop.products] == [1, 0]


@pytest.mark.parametrize(('fault', 'says'), [(refuse, 'no such bundle'), (stumble, 'the library stumbles')])
def test_a_build_that_fails_leaves_the_old_model_and_the_next_request_is_built(fault, says):
    workshop = Workshop()
    old = workshop.run('a')
    request = workshop.live.request(settings('b'))
    workshop.orders.put(fault)
    assert request.wait(PATIENCE)
    assert (request.is_installed, workshop.live.failed) == (False, request)
    assert request.answer.startswith('request 2: reload failed, a fp32 goes on: ')
    assert says in request.answer
    assert workshop.live.model is old
    assert workshop.live.requested_settings == settings('a')
    workshop.run('c')
    assert (workshop.live.failed, workshop.live.reload_failure) == (None, '')


def test_of_many_requests_the_newest_is_built_and_the_others_fail_by_its_number():
    workshop = Workshop()
    first = workshop.live.request(settings('a'))
    assert workshop.begun.get(timeout=PATIENCE) == settings('a')
    second, third = workshop.live.request(settings('b')), workshop.live.request(settings('c'))
    for _ in range(2):
        workshop.orders.put(Product)
    assert third.wait(PATIENCE)
    assert first.answer == 'request 1: request 2 took its place'
    assert second.answer == 'request 2: request 3 took its place'
    assert [product.settings.model for product in workshop.products] == ['a', 'c']
    assert [product.closed for product in workshop.products] == [1, 0]
    assert workshop.announced == [('c', 1)]


# Interleavings, each forced


def test_a_build_that_fails_after_a_newer_request_decides_nothing():
    workshop = Workshop()
    workshop.run('a')
    newer: list[Request] = []

    def fail_just_after_a_newer_request(_: ModelSettings) -> Product:
        newer.append(workshop.live.request(settings('c')))
        raise BundleError('too late to matter')

    older = workshop.live.request(settings('b'))
    workshop.orders.put(fail_just_after_a_newer_request)
    workshop.orders.put(Product)
    assert older.wait(PATIENCE)
    assert newer[0].wait(PATIENCE)
    assert older.answer == 'request 2: request 3 took its place'
    assert newer[0].is_installed
    assert workshop.live.failed is None
    assert workshop.live.requested_settings == settings('c')
    assert not any('too late' in line for line in workshop.log.lines)


def test_a_model_built_just_after_a_newer_request_is_closed_and_never_runs():
    workshop = Workshop()
    newer: list[Request] = []

    def finish_just_after_a_newer_request(asked: ModelSettings) -> Product:
        newer.append(workshop.live.request(settings('b')))
        return Product(asked)

    workshop.live.request(settings('a'))
    workshop.orders.put(finish_just_after_a_newer_request)
    workshop.orders.put(Product)
    workshop.begun.get(timeout=PATIENCE)
    workshop.begun.get(timeout=PATIENCE)  # the second build has begun, so that the first is done with
    assert newer[0].wait(PATIENCE)
    assert workshop.announced == [('b', 1)]
    assert [product.closed for product in workshop.products] == [1, 0]


def test_a_model_that_waits_for_a_frames_end_does_not_answer_for_a_newer_request():
    workshop = Workshop()
    workshop.run('a')
    with workshop.live.lend():
        first = workshop.live.request(settings('b'))
        workshop.orders.put(Product)
        out_of_work(workshop.live)
        assert first.state is RequestState.READY
        second = workshop.live.request(settings('c'))
        assert first.answer == 'request 2: request 3 took its place'
        assert workshop.products[1].closed == 1
    assert (second.has_ended, workshop.announced) == (False, [('a', 1)])
    workshop.orders.put(Product)
    assert second.wait(PATIENCE)
    assert workshop.announced == [('a', 1), ('c', 2)]


def test_installed_is_answered_when_the_frame_in_work_is_done_and_not_before():
    workshop = Workshop()
    old = workshop.run('a')
    with workshop.live.lend() as lent:
        request = workshop.live.request(settings('b'))
        workshop.orders.put(Product)
        out_of_work(workshop.live)
        assert (request.state, request.has_ended) == (RequestState.READY, False)
        assert lent is workshop.live.model is old
        assert old.closed == 0
    assert (request.is_installed, workshop.live.model, old.closed) == (True, workshop.products[1], 1)


@pytest.mark.parametrize('end', [Product, refuse, stumble])
def test_a_build_that_ends_after_the_cleanup_installs_nothing_and_reports_nothing(end):
    workshop = Workshop()

    def end_just_after_the_cleanup(asked: ModelSettings) -> Product:
        workshop.live.close()
        return end(asked)

    request = workshop.live.request(settings('a'))
    workshop.begun.get(timeout=PATIENCE)
    builder = workshop.live._builder
    workshop.orders.put(end_just_after_the_cleanup)
    builder.join(PATIENCE)
    assert request.answer == 'request 1: the node was cleaned up meanwhile'
    live = workshop.live
    assert (live.model, live.version, live.failure, live.failed, live.requested_settings) == (None, 0, '', None, None)
    assert [product.closed for product in workshop.products] == [1] * len(workshop.products)
    assert workshop.announced == []


# Frames


def test_an_engine_that_hangs_is_abandoned_unclosed_and_its_end_changes_nothing():
    workshop = Workshop()
    stuck = workshop.run('a')
    with workshop.live.lend():
        workshop.live.abandon_engine('hangs')
        assert (workshop.live.model, workshop.live.is_halted) == (None, True)
        assert not workshop.live.resume()
        new = workshop.run('b')
    assert (workshop.live.model, stuck.closed, new.closed) == (new, 0, 0)
    assert not workshop.live.is_halted


def test_abandoning_an_engine_installs_what_waited():
    workshop = Workshop()
    workshop.run('a')
    with workshop.live.lend():
        request = workshop.live.request(settings('b'))
        workshop.orders.put(Product)
        out_of_work(workshop.live)
        workshop.live.abandon_engine('hangs')
        assert request.is_installed
    assert workshop.live.model is workshop.products[1]


@given(st.lists(st.sampled_from(['begin', 'end', 'exchange', 'fail']), max_size=20))
def test_whatever_the_order_every_model_is_closed_once_and_every_request_ends(steps):
    workshop = Workshop()
    live, frame, requests = workshop.live, None, []
    workshop.run('0')
    for number, step in enumerate(steps, 1):
        if step == 'begin' and frame is None:
            frame = live.lend()
            lent = frame.__enter__()
            assert lent is live.model
            lent.in_use = True
        elif step == 'end' and frame is not None:
            lent.in_use = False
            frame.__exit__(None, None, None)
            frame = None
        elif step in ('exchange', 'fail'):
            workshop.orders.put(Product if step == 'exchange' else refuse)
            requests.append(live.request(settings(str(number))))
            out_of_work(live)
    if frame is not None:
        lent.in_use = False
        frame.__exit__(None, None, None)
    assert all(request.has_ended for request in requests)
    live.close()
    assert [product.closed for product in workshop.products] == [1] * len(workshop.products)


# Failures of the engine


def test_a_device_that_fails_is_halted_until_the_cpu_takes_over_and_stays_reported():
    workshop = Workshop()
    workshop.orders.put(lambda asked: Product(asked, 'cuda'))
    assert workshop.live.request(settings('a')).wait(PATIENCE)
    live = workshop.live
    live.engine_failed(live.model, EngineError('no memory'))
    assert (live.is_halted, live.requested_settings) == (True, settings('a'))
    workshop.orders.put(Product)
    out_of_work(live)
    assert (live.is_halted, live.failure) == (False, 'running on the CPU after: no memory')
    assert live.resume()
    assert live.failure == 'running on the CPU after: no memory'
    workshop.run('a')
    assert live.failure == ''


def test_where_the_cpu_fails_as_well_the_node_is_disabled_until_it_is_resumed():
    workshop = Workshop()
    workshop.orders.put(lambda asked: Product(asked, 'cuda'))
    assert workshop.live.request(settings('a')).wait(PATIENCE)
    live = workshop.live
    live.engine_failed(live.model, EngineError('no memory'))
    workshop.orders.put(refuse)
    out_of_work(live)
    assert live.is_halted
    assert live.failure.startswith('disabled after: no memory; the CPU fallback failed as well: no such bundle')
    assert live.resume()
    assert (live.is_halted, live.failure) == (False, '')


def test_an_engine_that_fails_while_a_model_is_on_its_way_waits_for_that():
    workshop = Workshop()
    workshop.orders.put(lambda asked: Product(asked, 'cuda'))
    assert workshop.live.request(settings('a')).wait(PATIENCE)
    live = workshop.live
    request = live.request(settings('b'))
    live.engine_failed(live.model, EngineError('no memory'))
    assert (live.is_halted, request.has_ended) == (True, False)
    workshop.orders.put(Product)
    assert request.wait(PATIENCE)
    assert (request.is_installed, live.is_halted, live.failure) == (True, False, '')


def test_a_real_model_is_built_and_lent(tmp_path):
    make_bundle(tmp_path / 'bright_cells')
    changed = threading.Semaphore(0)
    live = LiveModel(Log(), lambda *_: None, changed.release)
    request = live.request(ModelSettings(str(tmp_path / 'bright_cells'), 'onnxruntime', threads=1))
    assert request.wait(PATIENCE)
    with live.lend() as model:
        detections, times = live.detect(model, image_with_cells(3))
    assert len(detections) == 1
    assert times.infer > 0
    live.close()
    assert live.model is None
