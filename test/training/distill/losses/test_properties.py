"""What single methods promise: to what they are blind, and what their stages leave alone."""

import pytest

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.errors import LossError  # noqa: E402

FEATURE = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('at', lambda f: 3 * f),
        ('at', lambda f: -f),
        ('nst', lambda f: f.flip(1)),
        ('cwd', lambda f: f + torch.arange(3.0)[:, None, None]),
        ('pkd', lambda f: 4 * f + 2),
        ('sp', lambda f: 3 * f),
        ('rkd', lambda f: 3 * f + 1),
        ('pkt', lambda f: 3 * f),
    ],
    ids=['at-scale', 'at-sign', 'nst-order', 'cwd-offset', 'pkd-scale', 'sp-scale', 'rkd-scale', 'pkt-scale'],
)
def test_blind_to(name, change):
    assert make(name)(change(FEATURE), FEATURE).item() == pytest.approx(0, abs=1e-5)


def test_dist_is_blind_to_what_all_probabilities_share():
    """The same order of the samples in each class is enough; KD wants the very probabilities."""
    teacher = torch.tensor([[2.0, 0], [0, 0], [-2, 0]]).double()
    student = torch.logit(0.4 + 0.2 * teacher.softmax(1)[:, 0])
    student = torch.stack([student, torch.zeros_like(student)], 1)
    assert make('dist', beta=0)(student, teacher).item() == pytest.approx(0, abs=1e-5)
    assert make('kd')(student, teacher).item() > 0.01


@pytest.mark.parametrize('temperature', [1, 2, 8])
def test_kd_keeps_its_gradient_when_the_temperature_rises(temperature):
    """For small logits T² balances what T takes: the gradient is (s − t) / classes / N at any temperature."""
    teacher = torch.tensor([[0.01, -0.01]]).double()
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    make('kd', temperature=temperature)(student, teacher).backward()
    torch.testing.assert_close(student.grad, -teacher / 2, rtol=1e-3, atol=0)


def test_dkd_with_kds_weights_is_kd():
    """KD = TCKD + (1 − p_true)·NCKD: with one sample the factor is a number."""
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64)
    p = (teacher / 4).softmax(1)[0, 2].item()
    decoupled = make('dkd', alpha=1.0, beta=1 - p)(student, teacher, torch.tensor([2]))
    torch.testing.assert_close(decoupled, make('kd')(student, teacher))


def test_dkd_refuses_labels_of_another_batch():
    with pytest.raises(LossError, match='DKD takes logits'):
        make('dkd')(torch.rand(2, 5), torch.rand(2, 5), torch.tensor([1]))


def test_rkd_of_one_sample_or_of_equal_ones_is_finite():
    assert make('rkd')(torch.rand(1, 6), torch.rand(1, 6)).item() == 0
    student = torch.ones(3, 6, requires_grad=True)
    value = make('rkd')(student, torch.rand(3, 6))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_cc_needs_neighbors():
    with pytest.raises(LossError, match='at least 2'):
        make('cc', student_features=6, teacher_features=6)(torch.rand(1, 6), torch.rand(1, 6))


def test_pkd_needs_two_values():
    with pytest.raises(LossError, match='2 positions at least'):
        make('pkd')(torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1))


@pytest.mark.parametrize('name', ['cwd', 'pkd', 'at'])
def test_losses_of_maps_refuse_vectors(name):
    with pytest.raises(LossError, match='maps'):
        make(name)(torch.rand(2, 3), torch.rand(2, 3))


def test_fsp_needs_two_layers():
    with pytest.raises(LossError, match='two or more maps'):
        make('fsp')([FEATURE], [FEATURE])


def test_ab_sees_only_the_boundary():
    """Beyond the margin on the teacher's side there is nothing to pay."""
    teacher = torch.tensor([[-0.1, 0.1]])
    assert make('ab')(torch.tensor([[-5.0, 5.0]]), teacher).item() == 0
    assert make('ab')(torch.tensor([[-0.5, 5.0]]), teacher).item() == pytest.approx(0.25 * 3 / 1000)


def test_ft_trains_its_paraphraser_in_the_first_stage_only():
    loss = make('ft', student_channels=2, teacher_channels=4)
    student, teacher = torch.rand(2, 2, 4, 4), torch.rand(2, 4, 4, 4)

    def trained():
        return {key.split('.')[0] for key, value in loss.named_parameters() if value.grad is not None}

    loss.reconstruction(teacher).backward()
    assert trained() == {'paraphraser', 'decoder'}
    loss.zero_grad()
    loss(student, teacher).backward()
    assert trained() == {'translator'}


def test_vid_begins_at_its_variance_and_learns_it():
    loss = make('vid', student_channels=3, teacher_channels=3, initial_variance=2.0)
    variance = torch.nn.functional.softplus(loss.alpha) + 1e-5
    torch.testing.assert_close(variance, torch.full_like(variance, 2.0))
    loss(FEATURE.float(), FEATURE.float()).backward()
    assert loss.alpha.grad.abs().sum() > 0
