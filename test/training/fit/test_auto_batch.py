"""`batch: auto`: as many images as memory allows, or as a CPU gains by; found once for a training."""

import dataclasses
import json

import pytest
from tiny_training import CLASSES, SIZE, architecture

torch = pytest.importorskip('torch')

from training.errors import FitError  # noqa: E402
from training.fit import auto_batch  # noqa: E402
from training.fit.auto_batch import FILE, chosen_batch  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.processes import Group  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.run.recipe import StageRecipe  # noqa: E402
from training.schema import read  # noqa: E402

ALONE = Group(0, 1, torch.device('cpu'))


def machine(monkeypatch, seconds, most=10**6):
    """A machine whose step of so many images takes `seconds`, and whose memory holds so many."""
    now = [0.0]
    monkeypatch.setattr(auto_batch.time, 'perf_counter', lambda: now[0])

    def step(batch):
        if batch > most:
            raise torch.OutOfMemoryError('CUDA out of memory')
        now[0] += seconds(batch)

    return step


@pytest.mark.parametrize(
    ('seconds', 'most', 'wanted'),
    [
        (lambda batch: 1.0 + 0.1 * batch, 10**6, 128),  # 256 would be 0.5 % quicker
        (lambda batch: 1.0 * batch, 10**6, 1),  # an image takes as long in any batch
        (lambda batch: 1.0, 10, 8),  # the memory ends it
        (lambda batch: 1.0 if batch < 5 else 9.0, 10**6, 4),  # larger ones are slower
    ],
)
def test_a_cpu_takes_the_batch_by_which_it_gains(monkeypatch, tmp_path, seconds, most, wanted):
    assert chosen_batch(tmp_path, ALONE, machine(monkeypatch, seconds, most)) == wanted
    # A second look at a busier machine changes nothing.
    assert chosen_batch(tmp_path, ALONE, machine(monkeypatch, lambda batch: batch)) == wanted


def test_no_image_fits(monkeypatch, tmp_path):
    with pytest.raises(FitError, match='lower image_size'):
        chosen_batch(tmp_path, ALONE, machine(monkeypatch, lambda _: 1.0, most=0))


def test_a_training_finds_its_batch(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_batch, 'LARGEST', 2)
    settings = FitSettings(image_size=SIZE, batch='auto', steps=1, warmup_steps=0, precision='float32')
    job = FitJob(architecture(), CLASSES, pictures, settings)
    first = fit_detector(job, tmp_path / 'first')
    batch = json.loads((tmp_path / 'first' / FILE).read_text())['batch']
    assert batch in (1, 2)
    told = dataclasses.replace(job, settings=dataclasses.replace(settings, batch=batch))
    assert fit_detector(told, tmp_path / 'told').weights.read_bytes() == first.weights.read_bytes()


def test_a_recipe_may_say_auto_and_nothing_else():
    stage = {'start': 'yolov8n.yaml', 'images': {'photos': 4}}
    assert read(StageRecipe, {**stage, 'fit': {'steps': 1, 'batch': 'auto'}}, 'stage').fit.batch == 'auto'
    with pytest.raises(Exception, match=r'stage.fit.batch must be a whole number'):
        read(StageRecipe, {**stage, 'fit': {'steps': 1, 'batch': 'atuo'}}, 'stage')
