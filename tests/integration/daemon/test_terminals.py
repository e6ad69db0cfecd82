"""Terminals through the client: what a program on one sees, what its watchers see, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sessiond_client import (
    Client,
    Command,
    CommandDeniedError,
    CommandNotStartedError,
    FencedError,
    InvalidRequestError,
    Output,
    StdinClosedError,
    connect,
)

from tests.daemon import DaemonProcess, python

RAW = "stty raw -echo; echo ready; "


async def read(command: Command, until: bytes = b"") -> bytes:
    """Its output to the end, or until it holds something."""
    output = b""
    async for piece in command:
        assert isinstance(piece, Output)
        assert piece.stream == "stdout"
        output += piece.data
        if until and until in output:
            return output
    assert not until, output
    return output


async def test_a_program_sees_a_terminal_of_the_size_and_kind_asked_for(client: Client) -> None:
    async with await client.open("open") as session:
        script = "tty; stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo all; exit 7"
        terminal = await session.terminal(script, rows=50, columns=132, term="screen-256color")
        tty, *lines = (await read(terminal)).decode().split("\r\n")
        assert tty.startswith("/dev/pts/")
        assert lines == ["50 132", "screen-256color", "all", ""]
        assert (await terminal.wait()).exit_code == 7


async def test_term_of_the_command_wins(client: Client) -> None:
    async with await client.open("open") as session:
        assert await read(await session.terminal("echo $TERM", env={"TERM": "dumb"})) == b"dumb\r\n"


async def test_a_new_size_is_seen(client: Client) -> None:
    code = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("ready", flush=True)
while signal.sigwait([signal.SIGWINCH]):
    print(*os.get_terminal_size(), flush=True)
"""
    async with await client.open("open") as session:
        terminal = await session.terminal(python(code))
        await read(terminal, b"ready")
        await terminal.resize(30, 100)
        await read(terminal, b"100 30")


async def test_the_default_is_a_shell_with_job_control_and_completion(client: Client) -> None:
    async with await client.open("open") as session:
        terminal = await session.terminal()
        await read(terminal, b"$ ")
        await terminal.write(b"touch a_long_name; sleep 1000\n")
        await read(terminal, b"1000\r\n")
        await asyncio.sleep(0.3)
        await terminal.write(b"\x1a")
        await read(terminal, b"Stopped")
        await terminal.write(b"fg\n")
        await read(terminal, b"sleep 1000\r\n")
        await asyncio.sleep(0.3)
        await terminal.write(b"\x03")
        await read(terminal, b"$ ")
        await terminal.write(b"echo $? a_lo\t\n")
        await read(terminal, b"130 a_long_name")
        await terminal.write(b"\x04")
        assert (await terminal.wait()).exit_code == 0


@pytest.mark.parametrize("size", [256, 2_000_000])
async def test_raw_bytes_pass_unchanged_both_ways(client: Client, size: int) -> None:
    data = bytes(range(256)) if size == 256 else random.Random(5).randbytes(size)
    async with await client.open("open") as session:
        terminal = await session.terminal(f"{RAW} head -c {size}")
        first = await read(terminal, b"ready\n")
        writing = asyncio.create_task(terminal.write(data))
        back = first.partition(b"ready\n")[2] + await read(terminal)
        await writing
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


async def test_closed_input_is_an_end_of_file(client: Client) -> None:
    async with await client.open("open") as session:
        terminal = await session.terminal(["cat"])
        await terminal.write(b"line\n")
        await terminal.close_stdin()
        assert await read(terminal) == b"line\r\nline\r\n"
        assert (await terminal.wait()).exit_code == 0


