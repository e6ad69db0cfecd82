"""Sessions from their opening to their end: what they are given, how long they last, who looks on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import pytest
from sessiond_client import (
    Client,
    CommandDeniedError,
    CommandLostError,
    GoneError,
    LimitError,
    Output,
    SessiondError,
    SessionLimits,
    UnavailableError,
    connect,
    sync,
)
from sessiond_protocol.messages import SessionList, SessionsReply

from sessiond.audit.files import sealed_segments
from sessiond.audit.verify import verify_log
from tests.daemon import DaemonProcess, eventually, python
from tests.wire import Wire


async def states(client: Client, session_id: str) -> list[tuple[str, str]]:
    """State and reason of each event of a session, to the last."""
    session = await client.attach(session_id, mode="reader")
    return [(event.session.state, event.reason) async for event in session.events()]


async def test_time_to_live(client: Client, daemon: DaemonProcess) -> None:
    """At its end the session is closed, with events that say why, whatever runs."""
    session = await client.open("open", ttl=4.0)
    info = await session.info()
    assert info.expires is not None
    assert info.expires - info.created == pytest.approx(4.0, abs=0.1)
    async with connect(daemon.url) as other:
        watching = asyncio.create_task(states(other, session.id))
        command = await session.start(["sleep", "3600"])
        with pytest.raises(CommandLostError) as lost:
            await command.wait()
        assert "time to live" in lost.value.message
        seen = await watching
    assert [state for state, _ in seen] == ["open", "closing", "closed"]
    assert "over in" in seen[0][1]
    assert "time to live" in seen[-1][1]
    assert (await session.info()).state == "closed"


async def test_idle_timeout(client: Client, daemon: DaemonProcess) -> None:
    """Counts from the last command's end: not while one runs, nor while one is begun now and then."""
    session = await client.open("open", idle_timeout=1.2)
    async with connect(daemon.url) as other:
        watching = asyncio.create_task(states(other, session.id))
        assert (await session.run(["sleep", "2.5"])).exit_code == 0
        seen = await watching
    assert [state for state, _ in seen][-2:] == ["closing", "closed"]
    assert "idle" in seen[-1][1]
    with pytest.raises(GoneError):
        await session.run(["true"])


async def test_labels_and_pages(client: Client, daemon: DaemonProcess) -> None:
    """Sessions are found by their labels, oldest first, a page at a time."""
    opened = [await client.open("open", labels={"group": "pages", "n": str(number)}) for number in range(5)]
    await client.open("open", labels={"group": "other"})
    assert [info.session for info in await client.sessions(labels={"group": "pages"})] == [one.id for one in opened]
    (third,) = await client.sessions(labels={"group": "pages", "n": "3"})
    assert (third.session, third.labels) == (opened[3].id, {"group": "pages", "n": "3"})
    assert await client.sessions(labels={"group": "absent"}) == []
    async with await Wire.greeted(daemon) as wire:
        pages, after = [], None
        while True:
            page = await wire.ask(SessionsReply, SessionList, labels={"group": "pages"}, after=after, limit=2)
            pages.append([info.session for info in page.sessions])
            if not page.more:
                break
            after = page.sessions[-1].session
    assert pages == [[one.id for one in opened[:2]], [one.id for one in opened[2:4]], [opened[4].id]]


async def test_what_a_session_says_of_itself(client: Client, daemon: DaemonProcess) -> None:
    await eventually("the pool is full", daemon.full)
    session = await client.open("open", name="a title", labels={"a": "b"}, idle_timeout=500)
    info = await session.info()
    assert (info.state, info.profile, info.engine, info.generation) == ("open", "open", daemon.engine.name, 1)
    assert (info.name, info.labels, info.idle_timeout, info.expires) == ("a title", {"a": "b"}, 500, None)
    assert (info.pooled, info.commands, info.attached) == (True, 0, 0)
    await session.run(["true"])
    await session.attach(mode="reader")
    info = await session.info()
    assert (info.commands, info.attached) == (1, 1)
    await session.detach()
    assert (await session.info()).attached == 0


