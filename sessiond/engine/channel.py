"""The channel of a sandbox on this host: a unix socket that the sandbox's guest dials, and on which nobody else is
heard.

Code inside the sandbox can reach the socket too. It cannot pass for the guest: the kernel tells the pid of whoever
connected (SO_PEERCRED, translated to the daemon's pid namespace), and only the sandbox's PID 1 has the right one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sessiond.engine.directory import SOCKET
from sessiond.engine.port import EngineError

log = logging.getLogger(__name__)

HELD_SECONDS = 15.0
"""How long a connection waits for the engine to tell which process is the sandbox's PID 1 (Docker: one call after
start)."""

MOST_HELD = 4
"""Connections that wait at once. The guest makes one; more are an attempt to exhaust the daemon's descriptors."""

BACKLOG = 16
"""Connections that the kernel queues before the daemon accepts them."""

ACCEPT_PAUSE_SECONDS = 1.0
"""How long accepting rests when the daemon is out of descriptors; asyncio's own servers do the same."""

PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""

START_TIME_FIELD = 22
"""In /proc/PID/stat, counted from 1 (proc(5))."""


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is no such process.

    Pid and start time together name a process for ever: a pid that is used again has a later start.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in field 2 may hold spaces and parentheses; what follows the last parenthesis is regular and begins with
    # field 3.
    return int(text.rpartition(")")[2].split()[START_TIME_FIELD - 3])


@dataclass(frozen=True, slots=True)
class _Guest:
    """The process whose connections are genuine."""

    pid: int
    started: int


class Channel:
    """Listens on one sandbox's socket and hands its guest's connections to protocols.

    `expect` names the guest; until then connections are held. A new genuine connection ends the one before it: the
    guest redials only after it gave up the old one, of which the daemon may not know yet.
    """

    def __init__(self, sandbox: str, mount: Path, link: Callable[[], asyncio.Protocol]) -> None:
        """For `sandbox`, on `mount`/channel.sock. Nothing is opened yet."""
        self.refused = 0
        """Connections that were closed because they did not come from the guest."""
        self._sandbox = sandbox
        self._mount = mount
        self._link = link
        self._listener: socket.socket | None = None
        self._guest: _Guest | None = None
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}
        self._transport: asyncio.BaseTransport | None = None
        self._handing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Create the socket, in place of one that an earlier daemon left, and listen. Needs a running loop. Raises
        EngineError."""
        path = self._mount / SOCKET
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            # Bound through the directory's descriptor: a socket's address holds 107 bytes, a state directory's path may
            # be longer.
            directory = os.open(self._mount, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
            finally:
                os.close(directory)
            path.chmod(0o666)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise EngineError(f"sandbox {self._sandbox}: cannot listen on {path}: {error.strerror or error}") from error
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def expect(self, pid: int) -> None:
        """From now on connections of this process are the guest's, and no others. Held ones are decided.

        Raises EngineError when there is no such process: the sandbox died at once.
        """
        started = start_time(pid) if pid > 0 else None
        if started is None:
            raise EngineError(
                f"sandbox {self._sandbox}: its PID 1 (pid {pid}) is not there; it died at its start,"
                " or the engine counts processes in another pid namespace than this daemon"
            )
        guest = self._guest = _Guest(pid, started)
        held, self._held = self._held, {}
        for connection, timer in held.items():
            timer.cancel()
            self._decide(connection, guest)

    def close(self) -> None:
        """Stop listening and end the connection. The socket's file stays, for the directory's owner to remove."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection, timer in self._held.items():
            timer.cancel()
            connection.close()
        self._held.clear()
        for task in self._handing:
            task.cancel()
        self._end(self._transport)
        self._transport = None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                log.warning("sandbox %s: accepting rests: %s", self._sandbox, error.strerror)
                self._rest(listener)
                return
            connection.setblocking(False)
            if self._guest is not None:
                self._decide(connection, self._guest)
            elif len(self._held) < MOST_HELD:
                loop = asyncio.get_running_loop()
                self._held[connection] = loop.call_later(HELD_SECONDS, self._give_up, connection)
            else:
                self._refuse(connection, "too many connections before the sandbox's start was complete")

    def _rest(self, listener: socket.socket) -> None:
        """Stop accepting for a while: the listener stays readable, so the loop would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _give_up(self, connection: socket.socket) -> None:
        del self._held[connection]
        self._refuse(connection, "the sandbox's start was not complete in time")

    def _decide(self, connection: socket.socket, guest: _Guest) -> None:
        """Hand the connection over if the guest made it, else refuse it."""
        pid, uid, _gid = PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        )
        if pid != guest.pid:
            self._refuse(connection, f"pid {pid} (uid {uid}) is not the guest, which is pid {guest.pid}")
        elif start_time(pid) != guest.started:
            self._refuse(connection, f"pid {pid} was the guest's, which is dead")
        else:
            task = asyncio.get_running_loop().create_task(self._hand_over(connection))
            self._handing.add(task)
            task.add_done_callback(self._handing.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        self._end(self._transport)
        self._transport = None
        try:
            self._transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._link, connection)
        except BaseException:
            connection.close()
            raise

    def _refuse(self, connection: socket.socket, why: str) -> None:
        connection.close()
        self.refused += 1
        # A program that dials in a loop must not fill the log: tell of the 1st, 2nd, 4th, 8th, ...
        if self.refused & (self.refused - 1) == 0:
            log.warning("sandbox %s: connection %d refused: %s", self._sandbox, self.refused, why)

    @staticmethod
    def _end(transport: asyncio.BaseTransport | None) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
