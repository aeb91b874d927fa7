"""YOLOv4 in the detector trainer: it learns, resumes, keeps a frozen backbone, and learns from another's maps."""

import math
from dataclasses import replace

import pytest

pytest.importorskip('torch')
import torch
from tiny_training import CLASSES, SIZE, columns, write_network, write_pictures

from training.data.augment import AugmentSettings
from training.distill.settings import DistillSettings, TermSettings
from training.errors import FitError, LossError
from training.fit.detector import fit_detector
from training.fit.job import FitJob
from training.fit.settings import FitSettings
from training.models.weights import load_network

ANCHORS = [[[16, 16], [32, 16], [16, 32]], [[24, 24], [40, 20], [20, 40]], [[48, 48], [60, 30], [30, 60]]]
M_YOLO = {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'depthwise', 'anchors': ANCHORS}
NOTHING = AugmentSettings(mosaic=0.0, scale=0.0, translate=0.0, fliplr=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=2, warmup_steps=0, precision='float32')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('pictures'), 8)


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp('start') / 'weights.pt', M_YOLO, seed=5)


def test_it_learns(pictures, start, tmp_path):
    settings = replace(SETTINGS, steps=12, learning_rate=0.002, augment=NOTHING)
    log = columns(fit_detector(FitJob(start, CLASSES, pictures, settings), tmp_path).log)
    assert {'task/box', 'task/objectness', 'task/classes'} <= log.keys()
    losses = [float(value) for value in log['task']]
    assert min(losses[-4:]) < 0.8 * losses[0]


def test_a_frozen_backbone_stays_as_it_was(pictures, start, tmp_path):
    job = FitJob(start, CLASSES, pictures, replace(SETTINGS, freeze=('backbone.',)))
    before, after = (load_network(file)[0].state_dict() for file in (start, fit_detector(job, tmp_path).weights))
    backbone = [name for name in before if name.startswith('backbone.')]
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith('neck.'))
    with pytest.raises(FitError, match=r'names are like backbone\.'):
        fit_detector(FitJob(start, CLASSES, pictures, replace(SETTINGS, freeze=('model.0.',))), tmp_path / 'wrong')


def test_fresh_weights_are_drawn_from_the_seed(pictures, tmp_path):
    settings = replace(SETTINGS, steps=1)
    first, same, other = (
        fit_detector(FitJob(M_YOLO, CLASSES, pictures, settings, seed=seed), tmp_path / name).weights.read_bytes()
        for name, seed in (('first', 1), ('same', 1), ('other', 2))
    )
    assert first == same != other


def test_it_learns_from_the_maps_of_another(pictures, start, tmp_path):
    teacher = write_network(tmp_path / 'teacher.pt', {**M_YOLO, 'backbone': 'repvit_m0_9'}, seed=6)
    distill = DistillSettings((TermSettings('cwd', start_step=0), TermSettings('fgfi', start_step=0)))
    job = FitJob(start, CLASSES, pictures, SETTINGS, teacher=teacher, distill=distill)
    log = columns(fit_detector(job, tmp_path / 'run').log)
    assert all(float(log[name][1]) > 0 for name in ('cwd', 'fgfi'))
    assert all(math.isfinite(float(value)) for value in log['gradient'])
    of_head = DistillSettings((TermSettings('bckd'),))
    with pytest.raises(LossError, match='YOLOv4 are distilled by their maps only'):
        fit_detector(replace(job, distill=of_head), tmp_path / 'refused')
    settings = replace(SETTINGS, unlabelled_batch=1)
    with pytest.raises(FitError, match='YOLOv4 is trained on labelled images only'):
        fit_detector(replace(job, settings=settings, unlabelled=pictures[:2]), tmp_path / 'unlabelled')
