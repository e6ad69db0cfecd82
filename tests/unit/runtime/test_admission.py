"""Spawns are rationed, first come first served, and a long command holds nobody up."""

import asyncio

from sessiond.runtime.admission import Admission, Slot


async def test_no_more_than_the_slots_run_and_the_rest_follow_in_order():
    admission, order, slots = Admission(2), [], []

    def spawn(number: int, slot: Slot) -> None:
        order.append(number)
        slots.append(slot)

    for number in range(5):
        admission.submit(lambda slot, number=number: spawn(number, slot))
    assert order == [0, 1]
    slots[0].release()
    slots[0].release()
    assert order == [0, 1, 2]
    for slot in tuple(slots):
        slot.release()
    for slot in tuple(slots):
        slot.release()
    assert order == [0, 1, 2, 3, 4]


async def test_a_slot_comes_back_by_itself():
    admission, done = Admission(1), asyncio.Event()
    admission.submit(lambda _: None)
    admission.submit(lambda _: done.set())
    assert not done.is_set()
    async with asyncio.timeout(10):
        await done.wait()


async def test_who_takes_a_slot_does_not_overtake_those_who_wait():
    admission, order = Admission(1), []
    slot = admission.take()
    assert slot is not None
    assert admission.take() is None
    admission.submit(lambda _: order.append("waited"))
    assert admission.take() is None
    slot.release()
    assert order == ["waited"]
