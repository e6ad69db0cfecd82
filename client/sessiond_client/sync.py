"""The same client without `await`: `with sync.connect() as client:`.

One background thread runs the asynchronous client; every method here has the name, the parameters and the meaning of
its counterpart there. It also works where an event loop runs already, as in a notebook. Ctrl-C in the middle of a call
cancels it, which for `run` kills the command. Objects may be used from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from sessiond_protocol.messages import (
    ApprovalInfo,
    CommandInfo,
    CommandLimits,
    CommandStart,
    CommandState,
    SessionEvent,
    SessionInfo,
    SessionLimits,
    SessionOpen,
)

from sessiond_client import client as asynchronous
from sessiond_client.approvals import ApprovalEvents as AsyncApprovalEvents
from sessiond_client.approvals import Approvals as AsyncApprovals
from sessiond_client.approvals import Scope
from sessiond_client.command import Command as AsyncCommand
from sessiond_client.events import SessionEvents as AsyncSessionEvents
from sessiond_client.portal import Portal
from sessiond_client.results import ExitStatus, Gap, Output, Result, Transfer
from sessiond_client.session import Session as AsyncSession
from sessiond_client.sync_files import Files
from sessiond_client.sync_streams import ByteStream
from sessiond_client.tools import DEFAULT_MAX_OUTPUT, DEFAULT_WINDOW
from sessiond_client.transfer import File

__all__ = [
    "ApprovalEvents",
    "Approvals",
    "ByteStream",
    "Client",
    "Command",
    "Files",
    "Session",
    "SessionEvents",
    "connect",
]


class Command:
    """One command. Iterate over it for its output; from `Session.start` and `Session.command`."""

    def __init__(self, session: Session, portal: Portal, command: AsyncCommand) -> None:
        self._session = session
        self._portal = portal
        self._command = command

    @property
    def id(self) -> str:
        """Names the command within its session."""
        return self._command.id

    @property
    def session(self) -> Session:
        """The session that it runs in."""
        return self._session

    @property
    def pid(self) -> int | None:
        """Its process id inside the sandbox; None where the daemon did not say."""
        return self._command.pid

    @property
    def state(self) -> CommandState:
        """Where it stands, as far as the daemon has told."""
        return self._command.state

    @property
    def offset(self) -> int:
        """How many bytes of output were taken so far."""
        return self._command.offset

    @property
    def ended(self) -> bool:
        """Whether its end has been seen."""
        return self._command.ended

    @property
    def stdin_offset(self) -> int:
        """Bytes of standard input sent so far."""
        return self._command.stdin_offset

    def __iter__(self) -> Self:
        """Iterate over the output, from where the last iteration stopped."""
        return self

    def __next__(self) -> Output | Gap:
        """The next piece of output, or a gap where output was not kept."""
        piece = self._portal.call(self._command.next())
        if piece is None:
            raise StopIteration
        return piece

    def next(self) -> Output | Gap | None:
        """The next piece of output, or a gap; None at the end."""
        return self._portal.call(self._command.next())

    def wait(self) -> ExitStatus:
        """Wait for the end, however much output nobody has read yet."""
        return self._portal.call(self._command.wait())

    def write(self, data: bytes) -> None:
        """Write to standard input; waits while the command does not read."""
        self._portal.call(self._command.write(data))

    def close_stdin(self) -> None:
        """Let the command read the end of its input, after all that was written."""
        self._portal.call(self._command.close_stdin())

    def signal(self, signal: int, *, tree: bool = False) -> None:
        """Send a signal to its process group, or with `tree` to everything that descends from it."""
        self._portal.call(self._command.signal(signal, tree=tree))

    def kill(self) -> None:
        """Kill it and everything that descends from it."""
        self._portal.call(self._command.kill())

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        self._portal.call(self._command.resize(rows, columns))

    def detach(self) -> None:
        """Stop following it; the command goes on."""
        self._portal.call(self._command.detach())


class SessionEvents:
    """The changes of state of one session, as an iterator."""

    def __init__(self, portal: Portal, events: AsyncSessionEvents) -> None:
        self._portal = portal
        self._events = events

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> SessionEvent:
        """The next change. Ends after the final one; raises why no more will come."""
        event = self._portal.call(self._events.next())
        if event is None:
            raise StopIteration
        return event

    def next(self) -> SessionEvent | None:
        """The next change; None after the final one."""
        return self._portal.call(self._events.next())


class ApprovalEvents:
    """What happens to questions, as an iterator."""

    def __init__(self, portal: Portal, events: AsyncApprovalEvents) -> None:
        self._portal = portal
        self._events = events

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> ApprovalInfo:
        """The next one."""
        return self.next()

    def next(self) -> ApprovalInfo:
        """The next one. Raises why no more will come."""
        return self._portal.call(self._events.next())


class Approvals:
    """The questions of a daemon's sessions, from `Client.approvals`. Its client cannot use sessions."""

    def __init__(self, portal: Portal, approvals: AsyncApprovals) -> None:
        self._portal = portal
        self._approvals = approvals

    def list(self) -> list[ApprovalInfo]:
        """Those without an answer, oldest first."""
        return self._portal.call(self._approvals.list())

    def show(self, approval: str) -> tuple[ApprovalInfo, str]:
        """One of them, answered or not, and rules as TOML that would make it unnecessary."""
        return self._portal.call(self._approvals.show(approval))

    def allow(
        self,
        approval: str,
        *,
        scope: Scope = "once",
        times: int | None = None,
        until: float | None = None,
        rule: str | None = None,
        reason: str = "",
    ) -> ApprovalInfo:
        """Let the command run: this one only, or equal ones too."""
        return self._portal.call(
            self._approvals.allow(approval, scope=scope, times=times, until=until, rule=rule, reason=reason)
        )

    def deny(self, approval: str, *, reason: str = "") -> ApprovalInfo:
        """Let it not run."""
        return self._portal.call(self._approvals.deny(approval, reason=reason))

    def watch(self) -> ApprovalEvents:
        """Iterate over the questions without an answer, then over new ones and over what becomes of them all."""
        return ApprovalEvents(self._portal, self._approvals.watch())

    def reload_policy(self) -> None:
        """Have the daemon read its policy files again."""
        self._portal.call(self._approvals.reload_policy())


