"""`sessiond shell` on a real terminal, with somebody who types and looks at the screen."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sessiond_client import Client, connect

from tests.daemon import DaemonProcess, EngineUnderTest, eventually
from tests.integration.cli.conftest import SESSIOND
from tests.screen import Screen

DETACH = b"\x1dd"


def shell(daemon: DaemonProcess, *arguments: str, rows: int = 24, columns: int = 80) -> Screen:
    return Screen([SESSIOND, "shell", "--url", daemon.url, *arguments], rows=rows, columns=columns)


async def running(client: Client, session: str) -> str:
    """The one terminal that runs in a session."""
    opened = await client.session(session)
    (found,) = [info.command for info in await opened.commands() if info.terminal and info.ended is None]
    return found


async def test_a_session_of_its_own_is_closed_with_its_shell(client: Client, daemon: DaemonProcess) -> None:
    async with shell(daemon, "--profile", "open") as screen:
        await screen.shows("$")
        screen.type("echo $((6 * 7)); stty size; tty\r")
        await screen.shows("\n42\n24 80\n/dev/pts/")
        assert len(await client.sessions()) == 2  # and the bystander
        screen.type("exit 5\r")
        assert await screen.exit() == 5
    assert len(await client.sessions()) == 1


async def test_ctrl_c_ctrl_z_tab_and_end_of_file_reach_the_shell(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session, shell(daemon, session.id) as screen:
        await screen.shows("$")
        screen.type("sleep 1000\r")
        await eventually("sleep runs", lambda: "sleep 1000" in screen.text)
        await asyncio.sleep(0.3)
        screen.type(b"\x1a")
        await screen.shows("Stopped")
        screen.type("fg\r")
        await asyncio.sleep(0.3)
        screen.type(b"\x03")
        await screen.shows("^C")
        screen.type("echo $?; touch a_long_name\r")
        await screen.shows("130")
        screen.type("ls a_lo\t\r")
        await screen.shows("ls a_long_name\na_long_name\n")
        await screen.shows(lambda: screen.text.rstrip().endswith("$"))
        screen.type(b"\x04")
        assert await screen.exit() == 0


async def test_the_size_follows(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session, shell(daemon, session.id, rows=30, columns=100) as screen:
        await screen.shows("$")
        screen.type("stty size\r")
        await screen.shows("30 100")
        screen.resize(20, 90)
        await asyncio.sleep(0.3)
        screen.type("stty size\r")
        await screen.shows("20 90")
        screen.type("exit\r")
        await screen.exit()


async def test_argv_and_its_exit_status(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session:
        async with shell(daemon, session.id, "--", "sh", "-c", "tty; exit 9") as screen:
            assert await screen.exit() == 9
            assert "/dev/pts/" in screen.text
        async with shell(daemon, session.id, "--", "sh", "-c", "kill -TERM $$") as screen:
            assert await screen.exit() == 128 + signal.SIGTERM
        async with shell(daemon, session.id, "--", "nonexistent") as screen:
            assert await screen.exit() == 125
            assert "cannot be executed" in screen.text


async def test_detached_terminals_go_on_and_are_come_back_to(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session:
        async with shell(daemon, session.id) as screen:
            await screen.shows("$")
            screen.type("A=kept; seq 1 2000\r")
            await screen.shows("2000\n")
            screen.type(b"echo typed before$A" + DETACH)
            assert await screen.exit() == 0
            command = await running(client, session.id)
            assert f"--attach {command}" in screen.raw.decode().replace("\r\n", "")
        async with shell(daemon, session.id, "--attach", command) as screen:
            await screen.shows("echo typed before$A")
            assert "2000" in screen.text
            screen.type("\r")
            await screen.shows("\ntyped beforekept\n")
            screen.type(b"printf '<%s>' \x16\x1d\x1d\r")
            screen.type("exit 3\r")
            assert await screen.exit() == 3


async def test_ctrl_right_bracket_twice_types_it(client: Client, daemon: DaemonProcess) -> None:
    argv = ("--profile", "open", "--", "sh", "-c", "stty raw; echo ready; od -An -tx1 -N3")
    async with shell(daemon, *argv) as screen:
        await screen.shows("ready")
        screen.type(b"\x1d\x1d\x1dx")
        await screen.shows("1d 1d 78")
        assert await screen.exit() == 0


async def test_several_watch_and_type_nothing(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session, shell(daemon, session.id) as screen:
        await screen.shows("$")
        command = await running(client, session.id)
        watch = (session.id, "--attach", command, "--watch")
        async with shell(daemon, *watch) as one, shell(daemon, *watch) as two:
            await one.shows("$")
            await two.shows("$")
            one.type("echo not from the watcher\r")
            screen.type("echo $((20 + 3))\r")
            for each in (screen, one, two):
                await each.shows("\n23\n")
                assert "watcher" not in each.text
            one.type(DETACH)
            assert await one.exit() == 0
            screen.type("exit 4\r")
            assert await two.exit() == await screen.exit() == 4


async def test_who_comes_back_takes_the_keyboard(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session, shell(daemon, session.id) as first:
        await first.shows("$")
        command = await running(client, session.id)
        async with shell(daemon, session.id, "--attach", command) as second:
            await second.shows("$")
            second.type("echo $((50 + 5))\r")
            await first.shows("\n55\n")
            first.type("lost")
            await first.shows("somebody else types here now")
            first.type(DETACH)
            assert await first.exit() == 0
            second.type("exit\r")
            assert await second.exit() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_the_terminal_is_restored_when_a_signal_ends_it(
    client: Client, daemon: DaemonProcess, number: signal.Signals
) -> None:
    """`Screen.exit` compares the modes; the alternate screen is left, too."""
    async with await client.open("open") as session:
        script = r"printf '\033[?1049h\033[?25l\033[?2004hinside'; exec cat"
        async with shell(daemon, session.id, "--", "sh", "-c", script) as screen:
            await screen.shows("inside")
            screen.signal(number)
            assert await screen.exit() == 128 + number
            for mode in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?2004l"):
                assert mode in screen.raw
        assert await running(client, session.id)


async def test_without_a_terminal_it_says_what_else_there_is(client: Client, daemon: DaemonProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        *(SESSIOND, "shell", "--url", daemon.url, "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 125
    assert "sessiond exec" in json.loads(said)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch"], "--watch needs --attach"),
        (["--attach", "c"], "--attach needs a SESSION"),
        (["s", "--attach", "c", "--", "true"], "takes no command"),
        (["nobody"], "nobody"),
    ],
)
async def test_what_cannot_be_is_said(client: Client, daemon: DaemonProcess, arguments: list[str], said: str) -> None:
    async with shell(daemon, *arguments) as screen:
        assert await screen.exit() == 125
        assert said in screen.text


async def test_what_is_no_terminal_cannot_be_come_back_to(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session:
        command = await session.start(["cat"])
        for name, said in ((command.id, "runs on no terminal"), ("missing", "has no command missing")):
            async with shell(daemon, session.id, "--attach", name) as screen:
                assert await screen.exit() == 125
                assert said in screen.text


EDITOR = """
import curses, sys

