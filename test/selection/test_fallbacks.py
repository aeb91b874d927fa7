"""What can be fallen back to: quicker every time, and not more than the accuracy that has to be given for it."""

from __future__ import annotations

import pytest
from networks import artifact_entry, bundle_document, make_bundle, metrics

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle, write_bundle
from kd_perception.errors import EngineError
from kd_perception.selection.fallbacks import find_fallbacks
from kd_perception.selection.selection import Request, select
from kd_perception.selection.timing import Timing

TIMES = {'fp32': 40.0, 'int8': 20.0, 'fp16': 19.0, 'w4': 5.0}


def timed(candidate) -> Timing:
    milliseconds = TIMES[candidate.artifact.precision]
    return Timing(0.9 * milliseconds, milliseconds, 60)


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Bundle:
    """Four artifacts, each less accurate than the one before."""
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': engines.ENGINES['onnxruntime']})
    make_bundle(tmp_path / 'cells')
    entries = []
    for precision, value in (('fp32', 0.50), ('int8', 0.48), ('fp16', 0.47), ('w4', 0.40)):
        file = tmp_path / 'cells' / f'{precision}.onnx'
        file.write_bytes((tmp_path / 'cells' / 'bright_cells.onnx').read_bytes())
        entry = artifact_entry(tmp_path / 'cells', file.name, precision, metrics=metrics(value, 0.50))
        entries.append({**entry, 'thresholds': {'score': value}})
    return write_bundle(tmp_path / 'cells', bundle_document(artifacts=entries))


def fallbacks(bundle: Bundle, measure=timed, **request) -> list[str]:
    selection = select(bundle, Request(family=False, max_map_drop=1.0, **request), measure=timed)
    return [one.artifact.precision for one in find_fallbacks(selection, measure=measure)]


def test_every_fallback_is_worth_its_loss(bundle):
    assert fallbacks(bundle, budget_ms=50.0) == ['int8', 'w4']  # fp16 is hardly quicker than int8


@pytest.mark.parametrize(('budget', 'below'), [(25.0, ['w4']), (10.0, []), (1.0, [])])
def test_it_begins_below_what_was_chosen(bundle, budget, below):
    assert fallbacks(bundle, budget_ms=budget) == below


def test_what_the_accuracy_gate_forbids_is_no_fallback(bundle):
    selection = select(bundle, Request(family=False, max_map_drop=0.1, budget_ms=50.0), measure=timed)
    assert [one.artifact.precision for one in find_fallbacks(selection, measure=timed)] == ['int8']


def test_what_fails_to_run_is_no_fallback(bundle):
    def measure(candidate) -> Timing:
        if candidate.artifact.precision == 'int8':
            raise EngineError('no such instruction')
        return timed(candidate)

    assert fallbacks(bundle, measure, budget_ms=50.0) == ['fp16', 'w4']


def test_an_explicit_choice_has_no_find_fallbacks(bundle):
    assert find_fallbacks(select(bundle, Request('onnxruntime')), measure=timed) == ()


def test_every_fallback_has_the_operating_point_of_its_artifact(bundle):
    selection = select(bundle, Request(family=False, max_map_drop=1.0), measure=timed)
    found = find_fallbacks(selection, measure=timed)
    assert [one.bundle.thresholds.score for one in found] == [one.artifact.measured_map for one in found]
    assert selection.bundle.thresholds.score == 0.50
