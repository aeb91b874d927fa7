"""System S1 as a recipe: classifiers, a detector on the distilled backbone, its bundle."""

import pytest
import yaml

pytest.importorskip('ultralytics')
import torch
from tiny_training import write_pictures
from without_ultralytics import run_without_ultralytics

from kd_perception.bundles.bundle import load_bundle
from training.__main__ import main
from training.errors import DataError, RecipeError, WeightsError
from training.models.starts import fresh_yolov4
from training.models.weights import build_network, load_network
from training.models.yolov4.anchors import box_sizes
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.classifier_files import load_classifier, save_classifier, take_backbone
from training.prune.cost import count_fused_parameters, count_gflops, count_parameters
from training.run.recipe import load_recipe

pytestmark = pytest.mark.filterwarnings('ignore')
CLASSIFY = {'crops': {'scenes': {'min_side': 4}}, 'fit': {'size': 32, 'steps': 2, 'batch': 4, 'warmup_steps': 1}}
CRD = {'loss': 'crd', 'settings': {'negatives': 8}}
RECIPE = {
    'name': 'tiny_s1',
    'validation': 'scenes',
    'data': {'scenes': {'format': 'scenes', 'val_share': 0.25, 'scenes': {'count': 16, 'size': 96}}},
    'fit': {'image_size': 64, 'batch': 4, 'steps': 2, 'warmup_steps': 1, 'precision': 'float32', 'ema_decay': 0.0},
    'stages': {
        'teacher': {'start': 'mobilenet_v2', 'classify': CLASSIFY},
        'backbone': {'start': 'mobilenet_v2', 'teacher': 'teacher', 'classify': {**CLASSIFY, 'method': CRD}, 'seed': 1},
        'frozen': {
            'start': 'm_yolo.yaml',
            'backbone': 'backbone',
            'anchors': True,
            'images': {'scenes': 16},
            'fit': {'freeze': ['backbone.']},
        },
        'finish': {'start': 'frozen', 'images': {'scenes': 16}},
    },
    'export': {'width': 96, 'height': 64, 'parity_images': 1},
    'calibration': {'images': {'scenes': 2}},
    'quantize': {'method': 'minmax'},
    'parity': {'found': 0.0, 'score': 1.0, 'overlap': 0.0},
    'report': {'rounds': 2},
    'bundle': {'description': 'A test.', 'licence': 'none', 'attribution': [], 'data': 'scenes', 'method': 'none'},
}
OPENCV = {'augment': {'by': 'opencv'}}
M_YOLO = {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'light'}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / 'm_yolo.yaml').write_text(yaml.safe_dump(M_YOLO))
    file = tmp_path / 'recipe.yaml'
    file.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return file


def test_a_recipe_becomes_a_bundle_of_m_yolo(recipe, tmp_path, capsys):
    options = ['--data', str(tmp_path), '--out', str(tmp_path / 'out'), '--threads', '1']
    assert main(['run', str(recipe), *options, '--target', str(tmp_path / 'bundle')]) == 0
    bundle = load_bundle(tmp_path / 'bundle')
    assert [artifact.precision for artifact in bundle.artifacts] == ['int8', 'fp32']
    assert 0 <= bundle.provenance['steps']['classify backbone']['result']['top1'] <= 1
    made = {path.name.rsplit('-', 1)[0]: path for path in (tmp_path / 'out' / 'tiny_s1').iterdir() if path.is_dir()}
    distilled, _ = load_classifier(made['classify-backbone'] / 'weights.pt')
    frozen, _ = load_network(made['train-frozen'] / 'weights.pt')
    wanted = distilled.backbone.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in frozen.backbone.state_dict().items())
    assert float(frozen.anchors.max()) < 64
    finished, _ = load_network(made['train-finish'] / 'weights.pt')
    assert torch.equal(finished.anchors, frozen.anchors)
    assert '| finish |' in capsys.readouterr().out


