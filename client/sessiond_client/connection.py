"""One connection: requests and their replies, and what the daemon sends unasked, to where it belongs.

Whatever arrives is handled in the call that brings it. A `Connection` knows sessions and commands only as keys, so that
their objects outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from pydantic import ValidationError
from sessiond_protocol import messages
from sessiond_protocol.codec import decode_server, encode
from sessiond_protocol.errors import LocalProtocolError, RemoteProtocolError
from sessiond_protocol.messages import PROTOCOL_VERSION

from sessiond_client.address import Address
from sessiond_client.errors import (
    BusyError,
    ConnectionLostError,
    DeadlineError,
    ProtocolViolationError,
    RemoteError,
    SessiondError,
    TransportError,
    UsageError,
    VersionError,
    remote_error,
)
from sessiond_client.transport import Transport, open_transport
from sessiond_client.version import __version__

_MAX_PENDING = 65_536
"""Requests without a reply yet; also bounds those that nobody waits for any more."""

CommandEvent = messages.Output | messages.Gap | messages.Exited | messages.Failed | messages.StdinAck
Reply = (
    messages.Welcome
    | messages.SessionReply
    | messages.SessionsReply
    | messages.CommandReply
    | messages.CommandsReply
    | messages.Started
    | messages.Ok
    | messages.Pong
)
OnAnswer = Callable[["Reply | SessiondError"], None]
M = TypeVar("M", bound=messages.Message)
R = TypeVar("R", bound=Reply)


class Follower(Protocol):
    """Who gets what the daemon sends about one command."""

    def on_detached(self) -> None:
        """Take note that nothing more will come, because the session is not followed any more."""

    def on_event(self, event: CommandEvent) -> None:
        """Take an event. Raises ProtocolViolationError for one that cannot be."""

    def on_error(self, error: RemoteError) -> None:
        """Take an error that answers no request."""

    def on_lost(self, reason: TransportError) -> None:
        """Take note that nothing more will come over this connection."""


class Listener(Protocol):
    """Who gets the events of one session."""

    def on_session(self, event: messages.SessionEvent) -> None:
        """Take the session's new state."""

    def on_error(self, error: RemoteError) -> None:
        """Take an error that answers no request."""

    def on_lost(self, reason: TransportError) -> None:
        """Take note that nothing more will come over this connection."""