async def test_lower_limits_than_the_profiles_hold(client: Client, daemon: DaemonProcess) -> None:
    """Each is tried, in a session from the warm pool."""
    await eventually("the pool is full", daemon.full)
    limits = SessionLimits(memory_bytes=48 << 20, pids=12, cpus=0.25, open_files=20, file_bytes=4096)
    session = await client.open("open", limits=limits)
    assert (await session.info()).pooled
    memory = await session.run(python("x = bytearray(64 << 20)\nfor i in range(0, 64 << 20, 4096): x[i] = 1"))
    assert (memory.signal, memory.cause) == (signal.SIGKILL, "oom")
    fork = (
        "import os, time\nn = 0\ntry:\n  while os.fork(): n += 1\n  time.sleep(3600)\nexcept OSError as error: print(n)"
    )
    assert 6 <= int((await session.run(python(fork))).stdout) <= 12
    await session.run("kill -9 -1")
    files = "import os\nn = 0\ntry:\n  while True: os.dup(0); n += 1\nexcept OSError: print(n)"
    assert int((await session.run(python(files))).stdout) <= 20
    assert (await session.run("exec head -c 5000 /dev/zero > file")).signal == signal.SIGXFSZ
    spin = "import os, time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    assert float((await session.run(python(spin))).stdout) < 0.5


@pytest.mark.parametrize(
    "limits",
    [{"memory_bytes": 1 << 40}, {"pids": 10_000}, {"cpus": 64.0}, {"open_files": 100_000}, {"file_bytes": 1 << 50}],
    ids=str,
)
async def test_higher_limits_than_the_profiles_are_refused(
    client: Client, daemon: DaemonProcess, limits: dict[str, float]
) -> None:
    with pytest.raises(LimitError) as refused:
        await client.open("open", limits=SessionLimits.model_validate(limits))
    assert next(iter(limits)) in refused.value.message
    assert daemon.status()["sessions"] == 1


async def test_environment_of_the_session(client: Client) -> None:
    """Profile, session, command: the later one wins; the next session knows nothing of it."""
    session = await client.open("open", env={"A": "session", "B": "session"})
    text = 'echo "$FROM_PROFILE $A $B $C"'
    assert (await session.run(text, env={"B": "command", "C": "command"})).text == "profile session command command\n"
    assert (await session.run(text)).text == "profile session session \n"
    assert (await (await client.open("open")).run(text)).text == "profile   \n"


async def test_commands_from_another_connection(client: Client, daemon: DaemonProcess) -> None:
    """List, wait, follow from an offset, write and signal: whoever knows the names."""
    session = await client.open("open")
    command = await session.start("echo begin; cat; echo end", command_id="shared")
    await session.run(["true"], command_id="short")
    async with connect(daemon.url) as other:
        theirs = await other.session(session.id)
        first, second = await theirs.commands()
        assert (first.command, first.state, first.text, first.argv) == (
            "shared",
            "running",
            "echo begin; cat; echo end",
            None,
        )
        assert (second.command, second.state, second.argv) == ("short", "exited", ["true"])
        assert second.exit is not None
        assert (second.exit.code, second.started is not None, second.ended is not None) == (0, True, True)
        follower = await theirs.command("shared", offset=3, stdin_offset=0)
        await follower.write(b"middle\n")
        await follower.close_stdin()
        status = await follower.wait()
        heard = b"".join([piece.data async for piece in follower if isinstance(piece, Output)])
        assert (status.exit_code, heard) == (0, b"in\nmiddle\nend\n")
    assert (await command.wait()).output_bytes == len(b"begin\nmiddle\nend\n")
    again = await session.command("short")
    assert (await again.wait()).exit_code == 0


async def test_connection_lost_command_goes_on(client: Client, daemon: DaemonProcess) -> None:
    """A client that drops changes nothing: another one finds the command, its output and its end."""
    session = await client.open("open")
    async with connect(daemon.url) as other:
        theirs = await other.session(session.id)
        await theirs.start("read line; echo got $line; exit 7", command_id="goes-on")
    command = await session.command("goes-on", stdin_offset=0)
    await command.write(b"it\n")
    assert (await command.wait()).exit_code == 7
    assert [piece.data async for piece in command if isinstance(piece, Output)] == [b"got it\n"]


async def test_standard_input_as_it_comes(client: Client) -> None:
    """Each line is answered before the next is written; the end is told; a command that reads no more says so."""
    session = await client.open("open")
    command = await session.start(["cat"])
    for number in range(50):
        line = b"line %d\n" % number
        await command.write(line)
        piece = await command.next()
        assert isinstance(piece, Output)
        assert piece.data == line
    await command.close_stdin()
    assert (await command.wait()).exit_code == 0
    deaf = await session.start("exec 0<&-; echo closed; sleep 3600")
    assert await deaf.next() is not None
    with pytest.raises(SessiondError):
        for _ in range(100):
            await deaf.write(b"x" * 65536)
    await deaf.kill()


