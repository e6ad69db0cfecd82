"""The way to the daemon: one connection at a time, and another one when it is lost.

A `Link` owns what must outlive a connection: requests without an answer, who follows which command and session. When
the connection is lost it dials again, with growing pauses drawn by lot, for `reconnect_timeout` seconds; then all that
waits hears that it is over. A new connection takes up, in this order: the sessions that were attached, the commands
that were followed, each at its offset, and the requests (see `requests`). The daemon acts in that order, too.

There is no coming back from a refusal (credentials, version), from a broken protocol, and after `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sessiond_protocol import messages

from sessiond_client.backoff import Backoff
from sessiond_client.connection import Connection
from sessiond_client.errors import (
    BusyError,
    ConnectionLostError,
    DeadlineError,
    ProtocolViolationError,
    RemoteError,
    SessiondError,
    UnauthorizedError,
    UsageError,
    VersionError,
    again,
    remote_error,
)
from sessiond_client.requests import Request, Requests
from sessiond_client.roles import CommandEvent, Follower, Listener, OnAnswer, R, Reply, Watcher, build, encoded, expect

_MAX_PENDING = 65_536
"""Requests without a reply yet; also bounds those that nobody waits for any more."""
_SETTLED = 5.0
"""A connection that lasted so many seconds, or over which something came, begins a new count of attempts."""

_BEGINS = messages.CommandStart | messages.ToolStart | messages.CommandFollow
"""Requests after which the daemon sends a command's output."""

Dial = Callable[[], Awaitable[Connection]]
log = logging.getLogger("sessiond_client")


class Attachment(NamedTuple):
    """How a session is attached, to attach it the same way again."""

    mode: str
    epoch: int | None
    """Of a writer: by it the daemon tells whether another one has taken the session over since."""


