"""Every way to run a bundle is a row, also the one that fails; JSON, table and picture tell the same."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import cv2
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, image_with_cells
from onnx import numpy_helper

from kd_perception import engines
from kd_perception.benchmark.configurations import Wanted, configurations, default_threads
from kd_perception.benchmark.measure import Effort, measure
from kd_perception.benchmark.parity import Parity
from kd_perception.benchmark.picture import picture
from kd_perception.benchmark.report import as_json, markdown
from kd_perception.bundles.bundle import write_bundle
from kd_perception.cli.main import main
from kd_perception.errors import EngineError

QUICK = Effort(rounds=2, frames=12, seconds=0.2)


@pytest.fixture
def bundle(tmp_path):
    """FP32, and an `int8` whose scores are 10 % lower; a third artifact is altered."""
    folder = tmp_path / 'cells'
    folder.mkdir()
    model = bright_cells()
    onnx.save(model, folder / 'fp32.onnx')
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == 'weights']
    weights.CopyFrom(numpy_helper.from_array(0.9 * numpy_helper.to_array(weights), 'weights'))
    onnx.save(model, folder / 'int8.onnx')
    model.doc_string = 'another file'
    onnx.save(model, folder / 'fp16.onnx')
    metrics = {'dataset': 'd', 'map50': 0.9, 'map': 0.5}
    entries = [artifact_entry(folder, f'{p}.onnx', p, metrics=dict(metrics)) for p in ('fp32', 'int8', 'fp16')]
    made = write_bundle(folder, bundle_document(name='cells', artifacts=entries))
    (folder / 'fp16.onnx').write_bytes(b'altered')
    return made


@pytest.fixture
def one_engine(monkeypatch):
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': engines.ENGINES['onnxruntime']})


@pytest.mark.parametrize(
    ('cores', 'threads'), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_threads_that_are_tried(cores, threads):
    assert default_threads(cores) == threads


def test_all_that_can_run_and_why_the_rest_cannot(bundle, monkeypatch):
    kind = engines.ENGINES['onnxruntime']
    absent = engines.EngineKind('nowhere', 'no_such_library', (), 'pip install it', {'fp32': ('fp32',)})
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': kind, 'absent': absent})
    found, reasons = configurations([bundle], Wanted(threads=(1, 2), precisions=('fp32', 'int8')))
    assert [str(c) for c in found] == [
        'cells fp32 on onnxruntime, 1 thread',
        'cells fp32 on onnxruntime, 2 threads',
        'cells int8 on onnxruntime, 1 thread',
        'cells int8 on onnxruntime, 2 threads',
    ]
    assert list(reasons) == ['absent']
    assert 'pip install it' in reasons['absent']
    with pytest.raises(EngineError, match='there is no engine'):
        configurations([bundle], Wanted(engines=('warp_drive',)))


def test_rounds_interleave_and_a_fault_is_a_row_that_is_not_tried_again(bundle, one_engine):
    found, _ = configurations([bundle], Wanted(threads=(1,)))
    order = []
    frames = [image_with_cells(3), image_with_cells(0, 5)]
    rows = measure(found, frames, QUICK, lambda c, number: order.append((number, c.precision)))
    assert order == [(0, 'fp32'), (0, 'int8'), (0, 'fp16'), (1, 'fp32'), (1, 'int8')]
    fp32, int8, fp16 = rows
    assert 'truncated or altered' in fp16.fault
    assert fp16.figures() == {}
    figures = int8.figures()
    assert figures['frames'] == 24
    assert len(figures['round_p50_ms']) == 2
    assert 0 < figures['p50_ms'] <= figures['p95_ms'] <= figures['p99_ms']
    assert figures['memory_mb'] > 10
    assert fp32.parity == Parity(reference=3, missing=0, extra=0, worst_score=0.0, worst_iou=1.0)
    assert int8.parity.worst_score == pytest.approx(0.1, abs=1e-4)


def test_json_table_and_picture_from_the_same_document(bundle, one_engine):
    found, _ = configurations([bundle], Wanted(threads=(1,)))
    rows = measure(found, [image_with_cells(3)], QUICK)
    document = json.loads(
        json.dumps(as_json(rows, {'ncnn': 'ncnn needs <itself>'}, {'count': 1, 'source': 's'}, QUICK))
    )
    table = markdown(document)
    assert [line.split(' | ')[2] for line in table.splitlines() if line.startswith('| cells')].count('int8') == 1
    assert '1 of 1' in table
    assert 'cells fp16 on onnxruntime: ' in table
    assert 'ncnn needs <itself>' in table
    drawing = ElementTree.fromstring(picture(document))
    words = [element.text for element in drawing.iter() if element.tag.endswith('text')]
    assert 'cells fp32, onnxruntime, 1 thread' in words
    assert 'could not run: cells fp16, onnxruntime' in words
    assert len([element for element in drawing.iter() if element.tag.endswith('rect')]) == 1 + 2


def test_the_command_leaves_three_files(bundle, one_engine, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'photo.png'), image_with_cells(3, width=320, height=320))
    arguments = [
        'benchmark',
        str(bundle.folder),
        '--threads',
        '1',
        '--rounds',
        '1',
        '--frames',
        '10',
        '--seconds',
        '0.1',
    ]
    assert main([*arguments, '--images', str(tmp_path / 'photo.png'), '--out', str(tmp_path / 'out')]) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'benchmark.json',
        'benchmark.md',
        'benchmark.svg',
    ]
    captured = capsys.readouterr()
    assert '1/3 round 1: cells int8 on onnxruntime, 1 thread' in captured.err
    assert '| cells | onnxruntime | fp32 | 1 |' in captured.out
    assert json.loads((tmp_path / 'out' / 'benchmark.json').read_text())['images']['size'] == [320, 320]


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--precisions', 'int4'], 'nothing to measure'),
        (['--engines', 'warp_drive'], 'there is no engine'),
        (['--images', 'nowhere.png'], 'nowhere.png: cannot be read: No such file'),
    ],
)
def test_what_cannot_be_measured_is_one_line(bundle, capsys, arguments, says):
    assert main(['benchmark', str(bundle.folder), *arguments]) == 1
    assert says in capsys.readouterr().err


def test_without_an_fp32_artifact_there_is_no_parity(bundle, one_engine):
    found, _ = configurations([bundle], Wanted(threads=(1,), precisions=('int8',)))
    (row,) = measure(found, [image_with_cells(3)], QUICK)
    assert row.parity is None