async def test_signals(client: Client) -> None:
    """To the group and to the tree; the end says which signal it was."""
    session = await client.open("open")
    command = await session.start(["sleep", "3600"])
    await command.signal(signal.SIGINT)
    status = await command.wait()
    assert (status.exit_code, status.signal, status.cause) == (None, signal.SIGINT, "killed")
    await command.signal(signal.SIGINT)  # may cross the end
    code = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"usr1\\n"))
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"bye\\n"), os._exit(9)))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
    command = await session.start(["python3", "-c", code])
    heard = b""
    for number, expected in ((0, b"ready\n"), (signal.SIGUSR1, b"usr1\n"), (signal.SIGTERM, b"bye\n")):
        if number:
            await command.signal(number)
        heard = b""
        while heard != expected:
            piece = await command.next()
            assert isinstance(piece, Output)
            heard += piece.data
    assert (await command.wait()).exit_code == 9


async def test_argv_and_text(client: Client) -> None:
    """A list is never read by a shell; a text is, unless it is one plain command anyway."""
    session = await client.open("open")
    assert (await session.run(["echo", "$HOME;", "`id`", "*"])).text == "$HOME; `id` *\n"
    assert (await session.run("echo $HOME; echo a | tr a b")).text == "/workspace\nb\n"
    assert (await session.run("echo 'one  two'")).text == "one  two\n"
    assert (await session.run("f() { echo $1; }; f x")).text == "x\n"
    assert (await session.run(["sh", "-c", "echo $0 $1", "a", "b"])).text == "a b\n"


@pytest.mark.parametrize(
    "text",
    [
        "kill -0 1",
        "export A=1",
        "exec true",
        "set -e",
        "source /dev/null",
        ". /dev/null",
        "unset A",
        "eval true",
        "cd /tmp",
        ":",
        "exit 0",
        "umask 022",
        "alias a=b",
        "read -t 0",
        "type cd",
        "command true",
        "builtin true",
        "declare A=1",
    ],
)
async def test_text_that_is_only_a_builtin(client: Client, text: str) -> None:
    """What only a shell knows is given to the shell, even where it is one plain command."""
    session = await client.open("open")
    assert (await session.run(text)).exit_code in (0, 1)


@pytest.mark.parametrize("shell", ["auto", "bash", "sh"])
async def test_shell_of_the_profile(make_daemon: Callable[..., DaemonProcess], shell: str) -> None:
    """auto takes bash, and sh where bash cannot be found; a profile that wants bash says that it is missing."""
    profile = {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "shell": shell}
    daemon = make_daemon(profiles={"open": profile}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        text = 'x=1; readlink /proc/$$/exe | grep -o "bash\\|dash\\|sh$"'
        assert (await session.run(text)).text.strip() in (("bash",) if shell != "sh" else ("dash", "bash", "sh"))
        await session.run("mkdir -p bin; ln -s $(command -v sh) bin/sh; ln -s $(command -v echo) bin/echo")
        without = {"PATH": "/workspace/bin"}
        if shell == "bash":
            with pytest.raises(SessiondError, match="bash"):
                await session.run("x=1; echo $x", env=without)
        else:
            result = await session.run("x=1; echo $x", env=without)
            assert (result.exit_code, result.text) == (0, "1\n")
            silent = await session.start("read x; echo $x", env=without)
            await silent.write(b"through\n")
            assert (await silent.wait()).exit_code == 0


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (["rm", "-rf", "/"], None),
        ("echo hi; rm x", None),
        ("echo $(id)", None),
        (["/tmp/echo", "hi"], None),
        ("echo hi > /etc/x", None),
    ],
    ids=str,
)
async def test_denied_by_policy(
    client: Client, daemon: DaemonProcess, command: list[str] | str, rule: str | None
) -> None:
    """A typed error that names the rule; nothing ran; it stays on record and in the audit log."""
    session = await client.open("strict")
    with pytest.raises(CommandDeniedError) as denied:
        await session.run(command, command_id="no")
    assert denied.value.code == "denied"
    assert denied.value.rule
    assert denied.value.reason
    (info,) = await session.commands()
    assert (info.command, info.state, info.exit) == ("no", "denied", None)
    assert info.failure is not None
    assert (info.failure.code, info.failure.rule) == ("denied", denied.value.rule)
    (record,) = daemon.audit(session.id)
    assert (record["event"], record["verdict"], record["rule"]) == ("decision", "deny", denied.value.rule)
    assert record["reason"] == denied.value.reason
    assert (record["command"], record["profile"]) == ("no", "strict")
    assert (await session.run(["echo", "allowed"])).text == "allowed\n"


