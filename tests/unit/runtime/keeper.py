"""What a session does for a command, where all is on record at once."""

from collections.abc import Callable
from pathlib import Path

from sessiond_protocol.messages import CommandStart

from sessiond.runtime.command import Command
from sessiond.store.spool import SpoolHome


class Keeper:
    def __init__(self, ended: Callable[[Command], None] = lambda command: None) -> None:
        self._ended = ended

    def record_end(self, command: Command) -> None:
        if command.silent:
            command.spool.recorded()
        else:
            command.spool.store(all=True)
        command.settled = command.silent
        command.tell_end()

    def ended(self, command: Command) -> None:
        self._ended(command)
        command.settle()

    def fell_silent(self, command: Command) -> None:
        command.settled = True
        self._ended(command)

    def stalled(self, command: Command) -> None:
        raise AssertionError(f"the disk does not take the output of {command.id}")


def make_command(directory: Path, keeper: Keeper | None = None, **fields: object) -> Command:
    request = CommandStart(**{"id": 1, "session": "s", "command": "c", "argv": ["cat"], **fields})
    home = SpoolHome(directory, command_bytes=1 << 20, session_bytes=1 << 30, ring=False)
    return Command(session_id="s", number=1, request=request, body=b"", spool=home.spool(1), keeper=keeper or Keeper())
