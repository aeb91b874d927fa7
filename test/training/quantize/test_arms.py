"""The arms of an INT8 comparison on a tiny bundle with two images."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from kd_perception.bundles.bundle import load_bundle, write_bundle  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.data.dataset import LabeledImage, ground_truth, write_split  # noqa: E402
from training.errors import QuantizationError  # noqa: E402
from training.export import parity  # noqa: E402
from training.measure import Behavior  # noqa: E402
from training.quantize import arms, arms_command  # noqa: E402
from training.quantize.qdq import QuantizeSettings  # noqa: E402


@pytest.fixture(scope='module')
def bundle(tiny, tmp_path_factory):
    """The tiny network as a bundle."""
    folder = tmp_path_factory.mktemp('bundle')
    file = folder / 'tiny_fp32.onnx'
    file.write_bytes(tiny.file.read_bytes())
    document = {
        'schema_version': 1,
        'name': 'tiny',
        'description': 'a tiny random network',
        'license': 'none',
        'classes': ['car', 'truck', 'bus'],
        'input': {
            'width': 96,
            'height': 64,
            'color': 'bgr',
            'dtype': 'uint8',
            'layout': 'nhwc',
            'resize': 'letterbox',
        },
        'output': {'layout': 'boxes_scores'},
        'thresholds': {'score': 0.25, 'iou': 0.6},
        'artifacts': [_artifact(file)],
    }
    write_bundle(folder, document)
    return folder


def _artifact(file):
    return {
        'engine': 'onnxruntime',
        'precision': 'fp32',
        'file': file.name,
        'sha256': hashlib.sha256(file.read_bytes()).hexdigest(),
    }


@pytest.fixture(scope='module')
def dataset(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('dataset')
    objects = ground_truth([[10, 10, 40, 40]], [0])
    items = [LabeledImage(f'image{k}', image, objects) for k, image in enumerate(tiny.images[:2])]
    for split in ('train', 'val'):
        write_split(folder, split, ['car', 'truck', 'bus'], items)
    return folder


def test_every_arm_is_measured_against_the_float_network(bundle, dataset, tmp_path, capsys, monkeypatch):
    chosen = ('min-max, per channel, head in float', 'symmetric S8S8 for TensorRT')
    monkeypatch.setattr(arms, 'ARMS', {name: arms.ARMS[name] for name in chosen})
    command = ['arms', str(bundle), str(dataset), '--results', str(tmp_path), '--images', '1', '--rounds', '1']
    assert main([*command, '--leave', '1', '--threads', '1']) == 0
    results = json.loads((tmp_path / 'arms.json').read_text())
    assert [result['arm'] for result in results] == ['FP32', *chosen, 'min-max, 1 in float']
    assert all(result['ms'] > 0 and result['false_alarms_per_image'] > 0 for result in results)
    plain, with_layer = results[1]['file_bytes'], results[3]['file_bytes']
    assert plain < with_layer < results[0]['file_bytes']
    printed = capsys.readouterr().out
    assert printed.count('| FP32 |') == 2
    assert 'car mAP50-95' in printed


def test_the_sensitivity_command_leaves_table_choice_and_accuracy(bundle, dataset, tmp_path, capsys, monkeypatch):
    from training.quantize import sensitivity

    few = sensitivity.layers
    monkeypatch.setattr(sensitivity, 'layers', lambda graph, settings: few(graph, settings)[:2])
    command = ['sensitivity', str(bundle), str(dataset), '--results', str(tmp_path), '--images', '1', '--threads', '1']
    assert main([*command, '--max-bytes', '10000000', '--measure']) == 0
    printed = capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} >= {'sensitivity.csv', 'sensitivity.svg', 'mixed.json'}
    assert [line.split('|')[1].strip() for line in printed.splitlines() if ' MB | ' in line and '%' in line] == [
        'float',
        'INT8',
        'mixed',
    ]


def test_the_quantize_command_gives_a_bundle_its_int8_artifact(bundle, dataset, tmp_path, monkeypatch):
    folder = tmp_path / 'tiny'
    shutil.copytree(bundle, folder)
    command = ['quantize', str(folder), str(dataset), '--images', '1', '--judged', '1', '--threads', '1']
    command += ['--work', str(tmp_path / 'work')]
    assert main([*command, '--method', 'percentile']) == 0
    written = load_bundle(folder)
    assert sorted(artifact.precision for artifact in written.artifacts) == ['fp32', 'int8']
    assert all(artifact.measured_map is not None for artifact in written.artifacts)
    record = written.provenance['quantize']['onnxruntime']
    assert (record['settings']['method'], record['calibration_images']) == ('percentile', 1)
    first = written.read(written.artifact('onnxruntime', 'int8'))
    assert main([*command, '--method', 'minmax']) == 0
    again = load_bundle(folder)
    assert sorted(artifact.precision for artifact in again.artifacts) == ['fp32', 'int8']
    assert again.read(again.artifact('onnxruntime', 'int8')) != first


def test_a_network_that_became_another_detector_is_not_written(bundle, dataset, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'tiny'
    shutil.copytree(bundle, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(parity, 'QUANTIZED', parity.ParityLimits(asked_score=0.0, overlap=1.0, score=0.0))
    command = ['quantize', str(folder), str(dataset), '--images', '1', '--judged', '1', '--method', 'minmax']
    assert main([*command, '--most-layers', '1', '--threads', '1', '--work', str(tmp_path / 'work')]) == 1
    assert 'is not the detector that it was made from' in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_layer_that_does_not_exist_is_refused_with_the_nearest_name(bundle):
    source = bundle / 'tiny_fp32.onnx'
    with pytest.raises(QuantizationError, match=r"no layer '2\.cv9': did you mean '2\.cv"):
        arms_command.leaving(source, '2.cv9')
    assert isinstance(arms_command.leaving(source, '1,3'), QuantizeSettings)


def test_a_data_set_without_images_is_one_line(bundle, tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    assert main(['arms', str(bundle), str(tmp_path), '--threads', '1']) == 1
    assert 'holds no image' in capsys.readouterr().err


def test_behavior_at_a_threshold_and_at_a_fixed_recall():
    judged = SimpleNamespace(
        scores=np.array([0.9, 0.8, 0.7, 0.2]),
        right=np.array([True, False, True, True]),
        objects=np.array([3]),
        images=2,
    )
    behavior = Behavior.of(judged, 0.5)
    assert behavior.false_alarms_per_image == 0.5
    assert behavior.precision_at_recall == 0.75
    assert behavior.to_json()['precision_at_recall_0.9'] == 0.75
    assert 'false alarms per image 0.50' in str(behavior)