class Link:
    """Requests and their replies, and what the daemon sends unasked, to where it belongs."""

    def __init__(
        self,
        connection: Connection,
        dial: Dial,
        *,
        request_timeout: float,
        reconnect_timeout: float,
        backoff: Backoff | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._backoff = backoff or Backoff()
        self.timeout = request_timeout
        """Seconds that the daemon has to answer."""
        self.reconnect_timeout = reconnect_timeout
        """Seconds that a lost connection may take to come back."""
        self.reconnects = 0
        """How often it came back."""
        self._requests = Requests()
        self._next_request = 1
        self._followers: dict[tuple[str, str], Follower] = {}
        self._listeners: dict[str, weakref.WeakSet[Listener]] = {}
        self._attached: dict[str, Attachment] = {}
        self._approver: str | None = None
        """The token of an approver."""
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._muting: set[tuple[str, str]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._connection: Connection | None = None
        self._settled = asyncio.Event()
        """Set but while a lost connection may come back."""
        self._reconnecting: asyncio.Task[None] | None = None
        self._closing = False
        self._lost: SessiondError | None = None
        self._since = self._outage = self._loop.time()
        self._heard = False
        self._take(connection)

    @property
    def lost(self) -> SessiondError | None:
        """Why there is no connection any more, and will be none; None as long as there may be one."""
        return self._lost

    # --- requests

    def ask(
        self,
        on_answer: OnAnswer,
        model: Callable[..., messages.Message],
        *,
        deadline: float | None = None,
        unwanted: Callable[[], bool] | None = None,
        once: bool = False,
        **fields: Any,
    ) -> None:
        """Send a request. `on_answer` is called once, with the reply or with the error that came instead.

        Without a reply within `deadline` seconds of connection (the link's own when None; inf for no limit) that is
        it. With `once` it concerns this connection only, and `on_answer` is not called when that is lost.
        """
        self._check_alive()
        if len(self._requests) >= _MAX_PENDING:
            raise BusyError("busy", f"{_MAX_PENDING} requests have no reply yet", "send fewer at once")
        number = self._next_request
        message = build(model, id=number, **fields)
        seconds = self.timeout if deadline is None else deadline
        self._requests.add(number, Request(message, encoded(message), on_answer, seconds, unwanted, once))
        self._next_request = number + 1
        if self._connection is not None:
            self._requests.send(number, self._connection.send)

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

        self.ask(on_answer, model, deadline=deadline, unwanted=future.cancelled, **fields)
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
        """Send a message that has no reply.

        Without a connection it is dropped: the follower whose message it is repeats what is owed over the next one.
        """
        self._check_alive()
        frame = encoded(message)
        if self._connection is not None:
            self._connection.send(frame)

    async def drain(self) -> None:
        """Wait until there is a connection and the daemon takes what is sent, at most the link's deadline."""
        await self._settled.wait()
        connection = self._connection
        if connection is None or not connection.congested:
            return
        try:
            async with asyncio.timeout(self.timeout):
                await connection.drain()
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
            raise again(self._lost)

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

    async def enter(self, token: str) -> None:
        """Become an approver, on this connection and on those that come after it."""
        await self.request(messages.Ok, messages.ApproverEnter, token=token)
        self._approver = token

    def watch(self, watcher: Watcher) -> None:
        """Send the events of questions to approvers to `watcher`, for as long as it is used elsewhere."""
        self._watchers.add(watcher)

    # --- one connection after the other

    def _take(self, connection: Connection) -> None:
        self._connection, self.welcome = connection, connection.welcome
        self._since, self._heard = self._loop.time(), False
        self._settled.set()
        connection.attend(self._on_message, self._on_lost)

    def _on_lost(self, reason: SessiondError) -> None:
        connection, self._connection = self._connection, None
        if self._closing or not self.reconnect_timeout or connection is None or connection.final:
            self._end(reason)
            return
        log.debug("connection lost: %s", reason)
        now = self._loop.time()
        if self._heard or now - self._since >= _SETTLED:
            self._backoff.reset()
            self._outage = now
        self._settled.clear()
        self._muting.clear()
        self._requests.interrupt()
        self._reconnecting = self._loop.create_task(self._reconnect(reason))

    async def _reconnect(self, reason: SessiondError) -> None:
        cause = reason
        try:
            async with asyncio.timeout_at(self._outage + self.reconnect_timeout):
                while True:
                    await asyncio.sleep(self._backoff.pause())
                    try:
                        connection = await self._dial()
                        break
                    except (UnauthorizedError, VersionError, ProtocolViolationError) as refusal:
                        log.debug("connection refused: %s", refusal)
                        self._end(refusal)
                        return
                    except SessiondError as error:
                        log.debug("no connection yet: %s", error)
                        cause = error
        except TimeoutError:
            tried = f"and none could be made within {self.reconnect_timeout:g} s"
            why = "" if cause is reason else f": {cause}"
            self._end(ConnectionLostError(f"{reason}, {tried}{why}"))
            return
        self.reconnects += 1
        log.debug("connected again; %d times so far", self.reconnects)
        self._take(connection)
        if self._connection is connection:
            self._resume(connection)

    def _resume(self, connection: Connection) -> None:
        if self._approver is not None:
            self.ask(lambda _: None, messages.ApproverEnter, once=True, token=self._approver)
            if self._watchers:
                self.ask(lambda _: None, messages.ApprovalWatch, once=True)
        for session, attachment in list(self._attached.items()):
            self._attach_again(session, attachment)
        for follower in list(self._followers.values()):
            follower.on_reconnected()
        self._requests.resume(connection.send, self._superseded)

    def _attach_again(self, session: str, attachment: Attachment) -> None:
        def on_answer(answer: Reply | SessiondError) -> None:
            if isinstance(answer, RemoteError):
                self._attached.pop(session, None)
                self._tell_listeners(session, answer)

        self.ask(on_answer, messages.SessionAttach, once=True, session=session, **attachment._asdict())

    def _superseded(self, message: messages.Message) -> bool:
        """Whether a follower has asked already for what this request would begin."""
        if not isinstance(message, _BEGINS) or not message.window:
            return False
        follower = self._followers.get((message.session, message.command))
        return follower is not None and follower.begun

    # --- the end

    async def close(self) -> None:
        """Finish the errands if there is a connection, say goodbye, and end it. All of it has a deadline."""
        connection = self._connection
        if self._errands and connection is not None:
            await asyncio.wait(set(self._errands), timeout=self.timeout)
        self._closing = True
        for task in set(self._errands):
            task.cancel()
        if self._reconnecting is not None and not self._reconnecting.done():
            self._reconnecting.cancel()
            await asyncio.wait((self._reconnecting,))
        connection = self._connection or connection
        if connection is not None:
            await connection.close()
        if self._lost is None:
            self._end(ConnectionLostError("the connection was closed"))

    def _end(self, reason: SessiondError) -> None:
        self._lost = reason
        self._settled.set()
        self._requests.fail(lambda: again(reason))
        followers, self._followers = self._followers, {}
        for follower in followers.values():
            follower.on_lost(again(reason))
        listeners, self._listeners = self._listeners, {}
        for group in listeners.values():
            for listener in group:
                listener.on_lost(again(reason))
        for watcher in self._watchers:
            watcher.on_lost(again(reason))

    # --- what arrives

    def _on_message(self, message: messages.ServerMessage) -> None:
        self._heard = True
        if isinstance(message, CommandEvent):
            follower = self._followers.get((message.session, message.command))
            if isinstance(message, messages.Exited) and message.re is not None:
                self._requests.take(message.re)
            if isinstance(message, messages.Awaiting):
                self._requests.extend(message.re, message.seconds)
            if follower is not None:
                follower.on_event(message)
            elif isinstance(message, messages.Output):
                self._mute((message.session, message.command))
        elif isinstance(message, messages.SessionEvent):
            for listener in self._listeners.get(message.session.session, ()):
                listener.on_session(message)
            if message.session.state == "closed":
                self._listeners.pop(message.session.session, None)
                self._attached.pop(message.session.session, None)
        elif isinstance(message, messages.ApprovalEvent):
            for watcher in self._watchers:
                watcher.on_approval(message.approval)
        elif isinstance(message, messages.Error):
            self._on_error(message)
        else:
            self._answer(message.re, message)

    def _answer(self, number: int, answer: Reply | SessiondError) -> None:
        request = self._requests.take(number)
        asked = request.message
        if isinstance(asked, messages.SessionAttach) and isinstance(answer, messages.SessionReply):
            epoch = answer.session.epoch if asked.epoch is None else asked.epoch
            self._attached[asked.session] = Attachment(asked.mode, epoch if asked.mode == "writer" else None)
        elif isinstance(asked, messages.SessionDetach) and isinstance(answer, messages.Ok):
            self._attached.pop(asked.session, None)
        if request.on_answer is not None:
            request.on_answer(answer)

    def _on_error(self, message: messages.Error) -> None:
        error = remote_error(message)
        if message.re is not None:
            self._answer(message.re, error)
        elif message.session is not None and message.command is None:
            self._tell_listeners(message.session, error)
        elif message.session is not None and message.command is not None:
            follower = self._followers.get((message.session, message.command))
            if follower is not None:
                follower.on_error(error)

    def _tell_listeners(self, session: str, error: RemoteError) -> None:
        for listener in self._listeners.get(session, ()):
            listener.on_error(error)

    def _mute(self, key: tuple[str, str]) -> None:
        """Nobody reads this output: let no more of it come, for unread output may hold up who writes it."""
        if key in self._muting or len(self._requests) >= _MAX_PENDING:
            return
        self._muting.add(key)
        self.ask(
            lambda _: self._muting.discard(key),
            messages.CommandFollow,
            deadline=math.inf,
            once=True,
            session=key[0],
            command=key[1],
            window=0,
        )


async def _quietly(do: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(SessiondError):
        await do()
