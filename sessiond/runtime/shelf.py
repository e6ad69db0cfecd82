"""A session's commands: those in memory, and the many that only the store still has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from sessiond_protocol.messages import CommandInfo, CommandStart

from sessiond.core.errors import RequestError
from sessiond.core.identity import same_body
from sessiond.core.paging import page
from sessiond.runtime.command import Command, End, Keeper
from sessiond.runtime.reports import unpack_result
from sessiond.runtime.tools import ALL_TOOLS, Tool, recorded_command
from sessiond.store.records import CommandRow
from sessiond.store.spool import SpoolHome
from sessiond.store.store import Store

KEPT_COMMANDS = 256
"""Ended commands of a session that stay in memory; older ones are looked up."""
KEPT_OUTPUT_BYTES = 1024**2
"""Output of ended commands of a session that stays in memory, above which the oldest are looked up."""
RECALLED_COMMANDS = 8
"""Looked-up commands of a session that stay at hand."""


class Shelf:
    """All commands that a session ever had, by their ids."""

    def __init__(
        self,
        session_id: str,
        store: Store,
        home: SpoolHome,
        keeper: Keeper,
        tools: frozenset[Tool] = ALL_TOOLS,
    ) -> None:
        self.home = home
        self.count = 0
        """Commands so far; the number of the last one."""
        self._session_id = session_id
        self._store = store
        self._keeper = keeper
        self._tools = tools
        self._present: OrderedDict[str, Command] = OrderedDict()
        self._ended: OrderedDict[str, int] = OrderedDict()
        """Ended commands in memory, in the order of their ends, with the output that they hold there."""
        self._held = 0
        self._stored: set[str] = set()
        """Ids of those that are not in memory."""
        self._recalled: OrderedDict[str, Command] = OrderedDict()

    def restore(self) -> list[Command]:
        """Take over what an earlier life of the daemon has on record; returns the commands without a settled end."""
        rows = self._store.unsettled(self._session_id)
        open_ids = {row.id for row in rows}
        for number, command_id in self._store.known(self._session_id):
            self.count = number
            if command_id not in open_ids:
                self._stored.add(command_id)
        self.home.count(frozenset(row.number for row in rows))
        for row in rows:
            self._present[row.id] = self._command(row)
        return list(self._present.values())

    def add(self, command: Command) -> None:
        """A new command, which has the next number."""
        self.count = command.number
        self._present[command.id] = command

    def take_back(self, command: Command) -> None:
        """It was never begun, and is not on record."""
        del self._present[command.id]

    def get(self, command_id: str) -> Command:
        """A command by its id, however long ago it ended. Raises RequestError `not_found`."""
        command = self._present.get(command_id) or self._recall(command_id)
        if command is None:
            raise RequestError("not_found", f"session {self._session_id} has no command {command_id}")
        return command

    def find_same(self, request: CommandStart) -> Command | None:
        """The command that the same request started before. Raises RequestError `conflict` if another one did."""
        command = self._present.get(request.command)
        if command is None and request.command in self._stored:
            command = self._recall(request.command)
        if command is not None and not same_body(command.request, request):
            raise RequestError(
                "conflict",
                f"command {request.command} was started with another body",
                "choose a new id for a new command",
            )
        return command

    def present(self) -> tuple[Command, ...]:
        """Those in memory: all that run are among them."""
        return tuple(self._present.values())

    def page(self, after: str | None, limit: int) -> tuple[list[CommandInfo], bool]:
        """Up to `limit` commands after the named one, oldest first, and whether there are more."""
        if after is not None:
            self.get(after)
        infos = self._all(after, limit + 1) if self._stored else self._in_memory(after)
        return page(infos, limit)

    def ended(self, command: Command) -> None:
        """It has ended and is on record: it may leave memory when there are many."""
        held = command.spool.in_memory
        self._held += held - self._ended.pop(command.id, 0)
        self._ended[command.id] = held
        if command.settled:
            self.home.ended(command.number, command.spool.in_files)
        while len(self._ended) > KEPT_COMMANDS or (self._held > KEPT_OUTPUT_BYTES and len(self._ended) > 1):
            oldest, held = self._ended.popitem(last=False)
            self._held -= held
            if self._present[oldest].settled:
                del self._present[oldest]
                self._stored.add(oldest)

    def _in_memory(self, after: str | None) -> Iterator[CommandInfo]:
        rest = iter(self._present.values())
        if after is not None:
            for command in rest:
                if command.id == after:
                    break
        return (command.info() for command in rest)

    def _all(self, after: str | None, limit: int) -> Iterator[CommandInfo]:
        for row in self._store.commands(self._session_id, after, limit):
            yield (self._present.get(row.id) or self._command(row)).info()

    def _recall(self, command_id: str) -> Command | None:
        command = self._recalled.get(command_id)
        if command is None and command_id in self._stored:
            row = self._store.command(self._session_id, command_id)
            if row is not None:
                command = self._recalled[command_id] = self._command(row)
                if len(self._recalled) > RECALLED_COMMANDS:
                    self._recalled.popitem(last=False)
        return command

    def _command(self, row: CommandRow) -> Command:
        request, granted = recorded_command(row.request, self._tools)
        end = None
        if row.ended is not None:
            exit, failure = unpack_result(row.result)
            end = End(row.state, row.ended, exit, failure)  # type: ignore[arg-type]
        home = self.home
        spool = home.recall(row.number, row.output, row.output_end) if row.settled else home.adopt(row.number)
        return Command.recalled(
            session_id=self._session_id,
            number=row.number,
            request=request,
            body=row.request,
            spool=spool,
            keeper=self._keeper,
            end=end,
            started=row.started,
            settled=row.settled,
            granted=granted,
        )
