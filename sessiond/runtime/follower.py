"""One connection's view of one command: an offset, a window, and what has been told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sessiond_protocol.messages import MAX_DATA, Exited, Failed, Gap, Message, Output

if TYPE_CHECKING:
    from sessiond.runtime.command import Command


class Sink(Protocol):
    """Where messages for one client go: its connection."""

    @property
    def writable(self) -> bool:
        """Whether more output should be sent now; when it turns true again the connection pumps its followers."""

    def send(self, message: Message) -> None:
        """Queue a message. Never blocks and never raises: a connection that is gone drops it."""

    def finished(self, follower: Follower) -> None:
        """The follower has told all that will ever be told; the sink need not remember it."""


class Follower:
    """Sends a command's output from an offset on, never more than the client's window allows."""

    __slots__ = ("_offset", "_sink", "_told", "acked", "answer", "command", "limit")

    def __init__(self, command: Command, sink: Sink, offset: int, window: int) -> None:
        self.command = command
        self._sink = sink
        self._offset = offset
        self._told = False
        self.answer: int | None = None
        """The request that the end answers."""
        self.acked = offset
        self.limit = offset + window

    def ack(self, offset: int, window: int) -> None:
        """The client has consumed up to `offset` and takes `window` more.

        An older acknowledgement than the last changes nothing.
        """
        self.acked = max(self.acked, min(offset, self._offset))
        self.limit = max(self.limit, offset + window)

    def pump(self) -> None:
        """Send what may be sent: output first, the end only after the last byte that was written before it."""
        command, spool, sink = self.command, self.command.spool, self._sink
        while sink.writable:
            if self._offset < spool.start:
                sink.send(Gap(session=command.session_id, command=command.id, start=self._offset, end=spool.start))
                self._offset = self.acked = spool.start
                self.limit = max(self.limit, self._offset)
            chunk = spool.read(self._offset, min(MAX_DATA, self.limit - self._offset))
            if chunk is None and self._offset < spool.start:
                continue  # the files went away meanwhile
            if chunk is None:
                break
            sink.send(
                Output(
                    session=command.session_id,
                    command=command.id,
                    offset=chunk.offset,
                    stream=chunk.stream,
                    data=bytes(chunk.data),
                )
            )
            self._offset = chunk.end
        if not self._told:
            self._tell_end()
        if self._told and command.silent and self._offset == spool.end:
            command.followers.pop(sink, None)
            sink.finished(self)

    def _tell_end(self) -> None:
        command = self.command
        if command.exit is not None and self._offset >= command.exit.output_bytes:
            self._sink.send(Exited(re=self.answer, session=command.session_id, command=command.id, exit=command.exit))
        elif command.failure is not None and self._offset >= command.spool.end:
            self._sink.send(Failed(session=command.session_id, command=command.id, failure=command.failure))
        else:
            return
        self._told = True
