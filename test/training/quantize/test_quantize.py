"""`python -m training quantize` whole, on small networks as users bring them: any input, labels or none, every engine's form."""

import hashlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import LAMPS, SIDE, depthwise_lamps, picture_of_lamps

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from benchmarks import int8_steps  # noqa: E402
from kd_perception.bundles.bundle import load_bundle, write_bundle  # noqa: E402
from kd_perception.bundles.bundle_yaml import read  # noqa: E402
from kd_perception.selection import gate  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.data.dataset import LabeledImage, ground_truth, write_split  # noqa: E402
from training.errors import DataError  # noqa: E402
from training.export import parity  # noqa: E402
from training.quantize import artifact, search, timing  # noqa: E402
from training.quantize.judging import Verdict, drift  # noqa: E402
from training.quantize.pictures import fed, pictures_of  # noqa: E402


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lamps')
    for split, seeds in (('train', range(8)), ('val', range(8, 12))):
        drawn = {f'{split}{seed}': picture_of_lamps(seed) for seed in seeds}
        items = [LabeledImage(name, image, ground_truth(boxes, [0] * LAMPS)) for name, (image, boxes) in drawn.items()]
        write_split(folder, split, ['lamp'], items)
    return folder


@pytest.fixture
def bundle(tmp_path):
    """A bundle as `bundle create` makes it: float32 nchw rgb, layout yolo."""

    def make(**network):
        folder = tmp_path / 'lamps'
        folder.mkdir(exist_ok=True)
        file = depthwise_lamps(folder / 'model.onnx', **network)
        spec = {
            'width': SIDE,
            'height': SIDE,
            'color': 'rgb',
            'dtype': 'float32',
            'layout': 'nchw',
            'resize': 'letterbox',
        }
        document = {
            'schema_version': 1,
            'name': 'lamps',
            'description': 'bright cells',
            'license': 'none',
            'classes': ['lamp'],
            'input': {**spec, 'std': [10.0] * 3},
            'output': {'layout': 'yolo', 'box_format': 'cxcywh'},
            'thresholds': {'score': 0.25, 'iou': 0.6},
            'artifacts': [{'engine': 'onnxruntime', 'precision': 'fp32', 'file': file.name, 'sha256': digest(file)}],
        }
        write_bundle(folder, document)
        return folder

    return make


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def quantize(folder, data, *more):
    command = [
        'quantize',
        folder,
        data,
        '--images',
        4,
        '--judged',
        4,
        '--threads',
        1,
        '--work',
        folder.parent / 'work',
        *more,
    ]
    return main([str(word) for word in command])


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino', 'tensorrt'])
@pytest.mark.parametrize('act', ['Relu', 'SiLU'])
def test_an_imported_bundle_gets_an_artifact_that_detects_the_same(bundle, dataset, capsys, engine, act):
    pytest.importorskip('onnxruntime' if engine == 'tensorrt' else engine)
    folder = bundle(act=act)
    assert quantize(folder, dataset, '--engine', engine, '--explain') == 0
    written = load_bundle(folder)
    made = written.artifact(engine, 'int8')
    record = written.provenance['quantize'][engine]
    assert record['parity']['found'] == 1.0
    assert record['judged_by'] == 'mAP50-95 of training images'
    assert engine == 'tensorrt' or made.loss.difference >= -0.01
    printed = capsys.readouterr().out
    assert '| float network |' in printed
    assert '| `c1` |' in printed
    steps = next((folder.parent / 'work').iterdir())
    assert {file.name for file in steps.iterdir()} >= {
        'steps.md',
        'steps.svg',
        'steps.json',
        'layers.md',
        'precision_recall.svg',
        '00.json',
        '00.onnx',
    }
    position = [(one.engine, one.precision) for one in written.artifacts].index((engine, 'int8'))
    assert ('not faster' in printed or engine == 'tensorrt') == (position == 1)


