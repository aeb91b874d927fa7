"""Models are built one at a time, the newest wish counts, and nothing that was built is forgotten unclosed."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from networks import make_bundle

from kd_perception.errors import BundleError, EngineError, KdPerceptionError
from kd_perception.runtime.model import ModelSettings, check, load
from kd_perception.runtime.model_builder import ModelBuilder


class Product:
    """What the builders below make."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Workshop:
    """Builds when it is allowed to, and remembers what."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.finished = threading.Semaphore(0)
        self.products: list[Product] = []
        self.builder = ModelBuilder(self.build, self.finished.release)

    def build(self, settings: ModelSettings) -> Product:
        self.begun.release()
        assert self.allowed.acquire(timeout=5.0)
        if settings.model == 'bad':
            raise BundleError('no such bundle')
        if settings.model == 'worse':
            raise RuntimeError('the library stumbles')
        self.products.append(Product(settings))
        return self.products[-1]

    def await_result(self):
        assert self.finished.acquire(timeout=5.0)
        return self.builder.take()


def settings(name: str) -> ModelSettings:
    return ModelSettings(name, 'onnxruntime')


def test_a_wish_becomes_a_model_once():
    workshop = Workshop()
    workshop.builder.start(settings('a'))
    workshop.allowed.release()
    result = workshop.await_result()
    assert (result.settings, result.model, result.error) == (settings('a'), workshop.products[0], None)
    assert workshop.builder.take() is None


@pytest.mark.parametrize(
    ('name', 'kind', 'says'), [('bad', BundleError, 'no such bundle'), ('worse', EngineError, 'the library stumbles')]
)
def test_an_error_is_a_result_and_the_next_wish_is_built(name, kind, says):
    workshop = Workshop()
    workshop.allowed.release(2)
    workshop.builder.start(settings(name))
    result = workshop.await_result()
    assert result.model is None
    assert isinstance(result.error, kind)
    assert says in str(result.error)
    workshop.builder.start(settings('good'))
    assert workshop.await_result().model is workshop.products[0]


def test_the_newest_wish_counts_and_the_outdated_model_is_closed():
    workshop = Workshop()
    workshop.builder.start(settings('a'))
    assert workshop.begun.acquire(timeout=5.0)
    workshop.builder.start(settings('b'))
    workshop.builder.start(settings('c'))
    workshop.allowed.release(3)
    assert workshop.await_result().settings == settings('c')
    assert [product.settings.model for product in workshop.products] == ['a', 'c']
    assert [product.closed.wait(5.0) for product in workshop.products[:1]] == [True]
    assert not workshop.products[1].closed.is_set()


def test_cancelling_closes_what_is_being_built():
    workshop = Workshop()
    workshop.builder.start(settings('a'))
    assert workshop.begun.acquire(timeout=5.0)
    workshop.builder.cancel()
    workshop.allowed.release()
    for _ in range(500):
        if workshop.products:
            break
        threading.Event().wait(0.01)
    assert workshop.products[0].closed.wait(5.0)
    assert workshop.builder.take() is None


def test_a_real_model_is_loaded_and_warm(tmp_path):
    make_bundle(tmp_path / 'bright_cells')
    model = load(ModelSettings(str(tmp_path / 'bright_cells'), 'onnxruntime', threads=1), print)
    assert model.describe().startswith(
        'bright_cells fp32 (mAP not measured) on onnxruntime CPUExecutionProvider, 1 threads'
    )
    assert model.warm_ms > 0
    model.close()


def test_onnxruntimes_providers_do_not_concern_other_engines(tmp_path):
    pytest.importorskip('openvino')
    make_bundle(tmp_path / 'bright_cells')
    providers = ('CUDAExecutionProvider', 'CPUExecutionProvider')
    model = load(ModelSettings(str(tmp_path / 'bright_cells'), 'openvino', threads=1, providers=providers), print)
    assert model.info.engine == 'openvino'
    model.close()


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'model': 'nothing_like_it'}, "no model bundle 'nothing_like_it'"),
        ({'precision': 'int8'}, 'has no artifact onnxruntime/int8'),
        ({'engine': 'warp'}, "no engine 'warp'"),
        ({'tiles': '2by2'}, 'off, auto, or COLUMNSxROWS'),
        ({'tiles': '2x2', 'tile_overlap': 0.9}, 'tile overlap 0.9'),
    ],
)
def test_what_cannot_come_true_is_said_at_once(tmp_path, change, says):
    make_bundle(tmp_path / 'bright_cells')
    wish = {'model': str(tmp_path / 'bright_cells'), 'engine': 'onnxruntime', **change}
    with pytest.raises(KdPerceptionError, match=says):
        check(ModelSettings(**wish))


def test_a_grid_leaves_each_pass_its_share_of_the_budget():
    """The selection times single passes."""
    wish = ModelSettings('any', 'auto', budget_ms=200.0)
    budgets = [replace(wish, tiles=tiles).request(print).budget_ms for tiles in ('off', 'auto', '2x2', '2x1+whole')]
    assert budgets == pytest.approx([200, 200, 50, 200 / 3])
