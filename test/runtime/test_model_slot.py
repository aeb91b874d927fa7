"""Models are exchanged between frames, closed when no frame is in them, and left behind when a frame hangs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kd_perception.runtime.model_slot import ModelSlot


class Model:
    """Remembers whether it was closed, and objects to being closed in a frame."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.in_use = False
        self.closed = 0

    def close(self) -> None:
        assert not self.in_use
        self.closed += 1


def slot_with(model: Model) -> ModelSlot[Model]:
    slot: ModelSlot[Model] = ModelSlot()
    slot.exchange(model, lambda: None)
    return slot


def test_an_idle_slot_exchanges_at_once():
    old, new, installed = Model(1), Model(2), []
    slot = slot_with(old)
    slot.exchange(new, lambda: installed.append(slot.current))
    assert (slot.current, installed, old.closed, new.closed) == (new, [new], 1, 0)


def test_a_frame_keeps_its_model_and_the_next_one_gets_the_new():
    old, new, events = Model(1), Model(2), []
    slot = slot_with(old)
    with slot.frame() as model:
        slot.exchange(new, lambda: events.append('installed'))
        assert (model, slot.current, old.closed, events) == (old, old, 0, [])
    assert (slot.current, old.closed, events) == (new, 1, ['installed'])


def test_of_two_that_wait_the_newer_is_installed_and_the_other_closed():
    first, second, installed = Model(2), Model(3), []
    slot = slot_with(Model(1))
    with slot.frame():
        slot.exchange(first, lambda: installed.append(2))
        slot.exchange(second, lambda: installed.append(3))
        assert first.closed == 1
    assert (slot.current, installed) == (second, [3])


def test_a_frame_that_hangs_is_abandoned_with_its_model_and_its_end_changes_nothing():
    stuck, new = Model(1), Model(2)
    slot = slot_with(stuck)
    with slot.frame():
        slot.abandon()
        assert slot.current is None
        slot.exchange(new, lambda: None)
        assert slot.current is new
    assert (slot.current, stuck.closed, new.closed) == (new, 0, 0)


def test_abandoning_installs_what_waited():
    new = Model(2)
    slot = slot_with(Model(1))
    with slot.frame():
        slot.exchange(new, lambda: None)
        slot.abandon()
        assert slot.current is new


@given(st.lists(st.sampled_from(['begin', 'end', 'exchange']), max_size=40))
def test_whatever_the_order_every_model_but_the_last_is_closed_once(steps):
    models = [Model(0)]
    slot, frame = slot_with(models[0]), None
    for step in steps:
        if step == 'begin' and frame is None:
            frame = slot.frame()
            lent = frame.__enter__()
            assert lent is slot.current
            lent.in_use = True
        elif step == 'end' and frame is not None:
            lent.in_use = False
            frame.__exit__(None, None, None)
            frame = None
            assert slot.current is models[-1]
        elif step == 'exchange':
            models.append(Model(len(models)))
            slot.exchange(models[-1], lambda: None)
    if frame is not None:
        lent.in_use = False
        frame.__exit__(None, None, None)
    slot.clear()
    assert [model.closed for model in models] == [1] * len(models)
