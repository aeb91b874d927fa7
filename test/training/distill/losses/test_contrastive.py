"""CRD's negatives, its banks and their resumption."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.errors import LossError  # noqa: E402

CLASS_IDS = [7, 1, 7, 3, 1, 7, 3, 7, 1, 7]


def crd(**changes):
    torch.manual_seed(7)
    settings_ = {'student_features': 5, 'teacher_features': 6, 'embedding': 4, 'negatives': 4, 'class_ids': CLASS_IDS}
    return make('crd', **{**settings_, **changes})


@settings(max_examples=60, deadline=None)
@given(
    class_ids=st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(lambda ids: len(set(ids)) > 1),
    negatives=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_negatives_are_of_other_classes_and_repeat_only_where_they_must(class_ids, negatives, seed):
    loss = crd(class_ids=class_ids, negatives=negatives, seed=seed)
    indices = torch.arange(len(class_ids))
    candidates = loss.candidates(indices)
    assert candidates.shape == (len(class_ids), 1 + negatives)
    for index, row in enumerate(candidates.tolist()):
        assert row[0] == index
        assert all(class_ids[other] != class_ids[index] for other in row[1:])
        if sum(other != class_ids[index] for other in class_ids) >= negatives:
            assert len(set(row[1:])) == negatives


def test_of_a_large_set_negatives_are_drawn_without_a_permutation(monkeypatch):
    """At ImageNet's size: a permutation for each sample took 29 s a batch of 256."""
    class_ids = torch.arange(1_281_167) % 1000
    loss = crd(class_ids=class_ids, negatives=16384, embedding=1)
    monkeypatch.setattr(torch, 'randperm', None)
    for index, row in zip((5, 1_281_166), loss.candidates(torch.tensor([5, 1_281_166])), strict=True):
        assert int(row[0]) == index
        assert len(row.unique()) == 16385
        assert not bool((class_ids[row[1:]] == class_ids[index]).any())


def test_every_sample_of_other_classes_is_drawn():
    loss = crd(negatives=2)
    drawn = {int(k) for _ in range(60) for k in loss.candidates(torch.tensor([0]))[0, 1:]}
    assert drawn == {index for index, class_id in enumerate(CLASS_IDS) if class_id != 7}


def batches(count):
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        yield (
            torch.rand(3, 5, generator=generator),
            torch.rand(3, 6, generator=generator),
            torch.randperm(len(CLASS_IDS), generator=generator)[:3],
        )


def run(loss, steps):
    """Train the heads; the losses of the steps."""
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    values = []
    for batch in steps:
        optimizer.zero_grad()
        value = loss(*batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def test_a_resumed_run_equals_an_uninterrupted_one():
    steps = list(batches(6))
    whole = crd()
    wanted = run(whole, steps)

    first = crd()
    assert run(first, steps[:3]) == wanted[:3]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    # Another seed: nothing of the second process's own beginnings may show.
    second = crd(seed=99)
    torch.manual_seed(99)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.normalizers.equal(first.normalizers)
    assert second.student_bank.equal(first.student_bank)
    assert second.teacher_bank.equal(first.teacher_bank)
    assert run(second, steps[3:]) == wanted[3:]
    assert second.student_bank.equal(whole.student_bank)


def test_the_normalizers_are_those_of_the_first_batch():
    loss = crd()
    steps = list(batches(3))
    run(loss, steps[:1])
    first = loss.normalizers.clone()
    assert (first > 0).all()
    run(loss, steps[1:])
    assert loss.normalizers.equal(first)


def test_a_row_of_the_bank_moves_half_way_and_keeps_length_one():
    loss = crd()
    before = loss.student_bank.clone()
    student, teacher, _ = next(batches(1))
    loss(student, teacher, torch.tensor([4, 0, 9]))
    with torch.no_grad():
        embedded = torch.nn.functional.normalize(loss.student_head(student))
    wanted = torch.nn.functional.normalize(0.5 * before[[4, 0, 9]] + 0.5 * embedded)
    torch.testing.assert_close(loss.student_bank[[4, 0, 9]], wanted)
    untouched = [1, 2, 3, 5, 6, 7, 8]
    assert loss.student_bank[untouched].equal(before[untouched])


def test_banks_begin_uniform_within_their_bound():
    loss = crd(embedding=48, class_ids=[0, 1] * 50)
    assert 0.9 / 4 < loss.student_bank.abs().max().item() <= 1 / 4
    assert not loss.student_bank.equal(loss.teacher_bank)


def test_nothing_moves_in_evaluation():
    loss = crd().eval()
    before = loss.state_dict()
    before = {key: value.clone() for key, value in before.items() if 'bank' in key or 'normalizers' in key}
    loss(*next(batches(1)))
    for key, value in before.items():
        assert loss.state_dict()[key].equal(value)


def test_both_heads_are_trained_and_the_teacher_is_not():
    loss = crd()
    student, teacher, indices = next(batches(1))
    teacher.requires_grad_()
    loss(student, teacher, indices).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert teacher.grad is None


def test_an_index_outside_the_training_set_is_refused():
    student, teacher, _ = next(batches(1))
    with pytest.raises(LossError, match='go from 0 to 9, not to 10'):
        crd()(student, teacher, torch.tensor([0, 1, 10]))
