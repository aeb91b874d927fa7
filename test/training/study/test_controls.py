"""Controls: a teacher that learned nothing, and one that speaks of another image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.errors import StudyError
from training.models.weights import build_network, load_network, save_weights
from training.study.controls import other_images, random_teacher, shuffled, untrained

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


def test_a_random_teacher_is_the_same_network_with_weights_as_before_any_training(teacher, tmp_path):
    random_teacher(teacher, tmp_path / 'random.pt', seed=3)
    (network, classes), (trained, _) = load_network(tmp_path / 'random.pt'), load_network(teacher)
    torch.manual_seed(3)
    fresh = build_network(TINY, CLASSES).state_dict()
    assert classes == CLASSES
    assert network.state_dict().keys() == trained.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name]), name


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
    with pytest.raises(StudyError, match='at least two images'):
        other_images(1, 0, 0)


def test_all_outputs_are_shuffled_alike():
    maps = torch.arange(6.0).reshape(3, 2)
    outputs = {'levels': [maps, maps[:, :1]], 'head': (maps * 2, None)}
    result = shuffled(outputs, [1, 2, 0])
    assert torch.equal(result['levels'][0], maps[[1, 2, 0]])
    assert torch.equal(result['levels'][1], maps[[1, 2, 0], :1])
    assert torch.equal(result['head'][0], 2 * maps[[1, 2, 0]])
    assert result['head'][1] is None
    assert torch.equal(outputs['levels'][0], torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize('output', [torch.zeros(4, 2), torch.tensor(1.0)])
def test_an_output_of_another_batch_is_refused(output):
    with pytest.raises(StudyError, match='not of a batch of 3'):
        shuffled([output], [1, 2, 0])