async def test_many_watch_and_one_types(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session:
        terminal = await session.terminal(f"{RAW} cat")
        await read(terminal, b"ready\n")
        await terminal.write(b"one ")
        await read(terminal, b"one ")
        async with connect(daemon.url) as other:
            readers = await other.attach(session.id, mode="reader")
            early = await readers.command(terminal.id)
            assert (await read(early, b"one ")).endswith(b"ready\none ")
            with pytest.raises(FencedError):
                await early.resize(10, 10)
            async with connect(daemon.url) as third:
                late = await (await third.attach(session.id, mode="reader")).command(
                    terminal.id, offset=terminal.offset
                )
                await terminal.write(b"two")
                assert await read(late, b"two") == b"two"
                assert await read(early, b"two") == b"two"
                assert await read(terminal, b"two") == b"two"


async def test_who_takes_the_keyboard_has_it_alone(client: Client, daemon: DaemonProcess) -> None:
    """The one before is told at once, nothing that it types later is taken for something else."""
    async with await client.open("open") as session:
        first = await session.terminal(f"{RAW} cat")
        await read(first, b"ready\n")
        await first.write(b"a" * 300_000)
        got = b""
        while len(got) < 300_000:
            got += await read(first, b"a")
        async with connect(daemon.url) as other:
            second = await (await other.session(session.id)).command(first.id, offset=first.offset, stdin=True)
            assert second.stdin_offset == 300_000
            await second.write(b"b")
            assert await read(second, b"b") == b"b"
            with pytest.raises(StdinClosedError):
                await first.write(b"c")
        async with connect(daemon.url) as other:
            again = await (await other.session(session.id)).command(first.id, offset=first.offset, stdin=True)
            await again.write(b"d")
            assert (await read(again, b"d")).endswith(b"d")


async def test_a_stranger_may_not_type_at_a_terminal_that_is_taken(client: Client, daemon: DaemonProcess) -> None:
    async with await client.open("open") as session:
        first = await session.terminal(f"{RAW} cat")
        await read(first, b"ready\n")
        async with connect(daemon.url) as one, connect(daemon.url) as two:
            owner = await (await one.session(session.id)).command(first.id, stdin=True)
            stranger = await (await two.session(session.id)).command(first.id, stdin_offset=0)
            await stranger.write(b"x")
            with pytest.raises(FencedError):
                while True:
                    await stranger.write(b"x")
                    await asyncio.sleep(0.01)
            await owner.write(b"!")
            assert (await read(owner, b"!")).endswith(b"ready\n!")


async def test_only_a_terminal_has_a_size(client: Client) -> None:
    async with await client.open("open") as session:
        command = await session.start(["cat"])
        with pytest.raises(InvalidRequestError, match="without a terminal"):
            await command.resize(24, 80)


async def test_a_program_that_is_not_there(client: Client) -> None:
    async with await client.open("open") as session:
        with pytest.raises(CommandNotStartedError):
            await session.terminal(["nonexistent"])


async def test_the_policy_is_the_same_as_without_a_terminal(client: Client) -> None:
    async with await client.open("strict") as session:
        assert await read(await session.terminal(["echo", "allowed"])) == b"allowed\r\n"
        for command in ("curl x", ["bash"]):
            with pytest.raises(CommandDeniedError):
                await session.terminal(command)


async def test_a_listing_tells_terminals_and_where_their_input_stands(client: Client) -> None:
    async with await client.open("open") as session:
        terminal = await session.terminal(f"{RAW} cat")
        await read(terminal, b"ready\n")
        await terminal.write(b"12345")
        await read(terminal, b"12345")
        command = await session.start(["true"], stdin=False)
        await command.wait()
        listed = {info.command: info for info in await session.commands()}
        assert (listed[terminal.id].terminal, listed[terminal.id].stdin) == (True, 5)
        assert (listed[command.id].terminal, listed[command.id].stdin) == (False, None)


async def test_a_terminal_that_nobody_looks_at_goes_on_and_forgets_the_oldest(client: Client) -> None:
    """Profile "small" keeps 1 MiB of a command's output."""
    async with await client.open("small") as session:
        terminal = await session.terminal("stty -opost; head -c 6000000 /dev/zero; echo end; exec cat")
        await terminal.detach()
        while (info := (await session.commands())[0]).output_to < 6_000_004:
            await asyncio.sleep(0.05)
        assert info.output_from > 4_000_000
        again = await session.command(terminal.id, offset=info.output_from, stdin=True)
        assert (await read(again, b"end\n")).endswith(b"end\n")


async def test_a_hung_up_terminal_ends_with_its_command(client: Client) -> None:
    async with await client.open("open") as session:
        terminal = await session.terminal("trap '' HUP; sleep 1000 & echo started; exit 3")
        assert await read(terminal) == b"started\r\n"
        assert (await terminal.wait()).exit_code == 3


async def test_kernel_rules_leave_terminals_unless_their_lists_do_not(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    """The default list of what may be written has the sandbox's own terminals; a list without them is told."""
    programs = ["bash", "sh", "stty", "cat", "echo", "tty"]
    kernels = {"default": {"executables": programs}, "own": {"executables": programs, "write": ["/workspace"]}}
    profiles = {
        name: {"policy": {"open": True}, "pool": {"min": 0, "max": 2}, "kernel": kernel}
        for name, kernel in kernels.items()
    }
    daemon = make_daemon(profiles=profiles).start()
    async with connect(daemon.url) as client:
        async with await client.open("default") as session:
            terminal = await session.terminal("stty raw -echo rows 7; stty size; cat")
            await read(terminal, b"7 80\n")
            await terminal.resize(9, 90)
            await terminal.write(b"typed")
            await read(terminal, b"typed")
        async with await client.open("own") as session:
            with pytest.raises(CommandNotStartedError, match="gives no terminal"):
                await session.terminal("true")


async def test_the_example_of_the_page_works(client: Client) -> None:
    page = (Path(__file__).parents[3] / "docs/terminals.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/terminals.md", "exec", dont_inherit=True), names)
    async with await client.open("open") as session:
        await names["conversation"](session)
