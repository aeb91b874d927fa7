"""Weights files: what is written is what comes back, and hostile or unfitting files are refused."""

import pickle
import zipfile

import pytest

torch = pytest.importorskip('torch')

from tiny_detectors import CLASSES, SIDE, architecture, detector  # noqa: E402

from training.errors import WeightsError  # noqa: E402
from training.models.weights import build_network, load_network, load_state, read_kept, save_weights  # noqa: E402


@pytest.fixture(scope='module')
def network():
    return detector()


@pytest.fixture
def file(network, tmp_path):
    """A weights file of `network`."""
    save_weights(network, tmp_path / 'weights.pt', CLASSES)
    return tmp_path / 'weights.pt'


def altered(file, **changes):
    """The file with some of its entries replaced."""
    torch.save(torch.load(file, weights_only=True) | changes, file)
    return file


def outputs(network):
    with torch.no_grad():
        return network(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))[0]


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('yolov8n.yaml', 3_012_798),
        ('yolov8s.yaml', 11_139_470),
        ('yolov8m.yaml', 25_862_110),
        ('yolov5n.yaml', 2_510_414),
        ('yolov5nu.yaml', 2_510_414),
        ('yolo11n.yaml', 2_591_790),
        ('yolo26n.yaml', 2_507_700),
    ],
)
def test_architectures_of_ultralytics_by_name(name, parameters):
    network = build_network(name, [f'class {number}' for number in range(10)])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.names[9] == 'class 9'


def test_rtdetr_is_built_as_such():
    assert type(build_network('rtdetr-l.yaml', CLASSES)).__name__ == 'RTDETRDetectionModel'


def test_an_architecture_from_a_file(tmp_path):
    import yaml

    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(architecture()))
    from_file = build_network(str(path), CLASSES).state_dict()
    assert {name: value.shape for name, value in from_file.items()} == {
        name: value.shape for name, value in build_network(architecture(), CLASSES).state_dict().items()
    }


@pytest.mark.parametrize('family', ['v8', 'v5', '11', '26'])
def test_a_network_comes_back(family, tmp_path):
    network = detector(family)
    save_weights(network, tmp_path / 'weights.pt', CLASSES)
    loaded, classes = load_network(tmp_path / 'weights.pt')
    assert classes == CLASSES
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(network))
    assert read_kept(tmp_path / 'weights.pt') is None


def test_the_file_holds_no_path_of_this_machine(tmp_path):
    save_weights(build_network('yolov8n.yaml', CLASSES), tmp_path / 'weights.pt', CLASSES)
    assert 'yaml_file' not in torch.load(tmp_path / 'weights.pt', weights_only=True)['architecture']


def test_files_of_the_first_format_still_load(network, tmp_path):
    old = build_network('yolov8n.yaml', CLASSES).eval()
    torch.save(
        {'architecture': 'yolov8n.yaml', 'classes': list(CLASSES), 'state': old.state_dict()}, tmp_path / 'old.pt'
    )
    assert torch.equal(outputs(load_network(tmp_path / 'old.pt')[0]), outputs(old))


def test_half_precision_is_saved_in_full(network, tmp_path):
    save_weights(build_network(architecture(), CLASSES).half(), tmp_path / 'weights.pt', CLASSES)
    assert next(load_network(tmp_path / 'weights.pt')[0].parameters()).dtype == torch.float32


def test_load_state_fills_a_network(network, file):
    other = detector(seed=1)
    load_state(other, file)
    assert torch.equal(outputs(other), outputs(network))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'classes': 'car'}, 'classes must be'),
        ({'classes': [1, 2]}, 'classes must be'),
        ({'classes': ['car']}, 'cannot have'),
        ({'architecture': 7}, 'architecture must hold'),
        ({'architecture': '../yolov8n.yaml'}, 'no architecture'),
        ({'architecture': 'yolov8n.yaml'}, 'another architecture'),
        ({'structure': {'split': 1}}, 'must hold "split"'),
        ({'structure': {'split': False, 'convolutions': {}}}, 'another architecture'),
        ({'kept': [[1, 0]]}, 'rising order'),
        ({'kept': [['a']]}, 'channel numbers'),
        ({'kept': 3}, 'channel numbers'),
        ({'state': {'model.0.conv.weight': 3}}, 'tensors by name'),
        ({'state': {}}, 'does not fit'),
        ({'format': 99}, 'format 99'),
    ],
)
def test_unfitting_entries_are_refused(file, changes, message):
    with pytest.raises(WeightsError, match=message):
        load_network(altered(file, **changes))


