"""Measuring during training: when, what is kept, and when it ends."""

import csv
import dataclasses

import cv2
import pytest

torch = pytest.importorskip('torch')

from tiny_training import CLASSES, RTDETR, SIZE, architecture, columns  # noqa: E402

from training.data.dataset import LabeledImage, ground_truth, write_split  # noqa: E402
from training.errors import DataError, FitError, Interrupted  # noqa: E402
from training.export.heads import boxes_scores  # noqa: E402
from training.fit import validation  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.loop import Run  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.fit.validation import Validation, is_due  # noqa: E402
from training.models.weights import build_network, load_network  # noqa: E402

SETTINGS = FitSettings(
    image_size=SIZE, batch=4, epochs=2.0, warmup_steps=0, precision='float32', validate_epochs=1.0, ema_decay=0.0
)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory, pictures):
    """The twelve pictures as a validation split."""
    folder = tmp_path_factory.mktemp('set')
    items = [LabeledImage(file.stem, cv2.imread(str(file)), ground_truth([(5, 5, 30, 20)], [0])) for file in pictures]
    write_split(folder, 'val', CLASSES, items)
    return folder


def job(pictures, dataset, **changes):
    return FitJob(architecture(), CLASSES, pictures, dataclasses.replace(SETTINGS, **changes), validation=dataset)


@pytest.fixture
def accuracies(monkeypatch):
    """What is measured, in order, in place of what these networks find, which is nothing."""
    left = []

    def measured(found, truth, classes, *, score_threshold):
        value = left.pop(0)
        return dataclasses.make_dataclass('Measured', ['map50', 'map'])(2 * value, value)

    monkeypatch.setattr(validation, 'measure', measured)
    return left


def test_a_training_measures_itself_and_ends_with_the_same_weights(pictures, dataset, tmp_path):
    result = fit_detector(job(pictures, dataset), tmp_path / 'measured')
    log = columns(result.log)
    assert [place + 1 for place, value in enumerate(log['val/map']) if value] == [3, 6]
    rows = list(csv.DictReader((tmp_path / 'measured/validation.csv').open()))
    assert [row['step'] for row in rows] == ['3', '6']
    plain = fit_detector(job(pictures, None, validate_epochs=0.0), tmp_path / 'plain')
    assert result.weights.read_bytes() == plain.weights.read_bytes()
    assert (tmp_path / 'measured/best.pt').is_file()


def test_it_ends_when_it_gets_no_better_and_keeps_the_best(pictures, dataset, tmp_path, accuracies):
    accuracies += [0.1, 0.3, 0.2, 0.25, 0.9]
    result = fit_detector(job(pictures, dataset, epochs=5.0, patience=2, keep='best'), tmp_path)
    assert accuracies == [0.9]
    assert result.steps == 12
    assert columns(result.log)['step'][-1] == '12'
    best, last = (load_network(tmp_path / name)[0].state_dict() for name in ('weights.pt', 'last.pt'))
    assert (tmp_path / 'weights.pt').read_bytes() == (tmp_path / 'best.pt').read_bytes()
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert fit_detector(job(pictures, dataset, epochs=5.0, patience=2, keep='best'), tmp_path).steps == 12


def test_a_resumed_run_remembers_its_measurements(pictures, dataset, tmp_path, monkeypatch, accuracies):
    settings = {'epochs': 4.0, 'patience': 2, 'keep': 'best'}
    accuracies += [0.3, 0.2, 0.1]
    whole = fit_detector(job(pictures, dataset, **settings), tmp_path / 'whole')
    accuracies += [0.3, 0.2, 0.1]
    with monkeypatch.context() as patched:
        patched.setattr(Run, '_stop_asked', lambda run, signals: run.step == 7)
        with pytest.raises(Interrupted):
            fit_detector(job(pictures, dataset, **settings), tmp_path / 'parts')
    parts = fit_detector(job(pictures, dataset, **settings), tmp_path / 'parts')
    assert (whole.steps, parts.steps) == (9, 9)
    for name in ('weights.pt', 'last.pt', 'validation.csv'):
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'parts' / name).read_bytes()


@pytest.mark.parametrize(
    'of_network', [architecture(), RTDETR, {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'light'}]
)
def test_it_measures_what_the_export_would_give(of_network):
    torch.manual_seed(0)
    module = boxes_scores(build_network(of_network, CLASSES), SIZE, SIZE)
    image = torch.randint(0, 255, (1, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        boxes, scores = module(image)
    found = validation._OnDevice(module, torch.device('cpu')).infer(image.numpy())
    assert torch.equal(torch.from_numpy(found['boxes']), boxes)
    assert torch.equal(torch.from_numpy(found['scores']), scores)


def test_what_cannot_be_is_refused(pictures, dataset, tmp_path):
    with pytest.raises(ValueError, match='set validate_epochs'):
        FitSettings(steps=1, patience=3)
    with pytest.raises(FitError, match='needs a validation set'):
        fit_detector(job(pictures, None), tmp_path)
    with pytest.raises(DataError, match='no validation images'):
        Validation(tmp_path, tmp_path, CLASSES, SIZE, 10, torch.device('cpu'))


@pytest.mark.parametrize(
    ('steps', 'per_step', 'every', 'due'),
    [(8, 0.25, 1.0, [4, 8]), (7, 0.25, 1.0, [4, 7]), (4, 0.25, 10.0, [4]), (3, 2.0, 1.0, [1, 2, 3]), (4, 1.0, 0.0, [])],
)
def test_measurements_are_due_every_so_many_epochs_and_at_the_end(steps, per_step, every, due):
    assert [step for step in range(1, steps + 1) if is_due(step, steps, per_step, every)] == due