def edit(screen):
    lines, name = [""], sys.argv[1]
    while True:
        screen.erase()
        for number, line in enumerate(lines):
            screen.addstr(number, 0, line)
        screen.addstr(screen.getmaxyx()[0] - 1, 0, f"{name}: {len(lines)} lines, ctrl-W writes")
        screen.move(len(lines) - 1, len(lines[-1]))
        key = screen.get_wch()
        if key == "\\x17":
            open(name, "w").write("\\n".join(lines) + "\\n")
            return
        elif key == "\\n":
            lines.append("")
        elif isinstance(key, str):
            lines[-1] += key

curses.wrapper(edit)
"""


async def start_editor(screen: Screen, engine: EngineUnderTest) -> bytes:
    """Open notes.txt in an editor from the shell, type two lines, leave it open; the keys that save and quit.

    vim where the sandbox has it (bubblewrap sees the machine's), a curses program of twenty lines elsewhere.
    """
    if engine.name == "bubblewrap":
        screen.type("vim -u NONE -N notes.txt\r")
        await screen.shows("notes.txt")
        screen.type("i")
        await screen.shows("-- INSERT --")
        save = b"\x1b:wq\r"
    else:
        screen.type("python3 editor.py notes.txt\r")
        await screen.shows("ctrl-W writes")
        save = b"\x17"
    screen.type("first line\rsecond")
    await screen.shows("first line\nsecond")
    return save


async def test_an_editor_outlives_detaching_and_the_death_of_the_daemon(
    make_daemon: Callable[..., DaemonProcess], engine: EngineUnderTest
) -> None:
    """Edit, detach, SIGKILL the daemon, start it, come back: the screen and in the end the file are right."""
    daemon = make_daemon(settings={"on_stop": "keep"}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        await session.run(
            ["python3", "-c", "import sys; open('editor.py', 'w').write(sys.argv[1])", EDITOR], check=True
        )
        async with shell(daemon, session.id) as screen:
            await screen.shows("$")
            save = await start_editor(screen, engine)
            before = screen.lines
            screen.type(DETACH)
            assert await screen.exit() == 0
        command = await running(client, session.id)
        daemon.kill()
        daemon.start()
        async with shell(daemon, session.id, "--attach", command) as screen:
            await screen.shows(lambda: screen.lines == before)
            screen.type(" line")
            await screen.shows("second line")
            screen.type(save)
            await screen.shows("$")
            screen.type("exit 6\r")
            assert await screen.exit() == 6
        assert (await session.run(["cat", "notes.txt"])).stdout == b"first line\nsecond line\n"
        await session.close()


async def test_somebody_else_sized_the_screen_and_it_is_drawn_anew(
    make_daemon: Callable[..., DaemonProcess], engine: EngineUnderTest
) -> None:
    """Come back from a smaller terminal: the program fits it."""
    daemon = make_daemon().start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        await session.run(
            ["python3", "-c", "import sys; open('editor.py', 'w').write(sys.argv[1])", EDITOR], check=True
        )
        async with shell(daemon, session.id) as screen:
            await screen.shows("$")
            save = await start_editor(screen, engine)
            screen.type(DETACH)
            await screen.exit()
        command = await running(client, session.id)
        async with shell(daemon, session.id, "--attach", command, rows=12, columns=40) as screen:
            await screen.shows("first line\nsecond")
            await screen.shows(lambda: bool(screen.lines[-1]))
            assert screen.lines[:2] == ["first line", "second"]
            screen.type(save)
            await screen.shows("$")
            screen.type("until [ '12 40' = \"$(stty size)\" ]; do :; done; exit 4\r")
            assert await screen.exit() == 4
        await session.close()


async def test_a_shell_that_is_open_lives_through_the_death_of_the_daemon(
    make_daemon: Callable[..., DaemonProcess], engine: EngineUnderTest
) -> None:
    """Nobody detaches: keys typed while there is no daemon arrive when there is one."""
    daemon = make_daemon(settings={"on_stop": "keep"}).start()
    async with connect(daemon.url) as client:
        session = await client.open("open")
        async with shell(daemon, session.id) as screen:
            await screen.shows("$")
            screen.type("A=kept\r")
            await screen.shows("A=kept\n")
            daemon.kill()
            screen.type("echo still $A\r")
            await asyncio.sleep(0.5)
            assert "still kept" not in screen.text
            daemon.start()
            await screen.shows("\nstill kept\n")
            screen.resize(15, 60)
            await asyncio.sleep(0.3)
            screen.type("stty size\r")
            await screen.shows("15 60")
            screen.type("exit 2\r")
            assert await screen.exit() == 2
        await session.close()


async def test_full_screen_programs_under_tmux(client: Client, daemon: DaemonProcess, tmp_path: Path) -> None:
    """Python's prompt everywhere; less and top where the sandbox sees the machine's programs."""
    async with await client.open("open") as session:
        line = f"{SESSIOND} shell --url {daemon.url} {session.id}"
        tmux = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null", "new-session", line]
        async with Screen(tmux) as screen:

            def prompt() -> bool:
                """Whether the shell waits: what is typed while a program ends may be thrown away by it."""
                *lines, _ = filter(None, screen.lines)  # the last one is tmux's own
                return bool(lines) and lines[-1].endswith("$")

            await screen.shows("$")
            screen.type("python3 -q\r")
            await screen.shows(">>>")
            screen.type("import os; print(os.get_terminal_size(), os.environ['TERM'][:6])\r")
            await screen.shows("terminal_size(columns=80, lines=23) tmux-2")
            screen.type("exit()\r")
            await screen.shows(prompt)
            if daemon.engine.name == "bubblewrap":
                screen.type("clear; seq 1 500 > numbers; less numbers\r")
                await screen.shows("\n22\nnumbers")
                screen.type("G")
                await screen.shows("\n500\n(END)")
                screen.type("q")
                await screen.shows(prompt)
                screen.type("clear; top; clear\r")
                await screen.shows("PID USER")
                screen.type("q")
                await screen.shows(lambda: screen.lines[0].endswith("$"))
            screen.type("exit\r")
            assert await screen.exit() == 0