class Session:
    """One session, from `Client.open` or `Client.attach`. `with session:` closes it at the end."""

    def __init__(self, client: Client, portal: Portal, session: AsyncSession) -> None:
        self._client = client
        self._portal = portal
        self._session = session

    @property
    def id(self) -> str:
        """Names the session; another client can attach to it with this."""
        return self._session.id

    @property
    def profile(self) -> str:
        """The profile that it was opened from."""
        return self._session.profile

    @property
    def snapshot(self) -> SessionInfo:
        """Its state when the daemon last told it; `info` asks again."""
        return self._session.snapshot

    @property
    def client(self) -> Client:
        """The client that it belongs to."""
        return self._client

    @property
    def attached(self) -> bool:
        """Whether its events are sent to this client."""
        return self._session.attached

    @property
    def files(self) -> Files:
        """Its files: read, written, listed, watched, carried in and out."""
        return Files(self._portal, self._session.files)

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session, unless it is gone already; a lost connection leaves it to its TTL."""
        self._portal.call(self._session.__aexit__(kind, error, trace))

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        check: bool = False,
        max_output: int = DEFAULT_MAX_OUTPUT,
        merge_stderr: bool = False,
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Result:
        """Run a command to its end: a string as a shell reads it, a list as the program and its arguments."""
        return self._portal.call(
            self._session.run(
                command,
                timeout=timeout,
                stdin=stdin,
                env=env,
                cwd=cwd,
                check=check,
                max_output=max_output,
                merge_stderr=merge_stderr,
                grace=grace,
                limits=limits,
                window=window,
                command_id=command_id,
            )
        )

    def start(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        stdin: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        merge_stderr: bool = False,
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Command:
        """Start a command and come back when it runs. With `stdin` its standard input stays open for `write`."""
        started = self._portal.call(
            self._session.start(
                command,
                timeout=timeout,
                stdin=stdin,
                env=env,
                cwd=cwd,
                merge_stderr=merge_stderr,
                grace=grace,
                limits=limits,
                window=window,
                command_id=command_id,
            )
        )
        return Command(self, self._portal, started)

    def terminal(
        self,
        command: str | Sequence[str] = ("bash",),
        *,
        rows: int = 24,
        columns: int = 80,
        term: str = "xterm-256color",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        grace: float = 5.0,
        limits: CommandLimits | None = None,
        window: int = DEFAULT_WINDOW,
        command_id: str | None = None,
    ) -> Command:
        """Start a command on a terminal and come back when it runs; sh where the sandbox has no bash."""
        started = self._portal.call(
            self._session.terminal(
                command,
                rows=rows,
                columns=columns,
                term=term,
                timeout=timeout,
                env=env,
                cwd=cwd,
                grace=grace,
                limits=limits,
                window=window,
                command_id=command_id,
            )
        )
        return Command(self, self._portal, started)

    def command(
        self,
        command_id: str,
        *,
        offset: int = 0,
        stdin: bool = False,
        stdin_offset: int | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> Command:
        """Follow a command that was started before, by anyone, from the byte `offset` of its output on."""
        followed = self._session.command(
            command_id, offset=offset, stdin=stdin, stdin_offset=stdin_offset, window=window
        )
        return Command(self, self._portal, self._portal.call(followed))

    def record(self, command_id: str | None = None) -> CommandStart | SessionOpen | None:
        """The request that began a command, or without an id the one that opened the session, as it is on record."""
        return self._portal.call(self._session.record(command_id))

    def commands(self) -> list[CommandInfo]:
        """All its commands that the daemon still knows, oldest first."""
        return self._portal.call(self._session.commands())

    def connect(self, where: int | str) -> ByteStream:
        """A stream to what listens inside on a port of the loopback interface, or on the unix socket at a path."""
        return ByteStream(self._portal, self._portal.call(self._session.connect(where)))

    def spawn_stdio(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "") -> ByteStream:
        """Start a program that talks over its standard streams, as language servers do. Its errors are apart."""
        return ByteStream(self._portal, self._portal.call(self._session.spawn_stdio(argv, env=env, cwd=cwd)))

    def export_workspace(self, target: File, *, path: str = "") -> Transfer:
        """Write the workspace, or the directory `path` of it, as a tar archive to a file."""
        return self._portal.call(self._session.export_workspace(target, path=path))

    def import_workspace(self, source: File, *, path: str = "") -> Transfer:
        """Read a tar archive from a file into the workspace, or the directory `path` of it, over what is there."""
        return self._portal.call(self._session.import_workspace(source, path=path))

    def info(self) -> SessionInfo:
        """Its state now."""
        return self._portal.call(self._session.info())

    def events(self) -> SessionEvents:
        """Iterate over its changes of state from now on, up to the final one."""

        async def begin() -> AsyncSessionEvents:
            return self._session.events()

        return SessionEvents(self._portal, self._portal.call(begin()))

    def attach(self, *, mode: Literal["writer", "reader"] = "writer") -> None:
        """Have its events sent. As a writer, take the session over from any earlier one."""
        self._portal.call(self._session.attach(mode=mode))

    def detach(self) -> None:
        """Stop following it and its commands. The session does not care."""
        self._portal.call(self._session.detach())

    def close(self) -> None:
        """End it: everything in it is killed and its sandbox erased."""
        self._portal.call(self._session.close())


class Client:
    """A connection to one daemon, from `connect`."""

    def __init__(self, portal: Portal, client: asynchronous.Client) -> None:
        self._portal = portal
        self._client = client

    @property
    def url(self) -> str:
        """Where the daemon answers."""
        return self._client.url

    @property
    def server(self) -> str:
        """Name and version of the daemon."""
        return self._client.server

    @property
    def profiles(self) -> list[str]:
        """Names of the profiles that may be opened."""
        return self._client.profiles

    @property
    def reconnects(self) -> int:
        """How often its connection was lost and came back."""
        return self._client.reconnects

    @property
    def capabilities(self) -> list[str]:
        """What the daemon can do beyond the core of the protocol."""
        return self._client.capabilities

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread. Sessions that are open stay open."""
        if not self._portal.closed:
            try:
                self._portal.call(self._client.close())
            finally:
                self._portal.close()

    def open(
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
        """Open a session. The same `session_id` again gives the same session: a retry opens no second one."""
        opened = self._portal.call(
            self._client.open(
                profile,
                session_id=session_id,
                name=name,
                labels=labels,
                env=env,
                limits=limits,
                ttl=ttl,
                idle_timeout=idle_timeout,
            )
        )
        return Session(self, self._portal, opened)

    def attach(self, session_id: str, *, mode: Literal["writer", "reader"] = "writer") -> Session:
        """Attach to a session that is open. As a writer, take it over from any earlier one."""
        return Session(self, self._portal, self._portal.call(self._client.attach(session_id, mode=mode)))

    def session(self, session_id: str) -> Session:
        """A session that is open, without attaching to it: for commands, and not for events."""
        return Session(self, self._portal, self._portal.call(self._client.session(session_id)))

    def sessions(self, *, labels: Mapping[str, str] | None = None) -> list[SessionInfo]:
        """Your sessions, oldest first; only those that carry all of `labels`."""
        return self._portal.call(self._client.sessions(labels=labels))

    def close_session(self, session_id: str) -> SessionInfo:
        """End a session: everything in it is killed and its sandbox erased."""
        return self._portal.call(self._client.close_session(session_id))

    def approvals(self, token: str) -> Approvals:
        """Become an approver with the token that the daemon keeps in its state directory (`approver.token`)."""
        return Approvals(self._portal, self._portal.call(self._client.approvals(token)))

    def ping(self) -> None:
        """Wait for the daemon to answer, and for nothing else."""
        self._portal.call(self._client.ping())


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    token_file: str | None = None,
    connect_timeout: float = 10.0,
    request_timeout: float = 60.0,
    reconnect_timeout: float = 60.0,
) -> Client:
    """Connect to a daemon: `with sync.connect() as client:`. See `sessiond_client.connect` for the parameters."""

    async def begin() -> asynchronous.Client:
        timeouts = {"connect_timeout": connect_timeout, "request_timeout": request_timeout}
        timeouts["reconnect_timeout"] = reconnect_timeout
        return await asynchronous.connect(url, token=token, token_file=token_file, **timeouts)

    portal = Portal()
    try:
        return Client(portal, portal.call(begin()))
    except BaseException:
        portal.close()
        raise
