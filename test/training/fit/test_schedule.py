"""Every labelled image comes once an epoch, whatever the batch, the processes that share it and the memory that lacks."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip('torch')

from training.data.augment import AugmentSettings  # noqa: E402
from training.errors import FitError  # noqa: E402
from training.fit.processes import Group  # noqa: E402
from training.fit.schedule import Schedule  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402

SETTINGS = FitSettings(batch=4, unlabelled_batch=2, steps=3, augment=AugmentSettings(close_mosaic=0.34))


def group(rank=0, size=1):
    return Group(rank, size, torch.device('cpu'))


def schedule(settings=SETTINGS, images=10, unlabelled=True, of_group=None):
    return Schedule(settings, images, unlabelled=unlabelled, group=of_group or group())


@given(
    size=st.integers(1, 3),
    share=st.integers(1, 3).map(lambda half: 2 * half),
    accumulate=st.integers(1, 3),
    first=st.integers(0, 4),
    halved=st.booleans(),
)
def test_processes_and_batches_share_the_images_of_a_step(size, share, accumulate, first, halved):
    batch = share * size
    settings = dataclasses.replace(SETTINGS, batch=batch, unlabelled_batch=0, accumulate=accumulate, steps=4)
    seen = []
    for rank in range(size):
        one = schedule(settings, of_group=group(rank, size), unlabelled=False)
        assert not halved or one.halve()
        plans = list(one.plans(first))
        assert len(plans) == (4 - first) * accumulate * (2 if halved else 1)
        seen += [position for plan in plans for position in plan.labelled]
        assert not any(plan.unlabelled for plan in plans)
    assert sorted(seen) == list(range(first * batch * accumulate, 4 * batch * accumulate))


def test_unlabelled_images_stand_beside_them_and_mosaics_end():
    plans = list(schedule().plans(1))
    assert [(list(plan.labelled), list(plan.unlabelled)) for plan in plans] == [
        ([4, 5, 6, 7], [2, 3]),
        ([8, 9, 10, 11], [4, 5]),
    ]
    assert [plan.mosaic for plan in plans] == [True, False]


@pytest.mark.parametrize(
    ('changes', 'steps'), [({}, 3), ({'steps': 0, 'epochs': 1.0}, 3), ({'steps': 0, 'epochs': 2.5, 'accumulate': 2}, 4)]
)
def test_epochs_are_rounded_up_to_steps(changes, steps):
    settings = dataclasses.replace(SETTINGS, **changes)
    found = schedule(settings)
    assert found.steps == steps
    assert found.epochs_per_step == settings.batch * settings.accumulate / 10


def test_batches_have_names_of_their_own():
    found = schedule(dataclasses.replace(SETTINGS, accumulate=2))
    assert found.names_from(1) == ['0000002', '0000003', '0000004-plain', '0000005-plain']
    assert len({found.number(step, part) for step in range(3) for part in range(2)}) == 6


def test_processes_draw_each_their_own():
    found = [schedule(of_group=group(rank, 2)).number(step, 0) for rank in range(2) for step in range(3)]
    assert len(set(found)) == 6


def test_memory_is_saved_once_and_only_where_a_batch_has_a_half():
    found = schedule()
    assert found.halve()
    assert (found.batch, found.unlabelled, found.accumulate) == (2, 1, 2)
    assert not found.halve()
    assert not schedule(dataclasses.replace(SETTINGS, unlabelled_batch=1)).halve()


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(FitError, match='unlabelled_batch 3 cannot be shared by 2 processes: choose a multiple'):
        schedule(dataclasses.replace(SETTINGS, unlabelled_batch=3), of_group=group(0, 2))