async def test_audit_of_an_allowed_command(client: Client, daemon: DaemonProcess) -> None:
    """A line before it ran and a line when it ended, tied together; values of variables are not in it."""
    session = await client.open("open", env={"SECRET": "hush-session"})
    body = {"env": {"TOKEN": "hush-command"}, "cwd": "/tmp"}
    await session.run("echo four; exit 3", command_id="c1", **body)  # type: ignore[arg-type]
    await eventually("the end is on record", lambda: len(daemon.audit(session.id)) == 2)
    decision, end = daemon.audit(session.id)
    assert (decision["event"], decision["verdict"], decision["text"]) == ("decision", "allow", "echo four; exit 3")
    assert (decision["env"], decision["cwd"]) == (["SECRET", "TOKEN"], "/tmp")
    assert (end["event"], end["exit_code"], end["signal"], end["cause"]) == ("end", 3, None, "exit")
    assert (end["output_bytes"], end["timed_out"], end["oom"]) == (5, False, False)
    assert end["seconds"] > 0
    for field in ("session", "command", "profile", "policy", "sha256"):
        assert decision[field] == end[field], field
    await session.run(["sleep", "3600"], command_id="c2", timeout=0.2, grace=0)
    await eventually("the end is on record", lambda: len(daemon.audit(session.id)) == 4)
    end = daemon.audit(session.id)[-1]
    assert (end["command"], end["exit_code"], end["timed_out"]) == ("c2", None, True)
    assert end["signal"] in (signal.SIGTERM, signal.SIGKILL)
    with contextlib.suppress(SessiondError):
        await session.run(["missing-program"], command_id="c3")
    await eventually("the end is on record", lambda: len(daemon.audit(session.id)) == 6)
    end = daemon.audit(session.id)[-1]
    assert (end["command"], end["exit_code"], end["cause"]) == ("c3", None, "failed")
    assert "hush" not in (daemon.state / "audit.jsonl").read_text()


async def test_audit_goes_on_in_a_new_file(client: Client, daemon: DaemonProcess) -> None:
    """SIGHUP seals the current file and begins another; the chain goes through both, and says who did what."""
    before = await client.open("open")
    await before.run(["true"])
    await eventually("both lines are on record", lambda: len(daemon.audit(before.id)) == 2)
    sealed = len(sealed_segments(daemon.state / "audit.jsonl"))
    os.kill(daemon.pid, signal.SIGHUP)
    await eventually("a sealed file", lambda: len(sealed_segments(daemon.state / "audit.jsonl")) > sealed)
    await before.run(["true"], command_id="after")
    await eventually("both lines are in the new one", lambda: len(daemon.audit(before.id)) == 2)
    report = verify_log(daemon.state / "audit.jsonl")
    assert report.findings == []
    assert {record["who"] for record in daemon.audit(before.id)} == {f"uid:{os.getuid()}"}


