"""Requests that wait for their answers, over as many connections as that takes.

What becomes of a request without an answer when its connection is lost is a matter of what it asks for:

- Most can be sent again: the names of sessions and commands are the client's, so what was done is not done twice.
- A signal would be sent twice, so its sender is told that nobody knows; but SIGKILL twice kills no more than once.
- The start of a command that has been heard of is over: its output goes on by `command.follow`.
- What was only asked for the sake of one connection is forgotten with it.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass

from sessiond_protocol import messages

from sessiond_client.errors import ConnectionLostError, DeadlineError, ProtocolViolationError, SessiondError
from sessiond_client.roles import OnAnswer


@dataclass(slots=True)
class Request:
    """One request, and who wants the answer."""

    message: messages.Message
    frame: bytes
    on_answer: OnAnswer | None
    seconds: float
    """For the answer. They pass while there is a connection."""
    unwanted: Callable[[], bool] | None = None
    """Whether nobody waits for the answer any more."""
    once: bool = False
    """Whether it concerns one connection only."""
    sent: bool = False
    passed: float = 0.0
    """Seconds that it waited over earlier connections."""
    timer: asyncio.TimerHandle | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the answer."""
        return self.on_answer is not None and not (self.unwanted is not None and self.unwanted())

    @property
    def repeatable(self) -> bool:
        """Whether it does nothing more when it comes twice."""
        message = self.message
        return not isinstance(message, messages.CommandSignal) or message.signal == signal.SIGKILL


class Requests:
    """The requests without an answer yet, by their numbers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Request] = {}

    def __len__(self) -> int:
        """How many there are, those included that nobody waits for any more."""
        return len(self._pending)

    def add(self, number: int, request: Request) -> None:
        """Take a request that is to be sent."""
        self._pending[number] = request

    def send(self, number: int, send: Callable[[bytes], None]) -> None:
        """Send a request, and let its time run."""
        request = self._pending[number]
        send(request.frame)
        request.sent = True
        if request.seconds != math.inf:
            request.timer = self._loop.call_later(request.seconds - request.passed, self._expire, number)

    def take(self, number: int) -> Request:
        """The request that is answered. Raises ProtocolViolationError when there is none."""
        request = self._pending.pop(number, None)
        if request is None or not request.sent:
            raise ProtocolViolationError(f"the daemon answered request {number}, which is not open")
        if request.timer is not None:
            request.timer.cancel()
        return request

    def extend(self, number: int, seconds: float) -> None:
        """Wait `seconds` more for an answer: the daemon says that it takes so long. Raises ProtocolViolationError."""
        request = self._pending.get(number)
        if request is None or not request.sent or not isinstance(request.message, messages.CommandStart):
            raise ProtocolViolationError(f"the daemon says that request {number} waits, which is not open")
        if request.timer is not None:
            left = request.timer.when() - self._loop.time()
            request.timer.cancel()
            request.seconds += seconds
            request.timer = self._loop.call_later(left + seconds, self._expire, number)

    def interrupt(self) -> None:
        """The connection is lost: keep what may be sent again, and tell those whose requests may not."""
        for number, request in list(self._pending.items()):
            if request.timer is not None:
                request.passed = request.seconds - (request.timer.when() - self._loop.time())
                request.timer.cancel()
                request.timer = None
            if request.once or not request.wanted:
                del self._pending[number]
            elif request.sent and not request.repeatable:
                del self._pending[number]
                if request.on_answer is not None:
                    request.on_answer(
                        ConnectionLostError("the connection was lost: the signal may have been sent, or not")
                    )
            request.sent = False

    def resume(self, send: Callable[[bytes], None], superseded: Callable[[messages.Message], bool]) -> None:
        """Send over a new connection what waits to be sent, in its order, unless it is superseded."""
        for number, request in list(self._pending.items()):
            if request.sent:
                continue
            if not request.wanted or superseded(request.message):
                del self._pending[number]
            else:
                self.send(number, send)

    def fail(self, error: Callable[[], SessiondError]) -> None:
        """Nothing will be answered any more."""
        pending, self._pending = self._pending, {}
        for request in pending.values():
            if request.timer is not None:
                request.timer.cancel()
            if request.on_answer is not None:
                request.on_answer(error())

    def _expire(self, number: int) -> None:
        request = self._pending[number]
        on_answer, request.on_answer, request.timer = request.on_answer, None, None  # The reply may still come.
        if on_answer is not None:
            on_answer(DeadlineError(f"the daemon did not answer within {request.seconds:g} s"))
