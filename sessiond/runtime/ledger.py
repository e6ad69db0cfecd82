"""What must be on record before it is true: starts before they may run, ends before they are told.

Between the sessions and the store: a start that cannot be recorded is refused, an end that cannot is kept and tried
again, for it has happened all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import structlog

from sessiond.core.errors import RequestError
from sessiond.runtime.command import Command
from sessiond.runtime.reports import pack_result
from sessiond.store.records import ApprovalRow, SessionRow
from sessiond.store.spool import synchronise
from sessiond.store.store import Store, StoreError

log = structlog.get_logger()

RETRY_SECONDS = 0.5
"""How long what the disk refused waits for the next attempt."""


class Ledger:
    """Writes to the store, and tries again what it refused."""

    def __init__(self, store: Store, *, power: bool) -> None:
        """With `power`, what is on record has to survive the machine."""
        self._store = store
        self._power = power
        self._loop = asyncio.get_running_loop()
        self._again: dict[Command, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[None]] = set()

    def session(self, row: SessionRow) -> None:
        """Put a session's present state on record. Raises RequestError `unavailable`."""
        try:
            self._store.session(row)
        except StoreError as error:
            raise RequestError("unavailable", f"the session cannot be put on record: {error}") from error

    def note(self, row: SessionRow) -> None:
        """Put a change of a session on record that happened whether or not the record takes it."""
        try:
            self._store.session(row)
        except StoreError as error:
            log.error("a change of a session is not on record", session=row.id, error=str(error))

    def start(
        self, session: str, command: str, number: int, generation: int, body: bytes
    ) -> asyncio.Future[None] | None:
        """Put a start on record; what is returned, if anything, must be done before the command may run.

        Raises RequestError `unavailable`.
        """
        try:
            self._store.started(session, command, number, generation, body)
        except StoreError as error:
            raise RequestError("unavailable", f"nothing may run that is not on record: {error}") from error
        return self._store.durable()

    def approval(self, row: ApprovalRow) -> None:
        """Put a question to an approver on record, or what became of it. Raises RequestError `unavailable`."""
        try:
            self._store.approval(row)
        except StoreError as error:
            raise RequestError("unavailable", f"the approval cannot be put on record: {error}") from error

    def approvals(self, session: str) -> list[ApprovalRow]:
        """The questions on record about a session's commands."""
        return self._store.approvals(session)

    def find_approval(self, approval: str) -> ApprovalRow | None:
        """One question on record."""
        return self._store.find_approval(approval)

    def durable(self) -> asyncio.Future[None] | None:
        """What must be done, if anything, before what was recorded so far may have an effect."""
        return self._store.durable()

    def end(self, command: Command) -> None:
        """Put the end on record, then let the command tell it."""
        end, spool = command.end, command.spool
        if end is None:
            return
        settled = command.silent
        inline = spool.inline() if settled else None
        if inline is None:
            spool.store(all=True)
            if spool.error is not None:
                self._later(command, lambda: self.end(command))
                return
        if self._power and (files := spool.files()):
            self._run(self._end_synchronised(command, files, settled))
        else:
            self._record_end(command, inline, settled)

    async def _end_synchronised(self, command: Command, files: list[Path], settled: bool) -> None:
        try:
            await asyncio.to_thread(synchronise, files)
        except OSError as error:
            log.error("output is not on the disk yet", command=command.id, error=str(error))
            self._later(command, lambda: self.end(command))
        else:
            self._record_end(command, None, settled)

    def _record_end(self, command: Command, inline: bytes | None, settled: bool) -> None:
        end, spool = command.end, command.spool
        if end is None:
            return
        try:
            self._store.ended(
                command.session_id,
                command.id,
                state=end.event,
                result=pack_result(end.exit, end.failure),
                started=command.started,
                ended=end.at,
                output=inline or b"",
                output_end=spool.end,
                settled=settled,
            )
        except StoreError as error:
            log.error("an end is not on record yet", command=command.id, error=str(error))
            self._later(command, lambda: self.end(command))
            return
        if inline is not None:
            spool.recorded()
        command.settled = settled
        self._when_durable(command.tell_end, lambda: self._later(command, lambda: self.end(command)))

    def settle(self, command: Command) -> None:
        """An ended command has now fallen silent: put all of its output on record. A failure is tried again."""
        spool = command.spool
        spool.store(all=True)
        try:
            if spool.error is not None:
                raise StoreError(spool.error)
            self._store.settled(command.session_id, command.id, output=b"", output_end=spool.end)
        except StoreError as error:
            log.error("output is not on record yet", command=command.id, error=str(error))
            self._later(command, lambda: self.settle(command))
            return
        command.settled = True
        command.settle()

    def stalled(self, command: Command) -> None:
        """The disk does not take a command's output: let it try again."""
        if command not in self._again:
            log.error("output cannot be kept", command=command.id, error=command.spool.error)
            self._later(command, command.retry)

    def _when_durable(self, then: Callable[[], None], failed: Callable[[], None]) -> None:
        durable = self._store.durable()
        if durable is None:
            then()
            return

        def done(future: asyncio.Future[None]) -> None:
            self._tasks.discard(future)
            if future.cancelled() or future.exception() is not None:
                failed()
            else:
                then()

        self._tasks.add(durable)
        durable.add_done_callback(done)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self, command: Command, attempt: Callable[[], None]) -> None:
        self._again[command] = attempt
        if self._timer is None:
            self._timer = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        attempts, self._again = tuple(self._again.values()), {}
        for attempt in attempts:
            attempt()

    def close(self) -> None:
        """Try nothing any more. What is not on record the guests still have, for the next start."""
        if self._timer is not None:
            self._timer.cancel()