def build(model: Callable[..., M], **fields: Any) -> M:
    """A message from what the caller gave. Raises UsageError, which names the field and not its value."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: {first['msg']}" if where else first["msg"]) from None


class Connection:
    """One open connection."""

    def __init__(self, request_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Transport
        self.timeout = request_timeout
        """Seconds that the daemon has to answer."""
        self._pending: dict[int, tuple[OnAnswer | None, asyncio.TimerHandle | None]] = {}
        self._next_request = 1
        self._followers: dict[tuple[str, str], Follower] = {}
        self._listeners: dict[str, weakref.WeakSet[Listener]] = {}
        self._muting: set[tuple[str, str]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._lost: TransportError | None = None
        self.welcome: messages.Welcome
        """What the daemon said of itself."""

    @classmethod
    async def open(
        cls, address: Address, token: str | None, *, connect_timeout: float, request_timeout: float
    ) -> Connection:
        """Connect, and agree on the protocol's version."""
        connection = cls(request_timeout)
        connection._transport = await open_transport(
            address, token, connection._on_message, connection._on_lost, connect_timeout
        )
        try:
            connection.welcome = await connection.request(
                messages.Welcome,
                messages.Hello,
                version=PROTOCOL_VERSION,
                client=f"sessiond-client/{__version__} python",
            )
            if connection.welcome.version != PROTOCOL_VERSION:
                raise VersionError(
                    "version",
                    f"the daemon at {address} speaks protocol version {connection.welcome.version}, "
                    f"this client {PROTOCOL_VERSION}",
                    "install a client and a daemon of the same version",
                )
        except BaseException:
            await connection._transport.abort()
            raise
        return connection

    @property
    def lost(self) -> TransportError | None:
        """Why this connection is no more; None while it is."""
        return self._lost

    # --- requests

    def ask(
        self,
        on_answer: OnAnswer,
        model: Callable[..., messages.Message],
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> None:
        """Send a request. `on_answer` is called once, with the reply or with the error that came instead.

        Without a reply within `deadline` seconds (the connection's own when None; inf for no limit) that is it.
        """
        self._check_alive()
        if len(self._pending) >= _MAX_PENDING:
            raise BusyError("busy", f"{_MAX_PENDING} requests have no reply yet", "send fewer at once")
        number = self._next_request
        self.send(build(model, id=number, **fields))
        self._next_request = number + 1
        seconds = self.timeout if deadline is None else deadline
        timer = None if seconds == math.inf else self._loop.call_later(seconds, self._expire, number, seconds)
        self._pending[number] = on_answer, timer

    def submit(
        self, model: Callable[..., messages.Message], *, deadline: float | None = None, **fields: Any
    ) -> asyncio.Future[Reply]:
        """Send a request; the future gets the reply, or the error that came instead. It may be cancelled."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def on_answer(answer: Reply | SessiondError) -> None:
            if future.done():
                return
            if isinstance(answer, SessiondError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.ask(on_answer, model, deadline=deadline, **fields)
        return future

    async def request(
        self,
        reply: type[R],
        model: Callable[..., messages.Message],
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> R:
        """Send a request and wait for its reply."""
        await self.drain()
        return expect(reply, await self.submit(model, deadline=deadline, **fields))

    async def answer_or_undo(self, request: asyncio.Future[Reply], undo: Callable[[], Awaitable[object]]) -> Reply:
        """The reply to a request. When the caller is cancelled or it comes too late, `undo` in the background."""
        try:
            return await asyncio.shield(request)
        except (asyncio.CancelledError, DeadlineError):

            async def wait_and_undo() -> None:
                await asyncio.wait((request,))
                await undo()

            self.errand(wait_and_undo)
            raise

    def send(self, message: messages.Message) -> None:
        """Send a message that has no reply, or whose reply is somebody else's business."""
        self._check_alive()
        try:
            frame = encode(cast("messages.ClientMessage", message))
        except LocalProtocolError as error:
            raise UsageError(str(error)) from error
        self._transport.send(frame)

    async def drain(self) -> None:
        """Wait while the daemon does not take what was sent, at most the connection's deadline."""
        if not self._transport.congested:
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self._transport.drain()
        except TimeoutError:
            raise DeadlineError(f"the daemon takes nothing any more; waited {self.timeout:g} s") from None

    def errand(self, do: Callable[[], Awaitable[object]]) -> None:
        """Do something in the background that nobody waits for and whose failure changes nothing."""
        if self._lost is None:
            task = self._loop.create_task(_quietly(do))
            self._errands.add(task)
            task.add_done_callback(self._errands.discard)

    def _check_alive(self) -> None:
        if self._lost is not None:
            raise _again(self._lost)

    # --- who gets what

    def follow(self, key: tuple[str, str], follower: Follower) -> None:
        """Send what arrives about the command `key` to `follower`."""
        if key in self._followers:
            raise UsageError(f"command {key[1]} is followed already on this connection")
        self._followers[key] = follower

    def unfollow(self, key: tuple[str, str], follower: Follower) -> None:
        """Stop it."""
        if self._followers.get(key) is follower:
            del self._followers[key]

    def detached(self, session: str) -> None:
        """The daemon sends no more of `session` and its commands."""
        for key, follower in list(self._followers.items()):
            if key[0] == session:
                follower.on_detached()

    def listen(self, session: str, listener: Listener) -> None:
        """Send the events of `session` to `listener`, for as long as it is used elsewhere."""
        self._listeners.setdefault(session, weakref.WeakSet()).add(listener)

    # --- the end

    async def close(self) -> None:
        """Finish the errands, say goodbye, and end the connection. All of it has a deadline."""
        if self._errands:
            await asyncio.wait(set(self._errands), timeout=self.timeout)
        for task in set(self._errands):
            task.cancel()
        await self._transport.close()

    def _on_lost(self, reason: TransportError) -> None:
        self._lost = reason
        pending, self._pending = self._pending, {}
        for on_answer, timer in pending.values():
            if timer is not None:
                timer.cancel()
            if on_answer is not None:
                on_answer(_again(reason))
        followers, self._followers = self._followers, {}
        for follower in followers.values():
            follower.on_lost(_again(reason))
        listeners, self._listeners = self._listeners, {}
        for group in listeners.values():
            for listener in group:
                listener.on_lost(_again(reason))

    # --- what arrives

    def _on_message(self, data: bytes) -> None:
        try:
            message = decode_server(data)
        except RemoteProtocolError as error:
            self._violated(f"the daemon sent what is no message: {error}", error.close_code)
            return
        try:
            if isinstance(message, CommandEvent):
                follower = self._followers.get((message.session, message.command))
                if isinstance(message, messages.Exited) and message.re is not None:
                    self._take_pending(message.re)
                if follower is not None:
                    follower.on_event(message)
                elif isinstance(message, messages.Output):
                    self._mute((message.session, message.command))
            elif isinstance(message, messages.SessionEvent):
                for listener in self._listeners.get(message.session.session, ()):
                    listener.on_session(message)
                if message.session.state == "closed":
                    self._listeners.pop(message.session.session, None)
            elif isinstance(message, messages.Error):
                self._on_error(message)
            else:
                self._answer(message.re, message)
        except ProtocolViolationError as error:
            self._violated(str(error), 1002)

    def _answer(self, number: int, answer: Reply | SessiondError) -> None:
        on_answer = self._take_pending(number)
        if on_answer is not None:
            on_answer(answer)

    def _take_pending(self, number: int) -> OnAnswer | None:
        """Who waits for the answer to request `number`, from now on nobody."""
        if number not in self._pending:
            raise ProtocolViolationError(f"the daemon answered request {number}, which is not open")
        on_answer, timer = self._pending.pop(number)
        if timer is not None:
            timer.cancel()
        return on_answer

    def _expire(self, number: int, seconds: float) -> None:
        on_answer, _ = self._pending[number]
        self._pending[number] = None, None  # The reply may still come.
        if on_answer is not None:
            on_answer(DeadlineError(f"the daemon did not answer within {seconds:g} s"))

    def _on_error(self, message: messages.Error) -> None:
        error = remote_error(message)
        if message.re is not None:
            self._answer(message.re, error)
        elif message.session is None:
            self._transport.expect_end(ConnectionLostError(f"the daemon ended the connection: {message.message}"))
        elif message.command is None:
            for listener in self._listeners.get(message.session, ()):
                listener.on_error(error)
        else:
            follower = self._followers.get((message.session, message.command))
            if follower is not None:
                follower.on_error(error)

    def _mute(self, key: tuple[str, str]) -> None:
        """Nobody reads this output: let no more of it come, for unread output may hold up who writes it."""
        if key in self._muting or len(self._pending) >= _MAX_PENDING:
            return
        self._muting.add(key)
        self.ask(
            lambda _: self._muting.discard(key),
            messages.CommandFollow,
            deadline=math.inf,
            session=key[0],
            command=key[1],
            window=0,
        )

    def _violated(self, message: str, code: int) -> None:
        self._transport.fail(ProtocolViolationError(message), code)


def expect(reply: type[R], message: Reply) -> R:
    """The message, if it is of the type that answers the request."""
    if not isinstance(message, reply):
        raise ProtocolViolationError(f"the daemon sent {message.type!r} to answer another request")
    return message


def _again(reason: TransportError) -> TransportError:
    """The same error once more: each waiter gets its own, with its own traceback."""
    return type(reason)(str(reason))


async def _quietly(do: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(SessiondError):
        await do()