def test_channels_of_unlike_range_get_a_scale_each_where_openvino_reads_them(bundle, dataset):
    pytest.importorskip('openvino')
    folder = bundle(spread=6.0)
    assert quantize(folder, dataset, '--engine', 'openvino') == 0
    written = load_bundle(folder)
    graph = onnx.load(folder / written.artifact('openvino', 'int8').file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounding = next(node for node in graph.node if node.op_type == 'QuantizeLinear' and node.input[0] == 'a0')
    assert values[rounding.input[1]].shape == (6,)
    assert len(set(values[rounding.input[2]].tolist())) == 1
    assert values[rounding.input[1]].max() > 1000 * values[rounding.input[1]].min()


def test_ranges_are_written_for_compilers_of_other_chips(bundle, dataset, tmp_path):
    file = tmp_path / 'ranges.json'
    assert quantize(bundle(), dataset, '--method', 'minmax', '--engine', 'tensorrt', '--export-ranges', file) == 0
    document = json.loads(file.read_text())
    low, high = document['tensors']['a1']['range']
    assert low == 0 < high
    assert 'c0' in document['float_nodes']


@pytest.mark.parametrize('faster_with', [True, False])
def test_the_faster_way_to_use_the_processor_is_measured_and_stated(bundle, dataset, monkeypatch, faster_with):
    pytest.importorskip('openvino')
    asked = []

    class Child:
        def __init__(self, count, context, initializer, initargs):
            asked.append(initargs[0])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *arguments):
            ms = 1.0 if asked[-1] == faster_with else 2.0
            return SimpleNamespace(result=lambda: {'float': 4.0, 'int8': ms})

    monkeypatch.setattr(timing.amx, 'has_amx', lambda: True)
    monkeypatch.delenv(timing.amx.VARIABLE, raising=False)
    monkeypatch.setattr(timing, 'ProcessPoolExecutor', Child)
    folder = bundle()
    assert quantize(folder, dataset, '--engine', 'openvino', '--method', 'minmax') == 0
    assert asked[:2] == [True, False]
    assert set(asked[2:]) <= {faster_with}
    written = load_bundle(folder)
    assert written.artifact('openvino', 'int8').amx is faster_with
    assert written.provenance['quantize']['openvino']['times_float'] == 4.0


def test_without_labels_the_float_network_judges(bundle, dataset, capsys, tmp_path):
    folder = bundle()
    pictures = tmp_path / 'flight'
    shutil.copytree(dataset / 'images' / 'train', pictures)
    assert quantize(folder, pictures) == 0
    assert 'no labels; agreement with the float network is what is judged' in capsys.readouterr().out
    written = load_bundle(folder)
    assert written.artifact('onnxruntime', 'int8').metrics == {}
    assert written.provenance['quantize']['onnxruntime']['judged_by'] == 'agreement with the float network'


def test_a_video_will_do(bundle, tmp_path):
    folder, file = bundle(), tmp_path / 'flight.avi'
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 10, (SIDE, SIDE))
    for seed in range(9):
        video.write(picture_of_lamps(seed)[0])
    video.release()
    taken = pictures_of(load_bundle(folder), file, 4, 4)
    assert (len(taken.fed), len(taken.judged), taken.truth) == (4, 4, None)
    assert taken.fed[0].shape == (3, SIDE, SIDE)


def test_calibration_and_judged_pictures_are_not_the_same(bundle, dataset):
    taken = pictures_of(load_bundle(bundle()), dataset, 5, 3)
    calibrated = {image.tobytes() for image in taken.fed}
    assert not calibrated & {image.tobytes() for image in fed(load_bundle(bundle()), taken.judged)}
    assert (len(taken.fed), len(taken.judged), len(taken.truth)) == (5, 3, 3)
    with pytest.raises(DataError, match='at least one picture'):
        pictures_of(load_bundle(bundle()), dataset, 0, 3)


