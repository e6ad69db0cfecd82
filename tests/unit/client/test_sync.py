"""The synchronous client: the same surface, the same behaviour, from any thread and under any circumstances."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sessiond_client
from sessiond_client import (
    CommandDeniedError,
    ConnectError,
    ConnectionLostError,
    NotFoundError,
    Output,
    UsageError,
    sync,
    sync_files,
    sync_streams,
)
from sessiond_client.events import SessionEvents

from .peer import Peer

T = TypeVar("T")
PAIRS = [
    (sessiond_client.Client, sync.Client),
    (sessiond_client.Session, sync.Session),
    (sessiond_client.Command, sync.Command),
    (SessionEvents, sync.SessionEvents),
    (sessiond_client.Files, sync_files.Files),
    (sessiond_client.Watch, sync_files.Watch),
    (sessiond_client.ByteStream, sync_streams.ByteStream),
]
DIFFERENT = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
ASYNC_ONLY = {"connection", "ready", "on_session", "on_error", "on_lost", "connected"}
"""What the parts of the client use among each other."""


class PeerThread:
    """A scripted daemon in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.peer = Peer(path)
        self.url = self.peer.url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.call(self.peer.__aenter__())

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def drop(self) -> None:
        """Break the newest connection."""

        async def drop() -> None:
            self.peer.talks[-1].drop()

        self.call(drop())

    def stop(self) -> None:
        self.call(self.peer.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PeerThread]:
    daemon = PeerThread(tmp_path / "s.sock")
    yield daemon
    daemon.stop()


def public(kind: type) -> dict[str, Any]:
    return {
        DIFFERENT.get(name, name): value
        for name, value in vars(kind).items()
        if (not name.startswith("_") or name in {**DIFFERENT, **{v: k for k, v in DIFFERENT.items()}})
        and name not in ASYNC_ONLY
    }


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_the_public_surface_is_the_same(asynchronous: type, synchronous: type) -> None:
    one, other = public(asynchronous), public(synchronous)
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, property):
            assert isinstance(other[name], property), name
        else:
            assert parameters(value) == parameters(other[name]), name
            assert not inspect.iscoroutinefunction(other[name]), name


def test_connect_takes_the_same() -> None:
    assert parameters(sessiond_client.connect) == parameters(sync.connect)


def test_a_whole_session(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        assert (client.server, client.url, client.profiles, client.capabilities) == (
            "peer/1",
            daemon.url,
            ["default"],
            ["pool"],
        )
        client.ping()
        with client.open(labels={"a": "b"}) as session:
            assert session.run("echo hi").text == "hi\n"
            assert session.run(["cat"], stdin=b"in").stdout == b"in"
            with pytest.raises(CommandDeniedError):
                session.run("curl")
            assert session.client is client
            assert (session.profile, session.attached, session.info().session) == ("default", False, session.id)
            assert session.snapshot.labels == {"a": "b"}
            assert [info.session for info in client.sessions(labels={"a": "b"})] == [session.id]
            assert [info.state for info in session.commands()] == ["exited", "exited"]
            assert client.session(session.id).id == session.id
            attached = client.attach(session.id)
            attached.detach()
            attached.attach(mode="reader")
        assert client.sessions() == []
        with pytest.raises(NotFoundError):
            client.session(session.id)


def test_a_command(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        session = client.open()
        command = session.start(["cat"])
        command.write(b"one")
        assert next(command) == Output("stdout", b"one", 0)
        assert (command.pid, command.offset, command.stdin_offset, command.ended) == (42, 3, 3, False)
        assert command.session is session
        command.write(b"two")
        command.close_stdin()
        assert command.next() == Output("stdout", b"two", 3)
        assert list(command) == []
        assert command.next() is None
        assert command.wait().ok
        pieces = [piece for piece in session.command(command.id) if isinstance(piece, Output)]
        assert (pieces[0].offset, b"".join(piece.data for piece in pieces)) == (0, b"onetwo")
        trapped = session.start("trap")
        trapped.resize(10, 20)
        trapped.signal(2)
        trapped.detach()
        again = session.command(trapped.id)
        again.kill()
        assert again.wait().signal == 9


def test_events(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        session = client.open()
        session.attach()
        events = session.events()
        session.close()
        assert [event.session.state for event in events] == ["closed"]
        assert events.next() is None


def test_errors_of_connecting_leave_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConnectError):
        sync.connect(f"unix:{tmp_path}/none")
    with pytest.raises(UsageError):
        sync.connect("nonsense")
    assert threading.active_count() == before


def test_a_closed_client_says_so(daemon: PeerThread) -> None:
    client = sync.connect(daemon.url)
    client.close()
    client.close()
    with pytest.raises(UsageError, match="was closed"):
        client.ping()


def test_closing_wakes_those_who_wait_in_other_threads(daemon: PeerThread) -> None:
    client = sync.connect(daemon.url)
    session = client.open()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            session.run("sleep")
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not daemon.peer.processes():
        threading.Event().wait(0.005)
    client.close()
    thread.join(5)
    assert isinstance(caught[0], ConnectionLostError)


def test_many_threads_share_a_client(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        session = client.open()
        results: list[str] = []

        def work(number: int) -> None:
            results.append(session.run(f"echo {number}").text.strip())

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(results) == [str(i) for i in range(8)]


async def test_it_works_inside_a_running_event_loop(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        assert client.open().run("echo hi").text == "hi\n"


@pytest.mark.skipif(sys.platform != "linux", reason="sends itself a signal")
def test_ctrl_c_cancels_and_the_command_is_killed(daemon: PeerThread) -> None:
    with sync.connect(daemon.url) as client:
        session = client.open()

        def interrupt() -> None:
            while not daemon.peer.processes():
                threading.Event().wait(0.005)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            session.run("sleep")
        assert session.run("echo on").text == "on\n"
    assert daemon.peer.processes()[0].signals == [(9, "tree")]
