"""The changes of state of a session, as they happen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sessiond_protocol.messages import SessionEvent

from sessiond_client.doorbell import Doorbell
from sessiond_client.errors import RemoteError, SessiondError

if TYPE_CHECKING:
    from sessiond_client.session import Session

_MAX_EVENTS = 256


class SessionEvents:
    """The changes of state of one session, as an asynchronous iterator.

    It keeps the last 256 that nobody has taken yet; an older one says nothing that a newer one does not.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._link = session.client.link
        self._events: deque[SessionEvent] = deque(maxlen=_MAX_EVENTS)
        self._error: SessiondError | None = self._link.lost
        self._over = False
        self._bell = Doorbell()
        self._link.listen(session.id, self)

    def __aiter__(self) -> SessionEvents:
        """Itself."""
        return self

    async def __anext__(self) -> SessionEvent:
        """The next change. Ends after the final one; raises why no more will come."""
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self) -> SessionEvent | None:
        """The next change; None after the final one."""
        if not self._session.attached and not self._over:
            await self._session.attach()
        while not self._events:
            if self._over:
                return None
            if self._error is not None:
                raise self._error
            await self._bell.wait("these events are")
        return self._events.popleft()

    def on_session(self, event: SessionEvent) -> None:
        """Take an event from the connection."""
        self._events.append(event)
        self._over = event.session.state == "closed"
        self._bell.ring()

    def on_error(self, error: RemoteError) -> None:
        """Take an error about the session from the connection, such as that another writer took it over."""
        self._error = error
        self._bell.ring()

    def on_lost(self, reason: SessiondError) -> None:
        """Take note that the connection is gone for good."""
        self._error = reason
        self._bell.ring()