async def test_nothing_runs_that_cannot_be_recorded(make_daemon: Callable[..., DaemonProcess]) -> None:
    """When no file can be written, commands are `unavailable`, and an end is told once it is on record."""
    daemon = make_daemon(profiles={"open": {"policy": {"open": True}, "pool": {"min": 0, "max": 2}}}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        cat = await session.start(["cat"])
        daemon.limit_file_size(1)
        with pytest.raises(UnavailableError):
            await session.run(["touch", "/tmp/ran"])
        await cat.write(b"goes on")
        await cat.close_stdin()
        assert (await cat.next()).data == b"goes on"  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await cat.wait()
        daemon.limit_file_size(None)
        assert (await cat.wait()).output_bytes == 7
        assert (await session.run(["ls", "/tmp"])).stdout == b""


async def test_drain(make_daemon: Callable[..., DaemonProcess]) -> None:
    """SIGTERM under load: running commands end as they would; new ones and new sessions are refused; exit code 0."""
    daemon = make_daemon(settings={"drain": 25}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        commands = [await session.start("read line; echo $line; exit 6") for _ in range(6)]
        ending = [asyncio.create_task(command.wait()) for command in commands]
        daemon.running.terminate()
        await eventually("it drains", lambda: "sessiond stops" in daemon.log)
        with pytest.raises(UnavailableError):
            await session.run(["true"])
        with pytest.raises(UnavailableError):
            await client.open("open")
        assert not any(task.done() for task in ending)
        for command in commands:
            await command.write(b"in time\n")
        assert [(await task).exit_code for task in ending] == [6] * 6
    assert daemon.wait() == 0
    assert daemon.left_behind() == []
    assert [record["exit_code"] for record in daemon.audit(session.id) if record["event"] == "end"] == [6] * 6


async def test_drain_ends(make_daemon: Callable[..., DaemonProcess]) -> None:
    """What does not end within the grace is lost, told so, and on record; a second SIGTERM changes nothing."""
    daemon = make_daemon(settings={"drain": 0.3}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        command = await session.start(["sleep", "3600"])
        waiting = asyncio.create_task(command.wait())
        daemon.running.terminate()
        daemon.running.terminate()
        with pytest.raises(CommandLostError):
            await waiting
    assert daemon.wait() == 0
    assert daemon.left_behind() == []
    assert daemon.audit(session.id)[-1]["cause"] == "lost"


async def test_many_commands_at_once(client: Client) -> None:
    """64 in one session and 8 in each of four others: each has its own output."""
    sessions = [await client.open("open") for _ in range(4)]

    async def one(number: int, session: object) -> None:
        result = await session.run(["sh", "-c", f"echo {number}; exec cat"], stdin=b"%d" % number)  # type: ignore[attr-defined]
        assert result.stdout == b"%d\n%d" % (number, number)

    await asyncio.gather(*(one(number, sessions[0]) for number in range(64)))
    await asyncio.gather(*(one(number, sessions[number % 4]) for number in range(32)))


async def test_merged_streams(client: Client) -> None:
    """In the order in which they were written, a thousand times over; and the record of each goes when it is old."""
    session = await client.open("open")
    result = await session.run("for n in $(seq 500); do echo o$n; echo e$n >&2; done", merge_stderr=True)
    assert result.text == "".join(f"o{n}\ne{n}\n" for n in range(1, 501))
    assert result.stderr == b""


async def test_synchronous_client(daemon: DaemonProcess, client: Client) -> None:
    """The mirror works on the real path, beside a running event loop."""

    def work() -> bytes:
        with sync.connect(daemon.url) as mirror, mirror.open("open") as session:
            command = session.start(["cat"])
            command.write(b"both")
            command.close_stdin()
            assert command.wait().exit_code == 0
            return session.run(["echo", "ways"]).stdout

    assert await asyncio.to_thread(work) == b"ways\n"


async def test_hit_rate_is_counted(client: Client, daemon: DaemonProcess) -> None:
    """/status tells hits and what was waited for."""
    await eventually("the pool is full", daemon.full)
    before = daemon.pool("strict")
    warm = await client.open("strict")
    cold = await client.open("strict")
    after = daemon.pool("strict")
    assert after["hits"] - before["hits"] == 1
    assert after["misses"] - before["misses"] == 1
    assert after["waited_seconds"] > before["waited_seconds"]
    assert ((await warm.info()).pooled, (await cold.info()).pooled) == (True, False)
    assert daemon.status()["sessions"] == 3
    assert daemon.get("/healthz") == (200, b"ok\n")


async def test_ages_in_the_pool(make_daemon: Callable[..., DaemonProcess]) -> None:
    """A sandbox that waited for too long is replaced."""
    profile = {"policy": {"open": True}, "pool": {"min": 1, "max": 3, "max_age": 1.5}}
    daemon = make_daemon(profiles={"open": profile}).start()
    await eventually("warm", daemon.full)
    first = daemon.sandboxes()
    await eventually("replaced", lambda: daemon.full() and first.isdisjoint(daemon.sandboxes()))
    async with connect(daemon.url) as client:
        assert (await (await client.open("open")).run(["true"])).ok


async def test_health_check_finds_a_guest_that_hangs(make_daemon: Callable[..., DaemonProcess]) -> None:
    """A warm sandbox whose guest does not answer is replaced before anybody is given it."""
    profile = {"policy": {"open": True}, "pool": {"min": 1, "max": 3, "health_interval": 0.3}}
    daemon = make_daemon(profiles={"open": profile}).start()
    await eventually("warm", daemon.full)
    (name,) = daemon.sandboxes()
    os.kill(daemon.first_process(name), signal.SIGSTOP)
    await eventually("replaced", lambda: daemon.full() and name not in daemon.sandboxes())
    assert daemon.pool("open")["died"] == 1
