"""Controls: a teacher that learned nothing, and one that speaks of another image."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CLASSES as SHAPES
from tiny_training import columns, write_pictures, write_telling_network

from training.distill.controls import CONTROLS, other_images, untrained
from training.distill.outputs import Outputs
from training.distill.settings import DistillSettings, TermSettings
from training.errors import FitError
from training.fit.detector import fit_detector
from training.fit.job import FitJob
from training.fit.settings import FitSettings
from training.models import structure
from training.models.kept_channels import keep_features, keep_inputs, keep_outputs
from training.models.weights import build_network, load_network, save_weights

TINY = {
    'nc': 2,
    'backbone': [
        [-1, 1, 'Conv', [8, 3, 2]],
        [-1, 1, 'Conv', [8, 3, 2]],
        [-1, 1, 'C2f', [8, True]],
        [-1, 1, 'Conv', [16, 3, 2]],
    ],
    'head': [[[2, 3], 1, 'Detect', ['nc']]],
}
CLASSES = ('car', 'bus')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    torch.manual_seed(5)
    network = build_network(TINY, CLASSES)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 1.0
    file = tmp_path_factory.mktemp('teacher') / 'weights.pt'
    save_weights(network, file, CLASSES)
    return file


def test_a_random_teacher_is_the_same_network_with_weights_as_before_any_training(teacher):
    trained, _ = load_network(teacher)
    state = untrained(trained, CLASSES, seed=3).state_dict()
    torch.manual_seed(3)
    fresh = build_network(TINY, CLASSES).state_dict()
    assert state.keys() == trained.state_dict().keys()
    for name, value in state.items():
        assert torch.equal(value, fresh[name]), name


def test_of_a_pruned_teacher_it_has_the_channels(teacher):
    pruned, _ = load_network(teacher)
    structure.split(pruned)
    keep_outputs(pruned.model[0].conv, range(5))
    keep_features(pruned.model[0].bn, range(5))
    keep_inputs(pruned.model[1].conv, range(5))
    fresh = untrained(pruned, CLASSES, seed=3)
    assert structure.describe(fresh) == structure.describe(pruned)
    with torch.no_grad():
        assert not torch.equal(fresh(torch.ones(1, 3, 32, 32))[0], pruned.eval()(torch.ones(1, 3, 32, 32))[0])


def test_a_seed_gives_the_same_teacher_and_leaves_other_draws_alone(teacher):
    network, classes = load_network(teacher)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, same, other = (untrained(network, classes, seed).state_dict()['model.0.conv.weight'] for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@given(st.integers(2, 64), st.integers(0, 9), st.integers(0, 10**6))
def test_every_image_is_taken_once_and_never_for_itself(count, seed, step):
    order = other_images(count, seed, step)
    assert sorted(order) == list(range(count))
    assert all(place != taken for place, taken in enumerate(order))
    assert order == other_images(count, seed, step)


def test_steps_shuffle_differently():
    assert len({tuple(other_images(8, 0, step)) for step in range(50)}) == 7


def test_one_image_has_no_other():
    with pytest.raises(FitError, match='at least two images'):
        other_images(1, 0, 0)


def test_all_outputs_are_exchanged_alike():
    maps = torch.arange(6.0).reshape(3, 2, 1, 1)
    outputs = Outputs({'model.2': maps}, {'one2many': {'scores': maps[:, :, 0] * 2, 'feats': [maps, maps[:, :1]]}})
    result = outputs.part([1, 2, 0])
    assert torch.equal(result.maps['model.2'], maps[[1, 2, 0]])
    assert torch.equal(result.branches['one2many']['scores'], 2 * maps[[1, 2, 0], :, 0])
    assert torch.equal(result.branches['one2many']['feats'][1], maps[[1, 2, 0], :1])


def test_a_fit_with_controls_learns_from_another_teacher(tmp_path):
    images = write_pictures(tmp_path / 'data', 4)
    # A student that answered alike to all pictures would not notice whose answer it is compared with.
    student, teacher = (write_telling_network(tmp_path / f'{seed}.pt', images, seed) for seed in (5, 11))
    settings = FitSettings(image_size=64, batch=4, steps=1, warmup_steps=0, precision='float32')
    values = {}
    for control in CONTROLS:
        distill = DistillSettings((TermSettings('bckd', start_step=0, ramp_epochs=0),), teacher_control=control)
        job = FitJob(student, SHAPES, images, settings, teacher=teacher, distill=distill)
        values[control] = columns(fit_detector(job, tmp_path / control).log)
    losses = sorted(float(log['bckd'][0]) for log in values.values())
    assert all(second > 1.001 * first for first, second in pairwise(losses)), losses  # far beyond float noise
    assert len({log['task'][0] for log in values.values()}) == 1


def test_an_unknown_control_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"teacher_control must be one of none, random, shuffled.*'shuffled'"):
        DistillSettings((TermSettings('bckd'),), teacher_control='shufled')