RUN = """
from training.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def test_a_shipped_bundle_is_trained_on_pruned_and_taught_by_what_it_was_without_ultralytics(repository, tmp_path):
    lite = str(repository / 'training/recipes/networks/yolov4_lite0.yaml')
    stages = {
        'mine': {
            'start': lite,
            'bundle': str(repository / 'models/road_traffic'),
            'images': {'scenes': 16},
            'fit': OPENCV,
        },
        'slim': {'start': 'mine', 'prune': {'cut_parameters': 0.7}},
        'taught': {
            'start': 'slim',
            'teacher': 'mine',
            'images': {'scenes': 16},
            'fit': OPENCV,
            'distill': {'terms': [{'loss': 'cwd', 'weight': 5}]},
        },
    }
    file = tmp_path / 'recipe.yaml'
    file.write_text(yaml.safe_dump({**RECIPE, 'stages': stages}, sort_keys=False))
    folders = ['--data', tmp_path, '--out', tmp_path / 'out', '--target', tmp_path / 'bundle']
    done = run_without_ultralytics(RUN, 'run', file, '--threads', '1', *folders)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '| slim |' in done.stdout
    whole, slim = (
        load_network(next((tmp_path / 'out/tiny_s1').glob(f'train-{stage}-*')) / 'weights.pt')[0]
        for stage in ('mine', 'taught')
    )
    assert torch.equal(slim.anchors, whole.anchors)
    assert 0.25 < count_parameters(slim) / count_parameters(whole) <= 0.3
    assert [artifact.precision for artifact in load_bundle(tmp_path / 'bundle').artifacts] == ['int8', 'fp32']


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'stages.frozen.bundle': 'models/road_traffic'}, 'leave out backbone and anchors'),
        ({'stages.backbone.teacher': None}, 'teacher and classify.method belong together'),
        ({'stages.backbone.images': {'scenes': 4}}, 'takes none of images'),
        ({'stages.teacher.classify.folder': 'imagenet'}, 'give either crops'),
        ({'stages.teacher.classify.crops': {'scene': {}}}, "did you mean 'scenes'"),
        ({'stages.teacher.start': 'mobilenet_v3'}, "did you mean 'mobilenet_v2'"),
        ({'stages.frozen.backbone': 'teachers'}, "did you mean 'teacher'"),
        ({'stages.finish.backbone': 'backbone'}, 'go with a fresh network'),
        ({'stages.finish.start': 'teacher'}, 'known there are frozen'),
        ({'bundle.stage': 'backbone'}, 'is a classifier'),
    ],
)
def test_wrong_stages_are_told(recipe, changes, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe, changes)


def test_a_backbone_of_another_kind_is_refused(recipe, tmp_path):
    file = tmp_path / 'classifier.pt'
    save_classifier(Classifier('repvit_m0_9', 2), 'repvit_m0_9', ('a', 'b'), file)
    with pytest.raises(WeightsError, match='has the backbone repvit_m0_9, the detector mobilenet_v2'):
        take_backbone(build_network(M_YOLO, ('a', 'b')), file)
    with pytest.raises(WeightsError, match='is no YOLOv4'):
        fresh_yolov4('yolov8n.yaml', ('a', 'b'), file, [], 64, 0)


def test_sizes_of_boxes_are_in_pixels_of_the_training(tmp_path):
    files = write_pictures(tmp_path, 4)
    sizes = box_sizes(files, 2, 128)
    assert sorted(map(tuple, sizes.round().tolist())) == [(32, 64), (32, 64), (64, 32), (64, 32)]
    files[0].write_bytes(b'no picture')
    with pytest.raises(DataError, match='remove it'):
        box_sizes(files, 2, 128)


@pytest.mark.parametrize('backbone', ['mobilenet_v2', 'repvit_m0_9'])
def test_what_is_exported_is_counted(backbone):
    network = build_network({**M_YOLO, 'backbone': backbone}, ('a', 'b'))
    assert count_fused_parameters(network) < count_parameters(network)
    small, large = count_gflops(network, 64, 64), count_gflops(network, 128, 64)
    assert large == pytest.approx(2 * small, rel=0.01)


def test_the_public_network_costs_60_gflops_at_416():
    network = build_network({'family': 'yolov4'}, [f'class {number}' for number in range(80)])
    assert count_gflops(network, 416, 416) == pytest.approx(60.1, abs=0.5)