def test_labels_of_a_set_with_other_names_count_for_the_classes_that_cover_them(bundle, tmp_path):
    folder, finer = bundle(), tmp_path / 'finer'
    document = read(folder / 'bundle.yaml').values
    write_bundle(folder, {**document, 'covers': {'lamp': ['bulb']}})
    for split in ('train', 'val'):
        image, boxes = picture_of_lamps(1)
        items = [LabeledImage(f'{split}{n}', image, ground_truth(boxes, [1, 2, 1])) for n in range(2)]
        write_split(finer, split, ['lamp', 'bulb', 'Lamp'], items)
    (finer / 'classes.txt').write_text('street\nbulb\nLamp\n')
    with pytest.raises(DataError, match='has the classes street, which lamps neither has nor covers'):
        pictures_of(load_bundle(folder), finer, 1, 1)
    (finer / 'classes.txt').write_text('lamp\nbulb\nLamp\n')
    (truth,) = pictures_of(load_bundle(folder), finer, 1, 1).truth
    assert truth.objects.class_ids.tolist() == [0, 0, 0]


def unchanged(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    return lambda: {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_is_beyond_the_gate_is_not_written(bundle, dataset, monkeypatch, capsys):
    folder = bundle()
    same = unchanged(folder)
    monkeypatch.setattr(artifact, 'refusal', lambda made, most: gate.refusal(made, most) or f'lost over {most:g}')
    assert quantize(folder, dataset, '--max-map-drop', '0.03') == 1
    assert 'beyond the accuracy gate: lost over 0.03. Nothing was written' in capsys.readouterr().err
    assert same()


@pytest.mark.parametrize('labels', [True, False])
def test_another_detector_is_not_written(bundle, dataset, monkeypatch, capsys, labels):
    folder = bundle()
    same = unchanged(folder)
    monkeypatch.setattr(parity, 'QUANTIZED', parity.ParityLimits(asked_score=0.0, overlap=1.0, score=-1.0))
    assert quantize(folder, dataset if labels else dataset / 'images' / 'train', '--most-layers', 1) == 1
    assert 'is not the detector that it was made from' in capsys.readouterr().err
    assert same()


def test_a_search_goes_on_where_it_stopped(bundle, dataset, monkeypatch):
    folder = bundle()
    assert quantize(folder, dataset) == 0
    record = next((folder.parent / 'work').glob('*/00.json'))
    kept = json.loads(record.read_text())
    kept['ms'] = 0.125
    record.write_text(json.dumps(kept))
    monkeypatch.setattr(search.onnx, 'save', None)
    assert quantize(folder, dataset) == 0
    assert load_bundle(folder).provenance['quantize']['onnxruntime']['times_float'] == round(
        kept['float_ms'] / 0.125, 2
    )


def test_layers_left_in_float_begin_before_biases_and_weights_were_fitted_to_all_of_int8(bundle, dataset, monkeypatch):
    given: dict[str, list] = {'unshifted': [], 'leaving': []}
    for name, calls in given.items():
        work = getattr(search, name)
        monkeypatch.setattr(
            search, name, lambda one, more, work=work, calls=calls: calls.append(one) or work(one, more)
        )
    assert quantize(bundle(act='SiLU'), dataset, '--every-step', '--most-layers', 1) == 0
    before_biases = given['unshifted'][0]
    assert given['leaving'] == [before_biases]
    assert given['unshifted'][-1].settings.float_nodes, 'biases are corrected for what is left'


def test_every_step_is_looked_at_and_the_tables_are_collected(bundle, dataset, capsys):
    folder = bundle()
    assert quantize(folder, dataset, '--every-step', '--most-layers', 1, '--tune', 2) == 0
    printed, work = capsys.readouterr().out, folder.parent / 'work'
    steps = ['ranges: entropy', 'biases corrected', 'weights rounded by what is read', 'weight rounding learned']
    for step in [*steps, '1 noisiest layers in float', 'weights tuned in INT8']:
        assert f'| {step}' in printed
    assert '--every-step' in load_bundle(folder).artifact('onnxruntime', 'int8').made_by
    steps = json.loads(next(work.glob('*/steps.json')).read_text())
    drifts = [step['verdict']['drift'] for step in steps if step['kept']]
    assert drifts == sorted(drifts, reverse=True), 'each that is kept is nearer than those before'
    assert int8_steps.main([str(work)]) == 0
    assert capsys.readouterr().out.startswith('lamps, onnxruntime:\n\n| step |')
    assert int8_steps.main([str(folder)]) == 1
    assert 'no search has ended there' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--engine', 'abacus'], 'none of onnxruntime, openvino, tensorrt, all'),
        (['--method', 'guess'], "unknown calibration method 'guess'"),
        (['--images', '0'], 'at least one picture'),
    ],
)
def test_wrong_options_are_one_line(bundle, dataset, capsys, more, message):
    assert quantize(bundle(), dataset, *more) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('command', ['arms', 'sensitivity'])
