"""The accuracy gate: a precision that lost too much is not run silently."""

from __future__ import annotations

import pytest
from networks import artifact_entry, bundle_document, make_bundle

from kd_perception.core.bundle import write_bundle
from kd_perception.core.errors import BundleError
from kd_perception.engines.selection import choose_artifact


@pytest.fixture
def bundle(tmp_path):
    """INT8 listed first, 10 % worse than FP32; FP16 not measured."""
    make_bundle(tmp_path)
    measured = {'int8': 0.45, 'fp32': 0.5, 'fp16': None}
    entries = []
    for precision, value in measured.items():
        more = {} if value is None else {'metrics': {'dataset': 'd', 'map50': 0.9, 'map': value}}
        entries.append(artifact_entry(tmp_path, 'bright_cells.onnx', precision, **more))
    return write_bundle(tmp_path, bundle_document(artifacts=entries))


@pytest.mark.parametrize(('limit', 'chosen'), [(0.02, 'fp32'), (0.2, 'int8')])
def test_auto_takes_the_first_that_passes(bundle, limit, chosen):
    assert choose_artifact(bundle, 'onnxruntime', 'auto', limit).precision == chosen


def test_an_explicit_precision_is_obeyed_or_refused_with_the_reason(bundle):
    assert choose_artifact(bundle, 'onnxruntime', 'fp16', 0.0).precision == 'fp16'
    with pytest.raises(BundleError, match=r'10\.0 % below.*raise max_map_drop'):
        choose_artifact(bundle, 'onnxruntime', 'int8', 0.02)


def test_no_artifact_for_the_engine_lists_what_there_is(bundle):
    with pytest.raises(BundleError, match='it has onnxruntime/int8'):
        choose_artifact(bundle, 'tensorrt')