def test_weights_that_are_not_finite_are_refused(file):
    state = torch.load(file, weights_only=True)['state']
    state['model.0.conv.weight'][0, 0, 0, 0] = float('nan')
    with pytest.raises(WeightsError, match=r'model\.0\.conv\.weight holds values that are not finite'):
        load_network(altered(file, state=state))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'activation': '__import__("os").system("true")'}, 'activation must be'),
        ({'activation': 'torch.hub.load("a", "b")'}, 'activation must be'),
        ({'backbone': []}, 'list of 1 to'),
        ({'backbone': [[-1, 1, 'TorchVision', [64, 'resnet18']]]}, "names the layer 'TorchVision'"),
        ({'backbone': [[-1, 1, 'Cnov', [64, 3, 2]]]}, "did you mean 'Conv'"),
        ({'backbone': [[-1, 1, 'Conv', [10**9, 3, 2]]]}, 'arguments that no layer takes'),
        ({'backbone': [[-1, 1, 'Conv', ['d["x"]', 3, 2]]]}, 'arguments that no layer takes'),
        ({'backbone': [[-1, 10**6, 'Conv', [64, 3, 2]]]}, 'repeated 1 to 100'),
        ({'backbone': [['a', 1, 'Conv', [64, 3, 2]]]}, 'layers by number'),
        ({'backbone': [[-1, 1, 'Conv']]}, 'must be'),
        ({'backbone': [[-1, 1, 'nn.Upsample', [None, 999, 'nearest']]]}, 'nn.Upsample takes'),
        ({'head': [[-1, 1, 'Conv', [512, 4000, 2]], [[3, 5, 8], 1, 'Detect', ['nc']]]}, 'parameters, more than'),
        ({'scales': {'n': [1, 2]}}, 'scales must hold'),
        ({'scale': 'q'}, 'is not among'),
        ({'width_multiple': -1}, 'width_multiple'),
        ({'head': [[-1, 1, 'Detect', ['nc']]]}, 'cannot be built'),
    ],
)
def test_hostile_architectures_are_refused_before_they_are_built(changes, message):
    with pytest.raises(WeightsError, match=message):
        build_network(architecture(**changes), CLASSES)


@pytest.mark.parametrize('name', ['yolov8q.yaml', 'https://example.org/yolov8n.yaml', 'yolov8n', ''])
def test_unknown_names_are_refused(name):
    with pytest.raises(WeightsError):
        build_network(name, CLASSES)


def test_the_nearest_name_is_offered():
    with pytest.raises(WeightsError, match="did you mean 'yolov8n.yaml'"):
        build_network('yolo8n.yaml', CLASSES)


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match='does not exist'):
        load_network(tmp_path / 'missing.pt')
    for name, content in (('empty.pt', b''), ('noise.pt', bytes(range(256)) * 9), ('pickle.pt', pickle.dumps(print))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match='cannot be read'):
            load_network(tmp_path / name)
    torch.save({'model': 1}, tmp_path / 'other.pt')
    with pytest.raises(WeightsError, match='lacks architecture'):
        load_network(tmp_path / 'other.pt')


def test_a_pickled_object_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / 'was_run'), 'w'))

    torch.save({'architecture': Hostile(), 'classes': [], 'state': {}}, tmp_path / 'hostile.pt')
    with pytest.raises(WeightsError):
        load_network(tmp_path / 'hostile.pt')
    assert not (tmp_path / 'was_run').exists()


def test_a_truncated_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match='cannot be read'):
        load_network(file)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('training.models.weights.LARGEST_FILE', 1000)
    with zipfile.ZipFile(tmp_path / 'bomb.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(10_000))
    with pytest.raises(WeightsError, match='more than'):
        load_network(tmp_path / 'bomb.pt')


def test_a_failed_write_leaves_the_old_file(network, file, monkeypatch):
    before = file.read_bytes()

    def full(saved, part):
        part.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(WeightsError, match='disk full'):
        save_weights(network, file, CLASSES)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_only_networks_with_an_architecture_are_saved(tmp_path):
    with pytest.raises(WeightsError, match='Linear carries no architecture'):
        save_weights(torch.nn.Linear(2, 2), tmp_path / 'weights.pt', CLASSES)
