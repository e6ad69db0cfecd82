"""The client: a way to one daemon, and the sessions that it opens or attaches to."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Literal

from sessiond_protocol import messages
from sessiond_protocol.messages import SessionInfo, SessionLimits

from sessiond_client.address import Address, find_address, find_token
from sessiond_client.approvals import Approvals
from sessiond_client.connection import Connection
from sessiond_client.errors import UsageError
from sessiond_client.link import Link
from sessiond_client.roles import expect
from sessiond_client.session import Session

if TYPE_CHECKING:
    from types import TracebackType


class Client:
    """A client of one daemon, from `connect`. Any number of tasks of one event loop may use it at once.

    When its connection is lost it connects again, and everything goes on where it was.
    """

    def __init__(self, address: Address, link: Link) -> None:
        self._address = address
        self.link = link
        """The way to the daemon underneath; its interface may change with any version."""

    @property
    def url(self) -> str:
        """Where the daemon answers."""
        return str(self._address)

    @property
    def server(self) -> str:
        """Name and version of the daemon."""
        return self.link.welcome.server

    @property
    def profiles(self) -> list[str]:
        """Names of the profiles that may be opened."""
        return list(self.link.welcome.profiles)

    @property
    def capabilities(self) -> list[str]:
        """What the daemon can do beyond the core of the protocol."""
        return list(self.link.welcome.capabilities)

    @property
    def reconnects(self) -> int:
        """How often its connection was lost and came back."""
        return self.link.reconnects

    async def __aenter__(self) -> Client:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection. Sessions that are open stay open."""
        await self.link.close()

    async def ready(self) -> Link:
        """The way to the daemon, once it takes what is to be sent."""
        await self.link.drain()
        return self.link

    async def open(
        self,
        profile: str = "default",
        *,
        session_id: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        limits: SessionLimits | None = None,
        ttl: float | None = None,
        idle_timeout: float | None = None,
    ) -> Session:
        """Open a session. The same `session_id` again gives the same session: a retry opens no second one.

        Cancelling closes a session that was opened in the meantime, unless you chose its `session_id`.
        """
        link = await self.ready()
        chosen = session_id or secrets.token_hex(8)
        opening = link.submit(
            messages.SessionOpen,
            profile=profile,
            session=chosen,
            name=name,
            labels=dict(labels or {}),
            env=dict(env or {}),
            limits=limits or SessionLimits(),
            ttl=ttl,
            idle_timeout=idle_timeout,
        )
        if session_id is not None:
            reply = await opening
        else:
            reply = await link.answer_or_undo(
                opening,
                lambda: link.request(messages.SessionReply, messages.SessionClose, session=chosen),
            )
        return Session(self, expect(messages.SessionReply, reply).session)

    async def attach(self, session_id: str, *, mode: Literal["writer", "reader"] = "writer") -> Session:
        """Attach to a session that is open. As a writer, take it over from any earlier one."""
        link = await self.ready()
        reply = await link.request(messages.SessionReply, messages.SessionAttach, session=session_id, mode=mode)
        return Session(self, reply.session, attached=True)

    async def session(self, session_id: str) -> Session:
        """A session that is open, without attaching to it: for commands, and not for events."""
        link = await self.ready()
        reply = await link.request(messages.SessionReply, messages.SessionInfoRequest, session=session_id)
        return Session(self, reply.session)

    async def sessions(self, *, labels: Mapping[str, str] | None = None) -> list[SessionInfo]:
        """Your sessions, oldest first; only those that carry all of `labels`."""
        link = await self.ready()
        found: list[SessionInfo] = []
        more = True
        while more:
            page = await link.request(
                messages.SessionsReply,
                messages.SessionList,
                labels=dict(labels or {}),
                after=found[-1].session if found else None,
            )
            found += page.sessions
            more = page.more and bool(page.sessions)
        return found

    async def close_session(self, session_id: str) -> SessionInfo:
        """End a session: everything in it is killed and its sandbox erased."""
        link = await self.ready()
        reply = await link.request(messages.SessionReply, messages.SessionClose, session=session_id)
        return reply.session

    async def approvals(self, token: str) -> Approvals:
        """Become an approver with the token that the daemon keeps in its state directory (`approver.token`).

        Not for a client that uses sessions; nor can an approver's use any. Raises UnauthorizedError.
        """
        link = await self.ready()
        await link.enter(token)
        return Approvals(self)

    async def ping(self) -> None:
        """Wait for the daemon to answer, and for nothing else."""
        link = await self.ready()
        await link.request(messages.Pong, messages.Ping)


class Connecting:
    """What `connect` gives: await it for a client, or use it with `async with`."""

    def __init__(
        self,
        address: Address,
        token: str | None,
        *,
        connect_timeout: float,
        request_timeout: float,
        reconnect_timeout: float,
    ) -> None:
        self._address = address
        self._token = token
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._reconnect_timeout = reconnect_timeout
        self._client: Client | None = None

    def __await__(self) -> Generator[None, None, Client]:
        """The client, connected."""
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        """The client, connected."""
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Client:
        link = Link(
            await self._dial(self._request_timeout),
            lambda: self._dial(min(self._connect_timeout, self._request_timeout)),
            request_timeout=self._request_timeout,
            reconnect_timeout=self._reconnect_timeout,
        )
        return Client(self._address, link)

    async def _dial(self, request_timeout: float) -> Connection:
        return await Connection.open(
            self._address, self._token, connect_timeout=self._connect_timeout, request_timeout=request_timeout
        )


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    token_file: str | None = None,
    connect_timeout: float = 10.0,
    request_timeout: float = 60.0,
    reconnect_timeout: float = 60.0,
) -> Connecting:
    """Connect to a daemon: `async with connect() as client:`.

    `url` is `unix:/path/to/sessiond.sock`, `ws://host:port` or `wss://host:port`; without it SESSIOND_URL counts, and
    without that the default socket. The token comes from the arguments, SESSIOND_TOKEN or the file that
    SESSIOND_TOKEN_FILE names, which only its owner may read. Each request has `request_timeout` seconds.
    A connection that is lost has `reconnect_timeout` seconds to come back; with 0 it never does.
    """
    if connect_timeout <= 0 or request_timeout <= 0:
        raise UsageError("timeouts must be positive")
    if reconnect_timeout < 0:
        raise UsageError("reconnect_timeout is negative")
    return Connecting(
        find_address(url),
        find_token(token, token_file),
        connect_timeout=connect_timeout,
        request_timeout=request_timeout,
        reconnect_timeout=reconnect_timeout,
    )
