"""What can be said of model settings at once, and the long way from them to a warm detector."""

from __future__ import annotations

from dataclasses import replace

import pytest
from networks import make_bundle

from kd_perception.errors import KdPerceptionError
from kd_perception.runtime.model import ModelSettings, check, load


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
def test_what_cannot_be_met_is_said_at_once(tmp_path, change, says):
    make_bundle(tmp_path / 'bright_cells')
    asked = {'model': str(tmp_path / 'bright_cells'), 'engine': 'onnxruntime', **change}
    with pytest.raises(KdPerceptionError, match=says):
        check(ModelSettings(**asked))


def test_a_grid_leaves_each_pass_its_share_of_the_budget():
    """The selection times single passes."""
    asked = ModelSettings('any', 'auto', budget_ms=200.0)
    budgets = [replace(asked, tiles=tiles).request(print).budget_ms for tiles in ('off', 'auto', '2x2', '2x1+whole')]
    assert budgets == pytest.approx([200, 200, 50, 200 / 3])
