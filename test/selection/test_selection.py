"""The user's explicit choice is obeyed or refused; `auto` takes the most accurate that is quick enough, and says why."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, make_bundle, metrics
from onnx import helper, numpy_helper

from kd_perception import engines
from kd_perception.bundles.bundle import write_bundle
from kd_perception.detection.thresholds import Thresholds
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import BundleError, EngineError
from kd_perception.selection.selection import Request, family, select
from kd_perception.selection.timing import Timing, kept_timings


@pytest.fixture(autouse=True)
def one_engine(monkeypatch):
    """The rule is the same for any number of engines, and each costs seconds to time."""
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': engines.ENGINES['onnxruntime']})


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Timings are kept in a folder of the test's own."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder


def measured(value: float | None, dataset: str = 'd', float_map: float | None = None) -> dict:
    return {} if value is None else {'metrics': metrics(value, float_map, dataset=dataset)}


def member(folder, name, artifacts, **changes):
    """A bundle of the family `cells`; `artifacts` are (precision, measured mAP), compared with that of fp32."""
    make_bundle(folder / name)
    float_map = dict(artifacts).get('fp32')
    entries = [
        artifact_entry(folder / name, 'bright_cells.onnx', p, **measured(v, float_map=float_map)) for p, v in artifacts
    ]
    # Every artifact is a file of its own, as it is in life.
    for number, entry in enumerate(entries):
        model = onnx.load(folder / name / 'bright_cells.onnx')
        model.doc_string = f'{name} {number}'
        onnx.save(model, folder / name / f'{entry["precision"]}.onnx')
        entry |= artifact_entry(folder / name, f'{entry["precision"]}.onnx', entry['precision'])
    document = {'name': name, 'family': 'cells', 'artifacts': entries, **changes}
    return write_bundle(folder / name, bundle_document(**document))


@pytest.fixture
def bundle(tmp_path):
    """INT8 listed first, 10 % worse than FP32; FP16 not measured."""
    return member(tmp_path, 'cells', [('int8', 0.45), ('fp32', 0.5), ('fp16', None)])


def clock(**milliseconds: float):
    """Stands in for the measurement, so that the rule itself is tested: `name_precision` → p95."""
    asked = []

    def measure(candidate):
        key = f'{candidate.bundle.name}_{candidate.precision}'
        asked.append(key)
        return Timing(0.9 * milliseconds[key], milliseconds[key], 60)

    measure.asked = asked
    return measure


def test_what_runs_has_the_operating_point_of_its_artifact(bundle):
    entries = [artifact_entry(bundle.folder, a.file, a.precision, **measured(a.measured_map)) for a in bundle.artifacts]
    entries[0]['thresholds'] = {'score': 0.3}
    bundle = write_bundle(bundle.folder, bundle_document(artifacts=entries))
    for precision, score in (('int8', 0.3), ('fp32', 0.5)):
        explicit = select(bundle, Request('onnxruntime', precision, max_map_drop=1.0))
        assert explicit.bundle.thresholds == Thresholds(score, 0.5)
    request = Request(max_map_drop=1.0, budget_ms=30.0, family=False)
    chosen = select(bundle, request, measure=clock(bright_cells_int8=10, bright_cells_fp32=50, bright_cells_fp16=60))
    assert (chosen.artifact.precision, chosen.bundle.thresholds.score) == ('int8', 0.3)


# The explicit choice


@pytest.mark.parametrize(('limit', 'chosen'), [(0.02, 'fp32'), (0.2, 'int8')])
def test_an_explicit_engine_takes_the_authors_first_that_passes_the_gate(bundle, limit, chosen):
    selection = select(bundle, Request('onnxruntime', max_map_drop=limit))
    assert (selection.artifact.precision, selection.engine, selection.options.precision) == (
        chosen,
        'onnxruntime',
        chosen,
    )
    assert 'as asked for' in selection.reason
    assert selection.table() == selection.reason


def test_an_explicit_precision_is_obeyed_or_refused_with_the_reason(bundle):
    assert select(bundle, Request('onnxruntime', 'fp16', 0.0)).artifact.precision == 'fp16'
    with pytest.raises(BundleError, match=r'cost 10\.0 % of its mAP50-95.*raise max_map_drop'):
        select(bundle, Request('onnxruntime', 'int8'))


def test_a_precision_that_there_is_not_lists_what_there_is(bundle):
    with pytest.raises(BundleError, match=r'no artifact onnxruntime/int4.*it has onnxruntime/int8'):
        select(bundle, Request('onnxruntime', 'int4'))


def test_an_engine_that_there_is_not_is_refused(bundle):
    with pytest.raises(EngineError, match='there is no engine'):
        select(bundle, Request('warp_drive'))


def test_an_explicit_choice_measures_nothing(bundle, cache):
    select(bundle, Request('onnxruntime'))
    assert not list(cache.rglob('*.engine'))


# The rule of `auto`


@pytest.fixture
def relatives(tmp_path):
    """A big bundle, a small one, and strangers on the same shelf."""
    big = member(tmp_path, 'big', [('fp32', 0.50), ('int8', 0.495)])
    member(tmp_path, 'small', [('fp32', 0.40), ('int8', 0.399)])
    member(tmp_path, 'stranger', [('fp32', 0.9)], family='other')
    member(tmp_path, 'classes', [('fp32', 0.9)], classes=['bright', 'red'])
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged' / 'bundle.yaml').write_text('family: cells')
    return big


TIMES = {'big_fp32': 60, 'big_int8': 30, 'small_fp32': 12, 'small_int8': 8}


@pytest.mark.parametrize(
    ('budget', 'chosen', 'timed', 'says'),
    [
        (100, 'big fp32', 1, 'most accurate'),
        (60, 'big fp32', 1, 'most accurate'),
        (40, 'big int8', 2, 'most accurate'),
        (20, 'small fp32', 3, 'most accurate'),
        (10, 'small int8', 4, 'most accurate'),
        (5, 'small int8', 4, 'none of'),
    ],
)
def test_the_most_accurate_that_fits_else_the_fastest(relatives, budget, chosen, timed, says):
    measure = clock(**TIMES)
    selection = select(relatives, Request(budget_ms=budget), measure=measure)
    assert f'{selection.bundle.name} {selection.artifact.precision}' == chosen
    assert selection.within_budget == (budget >= 8)
    assert says in selection.reason
    assert f'{budget} ms' in selection.reason
    assert len(set(measure.asked)) == timed, 'what is less accurate than one that fits need not be timed'


def test_all_are_timed_on_images_of_one_size(relatives):
    selection = select(relatives, Request(budget_ms=20), measure=clock(**TIMES))
    assert selection.image_size == (64, 64)
    wide = select(relatives, Request(budget_ms=20, image_size=(640, 480)), measure=clock(**TIMES))
    assert wide.image_size == (640, 480)


def test_the_family_is_what_says_so_and_has_the_same_classes(relatives):
    assert [bundle.name for bundle in family(relatives)] == ['big', 'small']
    chosen = select(relatives, Request(budget_ms=1, family=False), measure=clock(**TIMES))
    assert chosen.bundle.name == 'big', 'an evaluation of one bundle never runs another'


def test_the_gate_holds_for_auto_too(bundle):
    measure = clock(cells_fp32=50, cells_fp16=40, cells_int8=10)
    assert select(bundle, Request(budget_ms=20, max_map_drop=0.2), measure=measure).artifact.precision == 'int8'
    selection = select(bundle, Request(budget_ms=45), measure=measure)
    assert selection.artifact.precision == 'fp16', 'what nobody measured comes after what was measured, and fits here'
    (refused,) = [row for row in selection.rows if 'cost 10.0 %' in row.verdict]
    assert refused.candidate.precision == 'int8'


def test_a_precision_asked_for_restricts_auto(relatives):
    selection = select(relatives, Request(precision='int8', budget_ms=100), measure=clock(**TIMES))
    assert (selection.bundle.name, selection.artifact.precision) == ('big', 'int8')


def test_accuracy_measured_on_other_data_is_not_compared(tmp_path):
    named = member(tmp_path, 'named', [('fp32', 0.3)])
    entry = artifact_entry(tmp_path / 'named', 'fp32.onnx', **measured(0.9, 'easier'))
    make_bundle(tmp_path / 'easy')
    entry |= artifact_entry(tmp_path / 'easy', 'bright_cells.onnx')
    write_bundle(tmp_path / 'easy', bundle_document(name='easy', family='cells', artifacts=[entry]))
    selection = select(named, Request(budget_ms=100), measure=clock(named_fp32=5))
    assert selection.bundle.name == 'named'
    assert 'measured on easier, named on d: not comparable' in selection.table()


def test_a_candidate_that_fails_is_a_row(relatives):
    inner = clock(**TIMES)

    def measure(candidate):
        if candidate.bundle.name == 'big':
            raise EngineError('was killed by signal 11')
        return inner(candidate)

    selection = select(relatives, Request(budget_ms=100), measure=measure)
    assert selection.bundle.name == 'small'
    assert 'failed: was killed by signal 11' in selection.table()
    assert any('failed' in value for value in selection.as_dict().values())


def test_where_all_fail_the_reasons_are_told(relatives):
    def measure(candidate):
        raise EngineError('no memory')

    with pytest.raises(EngineError, match=r'big fp32 on onnxruntime: failed: no memory'):
        select(relatives, measure=measure)


def test_table_and_diagnostics_name_every_candidate(relatives):
    selection = select(relatives, Request(budget_ms=20), measure=clock(**TIMES))
    lines = selection.table().splitlines()
    assert lines[1].split() == ['model', 'engine', 'precision', 'mAP50-95', 'p50', 'ms', 'p95', 'ms']
    (chosen,) = [line for line in lines if line.startswith('→')]
    assert chosen.split()[1:7] == ['small', 'onnxruntime', 'fp32', '0.400', '10.8', '12.0']
    assert '40.0 ms over the budget' in selection.table()
    values = selection.as_dict()
    assert values['selection.within_budget'] == 'True'
    assert values['selection.small_fp32_on_onnxruntime'] == 'p95 12.0 ms, chosen: the most accurate that fits'


# With real measurements


def heavy(layers: int) -> onnx.ModelProto:
    """`bright_cells` that computes `layers` convolutions for nothing before it answers."""
    model = bright_cells()
    weights = np.zeros((64, 64, 3, 3), np.float32)
    first = np.zeros((64, 3, 3, 3), np.float32)
    graph = model.graph
    graph.initializer.extend([numpy_helper.from_array(weights, 'ballast'), numpy_helper.from_array(first, 'entry')])
    nodes = [helper.make_node('Conv', ['nchw', 'entry'], ['b0'], pads=[1, 1, 1, 1])]
    nodes += [helper.make_node('Conv', [f'b{n}', 'ballast'], [f'b{n + 1}'], pads=[1, 1, 1, 1]) for n in range(layers)]
    nodes += [
        helper.make_node('GlobalMaxPool', [f'b{layers}'], ['most']),
        helper.make_node('ReduceMax', ['most'], ['nothing'], keepdims=0),
    ]
    tail = [node for node in graph.node if node.output[0] == 'scores']
    tail[0].input[0] = 'weighed'
    before = [node for node in graph.node if node.output[0] not in ('scores', 'boxes')]
    after = [node for node in graph.node if node.output[0] in ('scores', 'boxes')]
    del graph.node[:]
    graph.node.extend([*before, *nodes, helper.make_node('Add', ['bright', 'nothing'], ['weighed']), *after])
    onnx.checker.check_model(model)
    return model


def lone(folder, name: str, model: onnx.ModelProto, value: float):
    """A bundle of one measured FP32 network."""
    (folder / name).mkdir()
    onnx.save(model, folder / name / 'net.onnx')
    entry = artifact_entry(folder / name, 'net.onnx', **measured(value))
    return write_bundle(folder / name, bundle_document(name=name, family='cells', artifacts=[entry]))


@pytest.fixture
def light(tmp_path):
    """A bundle that is timed in no time."""
    return lone(tmp_path, 'light', bright_cells(), 0.4)


def test_two_budgets_two_networks_and_a_cache(tmp_path, light):
    pair = lone(tmp_path, 'heavy', heavy(40), 0.5)
    said: list[str] = []
    rich = select(pair, Request(budget_ms=60_000.0), said.append)
    assert (rich.bundle.name, rich.within_budget) == ('heavy', True)
    assert said
    slow = min(row.timing.p50_ms for row in rich.rows if row.timing)

    poor = select(pair, Request(budget_ms=slow / 2), said.append)
    assert (poor.bundle.name, poor.within_budget) == ('light', True)
    assert poor.load().info.engine == poor.engine

    said.clear()
    again = select(pair, Request(budget_ms=slow / 2), said.append)
    assert again == poor
    assert said == [], 'nothing is measured twice'


def test_a_spoilt_cache_is_measured_again(light, cache):
    select(light)
    (kept,) = cache.rglob('timing-*.engine')
    kept.write_bytes(kept.read_bytes()[:-5])
    said: list[str] = []
    assert select(light, report=said.append).rows[0].timing.p50_ms > 0
    assert 'timing light fp32 on onnxruntime …' in said


def test_a_cache_that_cannot_be_written_is_done_without(light, cache, monkeypatch):
    (cache / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache / 'file'))
    said: list[str] = []
    assert select(light, report=said.append).bundle == light
    assert any('built again at the next start' in line for line in said)


def test_another_number_of_threads_is_another_measurement(light):
    said: list[str] = []
    for threads in (1, 2, 1):
        select(light, Request(options=EngineOptions(threads=threads)), said.append)
    assert said.count('timing light fp32 on onnxruntime …') == 2


def test_measuring_again_is_asked_for(light):
    said: list[str] = []
    for again in (False, False, True):
        select(light, Request(measure_again=again), said.append)
    assert said.count('timing light fp32 on onnxruntime …') == 2


@pytest.mark.parametrize(
    ('then', 'now', 'repeated'),
    [
        (0.1, 0.1, False),
        (0.1, 1000.0, False),
        (1000.0, 1000.0, False),
        (1000.0, 900.0, False),
        (1000.0, 400.0, True),
        (1000.0, 0.1, True),
    ],
)
def test_what_was_timed_on_a_busy_machine_is_timed_again_when_it_is_quieter(light, monkeypatch, then, now, repeated):
    said: list[str] = []
    monkeypatch.setattr(os, 'getloadavg', lambda: (then, then, then))
    first = select(light, report=said.append)
    (timing,) = [row.timing for row in first.rows]
    assert timing.load == then
    assert kept_timings() == [timing]
    assert any('the machine is busy' in line for line in said) == (then > 100)
    assert ('timed on a busy machine' in first.reason) == (then > 100)

    said.clear()
    monkeypatch.setattr(os, 'getloadavg', lambda: (now, now, now))
    second = select(light, report=said.append)
    assert any('is timed again, for the load is' in line for line in said) == repeated
    assert second.rows[0].timing.load == (now if repeated else then)
    assert ('timed on a busy machine' in second.reason) == (second.rows[0].timing.load > 100)


def test_a_timing_kept_before_loads_were_noted_is_believed():
    assert not Timing(1.0, 2.0, 60).is_worth_repeating(0.0)


def test_what_is_not_considered_is_one_line_a_reason(bundle, monkeypatch):
    kind = engines.ENGINES['onnxruntime']
    absent = engines.EngineKind('nowhere', 'no_such_library', (), 'pip install it', kind.runs)
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': kind, 'absent': absent})
    selection = select(bundle, Request(budget_ms=100), measure=clock(cells_fp32=50, cells_fp16=40))
    lines = [line for line in selection.table().splitlines() if line.startswith('not considered')]
    assert len(lines) == 2
    assert any('cells int8, cells fp32, cells fp16: the engine absent needs' in line for line in lines)
    assert any('cells int8: compression cost 10.0 %' in line for line in lines)
    assert len(selection.as_dict()) > len(lines), 'diagnostics name each'
