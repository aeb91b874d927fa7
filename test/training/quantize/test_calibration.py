"""Ranges from images: extremes, percentiles and least loss of information, against distributions whose answer is known."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from training.errors import QuantizationError
from training.quantize import calibration
from training.quantize.calibration import (
    calibrate,
    calibration_hash,
    entropy_limit,
    histogram,
    percentile_limit,
)

SIZE = 64


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture
def doubled_and_shifted():
    """uint8 image → twice the pixel, and ten less than the pixel."""
    graph = helper.make_graph(
        [
            helper.make_node('Cast', ['image'], ['pixel'], to=TensorProto.FLOAT),
            helper.make_node('Mul', ['pixel', 'two'], ['doubled']),
            helper.make_node('Sub', ['pixel', 'ten'], ['shifted']),
            helper.make_node('Add', ['doubled', 'shifted'], ['sum']),
        ],
        'numbers',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info('sum', TensorProto.FLOAT, [1, SIZE, SIZE, 3])],
        [
            helper.make_tensor('two', TensorProto.FLOAT, [], [2.0]),
            helper.make_tensor('ten', TensorProto.FLOAT, [], [10.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def test_minmax_takes_the_extremes_of_all_images_and_always_holds_zero(doubled_and_shifted, images):
    images[1][5, 5, 0], images[2][6, 6, 1] = 250, 251
    ranges = calibrate(doubled_and_shifted, ['doubled', 'shifted'], images)
    assert ranges == {'doubled': (0.0, 502.0), 'shifted': (-10.0, 241.0)}


def test_percentile_cuts_an_outlier_that_minmax_keeps(doubled_and_shifted, images):
    for image in images:
        image[...] = np.clip(image, 0, 20)
    images[0][0, 0, 0] = 255
    assert calibrate(doubled_and_shifted, ['doubled'], images, 'minmax')['doubled'] == (0, 510)
    low, high = calibrate(doubled_and_shifted, ['doubled'], images, 'percentile', percentile=99.9)['doubled']
    assert low == 0
    assert 40 <= high < 41


@pytest.mark.parametrize('symmetric', [True, False])
def test_entropy_stays_within_the_extremes(doubled_and_shifted, images, symmetric):
    low, high = calibrate(doubled_and_shifted, ['shifted'], images, 'entropy', symmetric=symmetric)['shifted']
    assert -10 <= low <= 0 < high <= 189


def test_groups_of_tensors_give_the_same_ranges(doubled_and_shifted, images, monkeypatch):
    names = ['doubled', 'shifted', 'sum']
    whole = calibrate(doubled_and_shifted, names, images, 'percentile')
    monkeypatch.setattr(calibration, 'MOST_BYTES', 1)
    assert len(list(calibration._groups(doubled_and_shifted, names))) == 3
    assert calibrate(doubled_and_shifted, names, images, 'percentile') == whole


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1000))
@settings(max_examples=25, deadline=None)
def test_a_histogram_counts_every_value_once(seed, reach):
    values = np.random.default_rng(seed).uniform(-reach, reach, 1000).astype(np.float32)
    counts = histogram(values, float(np.abs(values).max()))
    assert counts.sum() == 1000
    assert counts[: len(counts) // 2].sum() == pytest.approx((values < 0).sum(), abs=2)


def test_a_tensor_that_is_zero_everywhere_is_counted_at_zero():
    counts = histogram(np.zeros(7, np.float32), 0.0)
    assert counts[len(counts) // 2] == 7
    assert percentile_limit(counts, 0.0, 99.9) == 0


@pytest.mark.parametrize(('percentile', 'limit'), [(100, 1.0), (90, 0.9), (50, 0.5)])
def test_percentile_of_a_uniform_distribution(percentile, limit):
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    assert percentile_limit(histogram(values, 1.0), 1.0, percentile) == pytest.approx(limit, abs=1e-3)


@pytest.mark.parametrize('symmetric', [True, False])
def test_entropy_clips_a_long_thin_tail(symmetric):
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    values[:5] = 60
    limit = entropy_limit(histogram(values, 60.0), 60.0, float(values.min()), 60.0, symmetric=symmetric)
    assert 3 < limit < 30


def test_entropy_keeps_a_uniform_distribution_whole():
    values = np.random.default_rng(0).uniform(-1, 1, 400_000).astype(np.float32)
    assert entropy_limit(histogram(values, 1.0), 1.0, -1.0, 1.0, symmetric=True) > 0.95


@pytest.mark.parametrize(
    ('method', 'count', 'message'), [('guess', 1, "unknown calibration method 'guess'"), ('minmax', 0, 'needs images')]
)
def test_wrong_questions_are_refused(doubled_and_shifted, images, method, count, message):
    with pytest.raises(QuantizationError, match=message):
        calibrate(doubled_and_shifted, ['doubled'], images[:count], method)


def test_the_calibration_hash_knows_pixels_and_order(images):
    assert calibration_hash(images) == calibration_hash([image.copy() for image in images])
    assert calibration_hash(images) != calibration_hash(images[::-1])
