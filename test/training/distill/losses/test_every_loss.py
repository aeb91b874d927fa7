"""What holds for every loss: a scalar, gradients where they belong, nothing at agreement, no surprises in layout or precision.

Each case says how its loss is built and called on a pair of tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from torch import Tensor  # noqa: E402

from training.distill.losses import LOSSES, DistillationLoss, make  # noqa: E402
from training.distill.losses.queries import Cells  # noqa: E402
from training.errors import LossError  # noqa: E402

LOGITS, VECTORS, MAP, SCORES, BINS = (4, 5), (4, 6), (4, 3, 6, 5), (2, 3, 7), (2, 16, 7)
BOXES = [torch.tensor([[4.0, 4, 20, 30]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 40, 48], [9, 9, 17, 17]])]
BOXES = [*BOXES, BOXES[0]]
CLASS_IDS = [0, 1, 2, 0, 1, 2, 0, 1]
LABELS = torch.tensor([0, 4, 2, 2])
CELLS = Cells(
    torch.tensor([[8.0, 8.0], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24], [24, 40]]), torch.full((7,), 16.0)
)
CELL_BOXES = torch.cat([CELLS.centers.T - 12, CELLS.centers.T + 12]).expand(2, 4, 7)


def plain(loss: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss(student, teacher)


def sequence(loss: DistillationLoss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss([student, student[..., ::2, ::2]], [teacher, teacher[..., ::2, ::2]])


@dataclass
class Case:
    """One loss.

    Attributes:
        shape: of student and teacher.
        settings: of the constructor.
        call: the loss of a pair.
        zero_at_agreement: whether s = t gives 0 (without adapters where it has any).
        more_channels: how the student's number of channels (axis 1) may differ: settings for 4 of them; None if it may not.
    """

    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    call: Callable[[DistillationLoss, Tensor, Tensor], Tensor] = plain
    zero_at_agreement: bool = True
    more_channels: dict[str, Any] | None = None


CHANNELS = {'student_channels': 3, 'teacher_channels': 3}
FOUR_CHANNELS = {'student_channels': 4, 'teacher_channels': 3}
FEATURES = {'student_features': 6, 'teacher_features': 6}
FOUR_FEATURES = {'student_features': 4, 'teacher_features': 6}
CRD_SETTINGS = {'class_ids': CLASS_IDS, 'embedding': 4, 'negatives': 3}
FGFI_SETTINGS = {'strides': [8], 'anchors': [[(16, 16), (32, 16)]]}

CASES = {
    'kd': Case(LOGITS),
    'dkd': Case(LOGITS, call=lambda loss, s, t: loss(s, t, LABELS)),
    'dist': Case(LOGITS),
    'binary_kd': Case(SCORES, call=lambda loss, s, t: loss(s, t, positives=3)),
    'crosskd': Case(SCORES, call=lambda loss, s, t: loss(s, t, positives=3)),
    'bckd': Case(SCORES, call=lambda loss, s, t: loss(s, t, positives=3)),
    'ld': Case(BINS, call=lambda loss, s, t: loss(s, t, torch.arange(14.0).reshape(2, 7))),
    'query_targets': Case(
        SCORES, call=lambda loss, s, t: loss(s, t, CELL_BOXES, CELL_BOXES, CELLS), zero_at_agreement=False
    ),
    'fitnet': Case(MAP, more_channels=FOUR_CHANNELS),
    'at': Case(MAP, more_channels={}),
    'nst': Case(MAP, more_channels={}),
    'cwd': Case(MAP),
    'pkd': Case(MAP),
    'mgd': Case(MAP, CHANNELS, zero_at_agreement=False, more_channels=FOUR_CHANNELS),
    'vid': Case(MAP, CHANNELS, zero_at_agreement=False, more_channels=FOUR_CHANNELS),
    'ft': Case(MAP, CHANNELS, zero_at_agreement=False, more_channels=FOUR_CHANNELS),
    'ab': Case(
        MAP,
        call=sequence,
        zero_at_agreement=False,
        more_channels={'student_channels': [4, 4], 'teacher_channels': [3, 3]},
    ),
    'fsp': Case(MAP, call=sequence),
    'sp': Case(VECTORS, more_channels={}),
    'rkd': Case(VECTORS, more_channels={}),
    'pkt': Case(VECTORS, more_channels={}),
    'cc': Case(VECTORS, FEATURES, zero_at_agreement=False, more_channels=FOUR_FEATURES),
    'crd': Case(
        VECTORS,
        {**FEATURES, **CRD_SETTINGS},
        call=lambda loss, s, t: loss(s, t, torch.tensor([0, 3, 5, 7])),
        zero_at_agreement=False,
        more_channels=FOUR_FEATURES,
    ),
    'fgd': Case(
        MAP,
        {'student_channels': [3], 'teacher_channels': [3], 'strides': [8]},
        call=lambda loss, s, t: loss([s], [t], BOXES),
        zero_at_agreement=False,
        more_channels={'student_channels': [4], 'teacher_channels': [3]},
    ),
    'fgfi': Case(
        MAP,
        FGFI_SETTINGS,
        call=lambda loss, s, t: loss([s], [t], BOXES),
        more_channels={'student_channels': [4], 'teacher_channels': [3]},
    ),
}
NAMES = sorted(CASES)


def build(name: str, **changes: Any) -> DistillationLoss:
    return make(name, **{**CASES[name].settings, **changes})


def pair(name: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *CASES[name].shape, generator=generator)
    return student.clone().requires_grad_(), teacher.clone().requires_grad_()


def test_no_loss_is_left_out():
    assert set(CASES) == set(LOSSES)


@pytest.mark.parametrize('name', NAMES)
def test_gradient_reaches_the_student_but_not_the_teacher(name):
    student, teacher = pair(name)
    value = CASES[name].call(build(name), student, teacher)
    assert value.shape == ()
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize('name', [name for name in NAMES if CASES[name].more_channels is not None])
def test_a_student_of_other_channels_trains_the_adapters_too(name):
    loss = build(name, **CASES[name].more_channels)
    if name == 'fgfi':
        # Weights of 1e-4 hide behind float32.
        torch.nn.init.normal_(loss.adapters[0][0].weight)
    student, teacher = pair(name)
    student = torch.cat([student, student], 1)[:, :4].detach().requires_grad_()
    CASES[name].call(loss, student, teacher).backward()
    assert student.grad.abs().sum() > 0
    first_stage = ('paraphraser', 'decoder')
    for key, parameter in loss.named_parameters():
        if not key.startswith(first_stage):
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    assert teacher.grad is None


@pytest.mark.parametrize('name', [name for name in NAMES if CASES[name].zero_at_agreement])
def test_agreement_costs_nothing_and_pulls_nowhere(name):
    student, _ = pair(name)
    student = student.detach().double().requires_grad_()
    value = CASES[name].call(build(name), student, student.detach().clone())
    value.backward()
    # DIST keeps what the authors add to the lengths, 1e-8.
    assert abs(value.item()) < 1e-6
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize('name', [name for name in NAMES if CASES[name].zero_at_agreement])
def test_disagreement_costs_something(name):
    assert CASES[name].call(build(name), *pair(name)).item() > 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_a_dead_student_gets_a_finite_gradient(name):
    """Zeros have no direction, no spread and no length, and yet nothing may become NaN."""
    _, teacher = pair(name)
    student = torch.zeros(CASES[name].shape, requires_grad=True)
    value = CASES[name].call(build(name), student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    'name', [name for name in NAMES if 'logits' in LOSSES[name].takes or len(CASES[name].shape) == 3]
)
def test_certain_logits_stay_finite(name):
    """log(softmax) of such logits is −∞; log-softmax is not."""
    student, teacher = (1e4 * value.detach() for value in pair(name))
    student.requires_grad_()
    value = CASES[name].call(build(name), student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_memory_layout_does_not_matter(name):
    student, teacher = (value.detach() for value in pair(name))
    loss = build(name)
    loss_again = copy.deepcopy(loss)
    torch.manual_seed(3)
    wanted = CASES[name].call(loss, student, teacher)
    torch.manual_seed(3)
    turned = [value.transpose(0, -1).contiguous().transpose(0, -1) for value in (student, teacher)]
    assert not turned[0].is_contiguous()
    torch.testing.assert_close(CASES[name].call(loss_again, *turned), wanted)


@pytest.mark.parametrize('name', [name for name in NAMES if not list(build(name).parameters())])
def test_half_precision_is_computed_in_single(name):
    student, teacher = (value.detach().bfloat16() for value in pair(name))
    value = CASES[name].call(build(name), student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, CASES[name].call(build(name), student.float(), teacher.float()))


@pytest.mark.parametrize(
    'name', ['kd', 'dkd', 'dist', 'bckd', 'binary_kd', 'query_targets', 'ld', 'fitnet', 'cwd', 'pkd', 'ab', 'fgfi']
)
def test_unequal_shapes_are_refused(name):
    student, teacher = pair(name)
    with pytest.raises(LossError, match='the student is'):
        CASES[name].call(build(name), student[:, :-1], teacher)


@pytest.mark.parametrize('name', ['at', 'nst', 'vid', 'ft'])
def test_a_finer_grid_is_averaged_onto_the_coarser(name):
    student, teacher = (value.detach() for value in pair(name))
    loss = build(name).eval()
    finer = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if name == 'ft':
        # A 3×3 convolution of the finer map is another thing.
        assert loss(student, finer).isfinite()
    else:
        torch.testing.assert_close(loss(student, finer), loss(student, teacher))


@pytest.mark.parametrize('name', NAMES)
def test_each_describes_itself(name):
    kind = LOSSES[name]
    assert kind.paper
    assert kind.usual.weight > 0
    for heading in ('Shapes:', 'Example:'):
        assert heading in kind.__doc__
