"""Each batch at a side of its own: a function of the seed and the step."""

import dataclasses

import pytest
from tiny_training import CLASSES, SIZE, architecture, run_of

torch = pytest.importorskip('torch')

from training.data.augment import AugmentSettings  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.errors import FitError  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.schema import counted  # noqa: E402

SETTINGS = FitSettings(
    image_size=SIZE, batch=2, steps=6, warmup_steps=0, precision='float32', augment=AugmentSettings(multi_scale=0.5)
)


def test_batches_have_sides_of_their_own_and_train(pictures, tmp_path, monkeypatch):
    run = run_of(FitJob(architecture(), CLASSES, pictures, SETTINGS), tmp_path)
    sides, real = [], run.task.family.predict

    def predict(network, images, targets):
        sides.append(tuple(images.shape[2:]))
        assert targets['img'].shape[2:] == images.shape[2:]
        return real(network, images, targets)

    monkeypatch.setattr(run.task.family, 'predict', predict)
    batches = run.task.batches(0)
    for step in range(6):
        run.step = step
        assert run._accumulate(batches)['task'] > 0
    assert len(set(sides)) > 1
    assert set(sides) <= {(32, 32), (64, 64), (96, 96)}
    images = torch.rand(1, 3, SIZE, SIZE)
    again = [tuple(run.task._scaled(images, number).shape[2:]) for number in range(6)]
    assert again == sides


def test_terms_that_compare_maps_need_one_size(pictures, teacher, tmp_path):
    distill = DistillSettings((TermSettings('cwd'),))
    job = FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=teacher, distill=distill)
    with pytest.raises(FitError, match='multi_scale goes without distill'):
        run_of(job, tmp_path)


def test_recipes_that_do_without_keep_their_names():
    assert 'multi_scale' not in counted(AugmentSettings())
    assert 'mixup' not in counted(dataclasses.replace(AugmentSettings(), mixup=0.0))
