"""Adapters between the student's and the teacher's channels."""

import pytest

torch = pytest.importorskip('torch')

from training.distill.adapters import IndexMatched, make_adapter  # noqa: E402
from training.errors import LossError  # noqa: E402


@pytest.mark.parametrize(
    ('kind', 'layers'),
    [
        ('conv', ['Conv2d']),
        ('conv_bn', ['Conv2d', 'BatchNorm2d']),
        ('conv_bn_relu', ['Conv2d', 'BatchNorm2d', 'ReLU']),
    ],
)
def test_convolutions_bring_maps_to_the_teachers_channels(kind, layers):
    adapter = make_adapter(kind, 3, 5)
    assert [type(layer).__name__ for layer in adapter] == layers
    assert adapter(torch.rand(2, 3, 4, 6)).shape == (2, 5, 4, 6)


def test_a_linear_adapter_takes_vectors():
    assert make_adapter('linear', 3, 5)(torch.rand(2, 3)).shape == (2, 5)


def test_identity_changes_nothing_and_has_nothing_to_train():
    adapter = make_adapter('identity', 3, 3)
    feature = torch.rand(2, 3, 4, 6)
    assert adapter(feature) is feature
    assert not list(adapter.parameters())


@pytest.mark.parametrize(
    ('kind', 'message'),
    [('identity', 'has 3 channels and the teacher 5: choose an adapter'), ('mlp', "no adapter 'mlp'; adapters are")],
)
def test_what_cannot_be_made_is_refused(kind, message):
    with pytest.raises(LossError, match=message):
        make_adapter(kind, 3, 5)


@pytest.mark.parametrize('kept', [[], [1, 1], [-1, 0], [[0, 1]]])
def test_kept_channels_are_different_indices(kept):
    with pytest.raises(LossError, match='different indices'):
        IndexMatched(kept)


def test_kept_channels_are_saved_with_the_loss():
    adapter = IndexMatched([0, 1, 2])
    adapter.load_state_dict(IndexMatched([4, 0, 3]).state_dict())
    teacher = torch.rand(2, 5, 3, 3)
    assert adapter(teacher).equal(teacher[:, [4, 0, 3]])
