"""Engines, bundles, and the report itself."""

from __future__ import annotations

import json

import pytest
from networks import artifact_entry, bundle_document, make_bundle, metrics

from kd_perception.bundles.bundle import write_bundle
from kd_perception.cli.main import main
from kd_perception.doctor import bundles, engine_setup
from kd_perception.doctor.findings import Finding, Level, as_json, render, worst
from kd_perception.engines import Availability
from kd_perception.selection.timing import Timing

HERE, MISSING = Availability('1.2', ''), Availability('', 'pip install it')


def engines_found(kind='pc', fault='', **states):
    found = engine_setup.check(kind, states, lambda module: fault)
    return {finding.subject: finding for finding in found}


@pytest.mark.parametrize(
    ('kind', 'states', 'fault', 'subject', 'level', 'says'),
    [
        ('pc', {'onnxruntime': HERE}, '', 'onnxruntime', Level.GREEN, '1.2'),
        ('pc', {'onnxruntime': HERE, 'ncnn': MISSING}, '', 'ncnn', Level.GREEN, 'not needed here'),
        ('raspberry_pi', {'onnxruntime': HERE, 'ncnn': MISSING}, '', 'ncnn', Level.YELLOW, 'made for this machine'),
        ('pc', {'onnxruntime': HERE}, 'signal 4', 'onnxruntime', Level.RED, 'does not load: signal 4'),
        ('pc', {'onnxruntime': MISSING}, '', 'engines', Level.RED, 'none'),
    ],
)
def test_engines(kind, states, fault, subject, level, says):
    finding = engines_found(kind, fault, **states)[subject]
    assert (finding.level, says in finding.found) == (level, True), finding


@pytest.mark.parametrize(
    ('loads', 'level', 'says'),
    [
        ([], None, ''),
        ([0.5, 1.0], Level.GREEN, 'keeps 2'),
        ([0.5, 9.0], Level.YELLOW, '1 from a busy machine (load up to 9.0'),
    ],
)
def test_timings_of_a_busy_machine(loads, level, says):
    findings = engine_setup._timings([Timing(1.0, 2.0, 60, load, 2) for load in loads])
    assert [finding.level for finding in findings] == ([] if level is None else [level])
    assert all(says in finding.found for finding in findings)


@pytest.mark.parametrize(
    ('code', 'says'),
    [
        ('', ''),
        ('raise ImportError("numpy 1 is needed")', 'numpy 1'),
        ('import os; os.kill(os.getpid(), 4)', 'signal 4'),
    ],
)
def test_a_library_is_tried_in_a_process_of_its_own(tmp_path, monkeypatch, code, says):
    (tmp_path / 'some_library.py').write_text(code)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    fault = engine_setup.import_fault('some_library')
    assert says in fault
    assert bool(fault) == bool(code)


def test_bundles_are_hashed(tmp_path):
    make_bundle(tmp_path / 'good')
    entry = artifact_entry(tmp_path / 'good', 'bright_cells.onnx', metrics={'dataset': 'd', 'map50': 0.9, 'map': 0.5})
    write_bundle(tmp_path / 'good', bundle_document(name='good', artifacts=[entry]))
    make_bundle(tmp_path / 'unmeasured', name='unmeasured')
    make_bundle(tmp_path / 'altered', name='altered')
    (tmp_path / 'altered' / 'bright_cells.onnx').write_bytes(b'')
    (tmp_path / 'garbled').mkdir()
    (tmp_path / 'garbled' / 'bundle.yaml').write_text('[')
    names = ('good', 'unmeasured', 'altered', 'garbled')
    good, unmeasured, altered, garbled = bundles.check(tmp_path / name for name in names)
    assert (good.level, 'hash verified' in good.found, 'mAP50-95 0.500 on d' in good.found) == (Level.GREEN, True, True)
    assert (unmeasured.level, 'cannot judge' in unmeasured.advice) == (Level.YELLOW, True)
    assert (altered.level, 'truncated or altered' in altered.found) == (Level.RED, True)
    assert (garbled.subject, garbled.level) == ('garbled', Level.RED)
    assert bundles.check([])[0].level == Level.YELLOW


@pytest.mark.parametrize(
    ('precision', 'stated', 'level', 'says'),
    [
        ('int8', metrics(0.45, 0.50), Level.GREEN, '-0.050 against its float network, -0.051 to -0.049'),
        ('int8', metrics(0.45), Level.YELLOW, 'mAP50-95 0.450'),
        ('fp32', metrics(0.50), Level.GREEN, 'mAP50-95 0.500'),
    ],
)
def test_what_compression_cost_is_told(tmp_path, precision, stated, level, says):
    make_bundle(tmp_path)
    entry = artifact_entry(tmp_path, 'bright_cells.onnx', precision, metrics=stated)
    write_bundle(tmp_path, bundle_document(artifacts=[entry]))
    (finding,) = bundles.check([tmp_path])
    assert (finding.level, says in finding.found) == (level, True), finding


SECTIONS = {
    'Machine': [Finding('board', 'a Pi'), Finding('temperature', '80 °C', Level.YELLOW, 'cool it')],
    'ROS 2': [Finding('shared memory', 'too small', Level.RED, 'export X=y')],
}


def test_the_report_reads_well_and_is_colored_on_request_only():
    text = render(SECTIONS, color=False)
    assert text.splitlines() == [
        'Machine',
        '  ✔ board          a Pi',
        '  ! temperature    80 °C',
        '                   → cool it',
        '',
        'ROS 2',
        '  ✘ shared memory  too small',
        '                   → export X=y',
        '',
        '1 red (repair these), 1 yellow (look at these)',
    ]
    assert '\033[31m✘\033[0m' in render(SECTIONS, color=True)
    assert render({'Machine': SECTIONS['Machine'][:1]}, color=False).endswith('all is well')


def test_json_holds_the_same():
    document = json.loads(json.dumps(as_json(SECTIONS)))
    assert document['level'] == 'red'
    assert document['sections']['Machine'][1] == {
        'subject': 'temperature',
        'found': '80 °C',
        'level': 'yellow',
        'advice': 'cool it',
    }
    assert worst({}) == Level.GREEN


@pytest.mark.parametrize(('level', 'advice'), [(Level.RED, ''), (Level.GREEN, 'do it')])
def test_only_what_is_not_green_has_an_advice_and_always(level, advice):
    with pytest.raises(ValueError, match='needs an advice'):
        Finding('subject', 'found', level, advice)


def test_the_command_on_this_machine(tmp_path, capsys):
    make_bundle(tmp_path / 'cells')
    status = main(['doctor', '--json', '--model', str(tmp_path / 'cells')])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    document = json.loads(printed.out)
    assert list(document['sections']) == ['Machine', 'ROS 2', 'Engines', 'Bundles']
    assert status == (1 if document['level'] == 'red' else 0)

    (tmp_path / 'cells' / 'bright_cells.onnx').write_bytes(b'')
    assert main(['doctor', '--model', str(tmp_path / 'cells')]) == 1
    text = capsys.readouterr().out
    assert '✘ bright_cells fp32' in text
    assert '\033' not in text


def test_the_self_test_of_an_engine(tmp_path, capsys):
    make_bundle(tmp_path / 'cells')
    assert main(['doctor', '--self-test', 'onnxruntime', '--model', str(tmp_path / 'cells'), '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document['engine'], document['passed']) == ('onnxruntime', True)
    assert main(['doctor', '--self-test', 'warp_drive', '--model', str(tmp_path / 'cells')]) == 1
    assert 'there is no engine' in capsys.readouterr().err