def test_tables_of_our_exporter_refuse_others_and_name_what_takes_them(bundle, dataset, capsys, command):
    assert main([command, str(bundle()), str(dataset), '--threads', '1']) == 1
    assert 'quantize --explain takes all' in capsys.readouterr().err


def test_pictures_in_which_nothing_is_found_are_refused(bundle, tmp_path, capsys):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((SIDE, SIDE, 3), 9, np.uint8))
    assert quantize(bundle(), tmp_path) == 1
    assert 'finds nothing on these pictures' in capsys.readouterr().err


def test_drift_counts_what_came_what_went_and_what_changed():
    one = ground_truth([[0, 0, 10, 10]], [0])
    moved = ground_truth([[0, 0, 10, 8]], [0])
    none = one.select(slice(0))
    assert drift([one], [one]) == 0
    assert drift([one], [none]) == pytest.approx(1)
    assert drift([one], [moved]) == pytest.approx(0.2)
    assert drift([one], [ground_truth([[0, 0, 10, 10], [30, 30, 40, 40]], [0, 0])]) == pytest.approx(1)


@pytest.mark.parametrize(
    ('verdict', 'holds'),
    [
        ({'map': 0.400, 'float_map': 0.402, 'most': -0.001}, True),
        ({'map': 0.390, 'float_map': 0.402, 'most': -0.001}, False),
        ({'map': 0.390, 'float_map': 0.402, 'most': 0.004}, True),  # such a loss these pictures cannot show
        ({'map': 0.390, 'float_map': 0.402}, False),
        ({}, True),
    ],
)
def test_a_loss_counts_where_the_pictures_show_it(verdict, holds):
    same = parity.Parity(1, asked=10, found=1.0, score=0.0, worst_score=0.0, overlap=1.0, worst_overlap=1.0)
    assert Verdict(0.01, same, **verdict).holds(0.01) is holds
    assert not Verdict(0.01, replace(same, found=0.5), **verdict).holds(0.01)


@pytest.mark.parametrize(
    ('verdict', 'drifts', 'near'),
    [
        ({'map': 0.400, 'float_map': 0.402, 'most': -0.001}, 0.06, True),  # labels show that it is kept
        ({'map': 0.400, 'float_map': 0.402, 'most': -0.001}, 0.08, False),
        ({'map': 0.390, 'float_map': 0.402, 'most': 0.004}, 0.06, False),  # they cannot tell
        ({'map': 0.390, 'float_map': 0.402, 'most': 0.004}, 0.03, True),
        ({}, 0.06, False),
        ({}, 0.03, True),
    ],
)
def test_agreement_decides_where_labels_cannot(verdict, drifts, near):
    same = parity.Parity(1, asked=10, found=1.0, score=0.0, worst_score=0.0, overlap=1.0, worst_overlap=1.0)
    assert Verdict(drifts, same, **verdict).is_near(0.01) is near


@pytest.mark.parametrize('operator', ['Relu', 'Elu'])
def test_where_no_step_holds_the_network_is_tuned_or_said_to_be_no_trainable_one(
    bundle, dataset, monkeypatch, capsys, operator
):
    monkeypatch.setattr(Verdict, 'is_near', lambda self, most_loss: False)
    folder = bundle(act=operator)
    assert quantize(folder, dataset, '--method', 'minmax', '--most-layers', 0, '--tune', 3) == 0
    printed = capsys.readouterr().out
    if operator == 'Relu':
        assert 'weights tuned in INT8: mAP' in printed
        assert '--tune 3' in load_bundle(folder).artifact('onnxruntime', 'int8').made_by
    else:
        assert 'weights tuned in INT8: skipped: no trainable network: torch has no Elu here' in printed
    assert 's of processors' in printed
    assert 'weight rounding learned' in printed
