"""What is written when, and when chores are done."""

import asyncio

from sessiond.runtime.outbox import Outbox

DEADLINE = 10.0


class Mouth:
    def __init__(self, log: list[str], name: str) -> None:
        self._log, self._name = log, name

    def flush(self) -> None:
        self._log.append(self._name)


async def test_what_one_event_makes_is_written_when_it_has_been_dealt_with():
    outbox, log = Outbox(), []
    outbox.hold()
    outbox.add(Mouth(log, "guest"))
    outbox.add(Mouth(log, "client"))
    await asyncio.sleep(0)
    assert log == []
    outbox.flush()
    assert log == ["guest", "client"]


async def test_what_nothing_holds_leaves_in_the_next_turn():
    outbox, log = Outbox(), []
    outbox.add(Mouth(log, "guest"))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["guest"]


async def test_chores_come_after_everything_is_written_and_what_they_write_leaves_too():
    outbox, log = Outbox(), []

    def chore() -> None:
        log.append("chore")
        outbox.add(Mouth(log, "guest"))

    outbox.hold()
    outbox.afterwards(chore)
    outbox.add(Mouth(log, "client"))
    outbox.flush()
    assert log == ["client"]
    outbox.tidy()
    assert log == ["client", "chore", "guest"]


async def test_chores_do_not_wait_for_ever():
    outbox, done = Outbox(), asyncio.Event()
    outbox.afterwards(done.set)
    async with asyncio.timeout(DEADLINE):
        await done.wait()
