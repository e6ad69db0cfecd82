"""`sessiond logs` as a user calls it, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sessiond_client import Client

from tests.daemon import DaemonProcess

SESSIOND = str(Path(sys.executable).with_name("sessiond"))


async def logs(daemon: DaemonProcess, *arguments: str) -> tuple[bytes, bytes]:
    """What it prints."""
    process = await asyncio.create_subprocess_exec(
        *(SESSIOND, "logs", "--url", daemon.url, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return out, err


async def test_output_of_one_command_and_of_all(client: Client, daemon: DaemonProcess) -> None:
    """Streams apart, from any byte, while it runs and after the session was closed."""
    session = await client.open("open")
    await session.run("echo one; echo two >&2", command_id="first")
    waiting = await session.start("echo begun; read line; echo $line", command_id="second")
    await waiting.next()
    assert await logs(daemon, session.id, "first") == (b"one\n", b"two\n")
    assert (await logs(daemon, session.id, "second"))[0] == b"begun\n"
    following = asyncio.create_task(logs(daemon, session.id, "second", "--follow", "--from", "3"))
    await asyncio.sleep(0.5)
    await waiting.write(b"the end\n")
    assert (await following)[0] == b"un\nthe end\n"
    await session.close()
    out, err = await logs(daemon, session.id)
    assert out == b"one\nbegun\nthe end\n"
    assert err.index(b"==> first") < err.index(b"two") < err.index(b"==> second")


async def test_json_has_a_line_a_piece(client: Client, daemon: DaemonProcess) -> None:
    """With what it takes to go on there."""
    session = await client.open("open")
    await session.run(["echo", "hi"], command_id="c")
    out, _ = await logs(daemon, session.id, "c", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"command": "c", "offset": 0, "stream": "stdout", "data": "hi\n"}
    ]
