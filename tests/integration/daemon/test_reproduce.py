"""`sessiond reproduce`: a recorded session run again, or written down."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from sessiond_client import Client

from tests.daemon import COMMAND, DaemonProcess


async def reproduce(daemon: DaemonProcess, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(COMMAND[0], "reproduce", *arguments, "--url", daemon.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def recorded(client: Client) -> str:
    """A session with a bit of everything, that has ended."""
    session = await client.open("open", env={"WHO": "me"})
    await session.run('echo "$WHO $MORE" > out; mkdir sub; echo err >&2; exit 3', env={"MORE": "it's"}, command_id="a")
    await session.run(["cat", "../out", "-"], cwd="sub", stdin=b"input\n", command_id="b")
    piped = await session.start(["cat"], command_id="c")
    await piped.write(b"later")
    await piped.close_stdin()
    await piped.wait()
    await session.run(["cat", "out"], command_id="d")
    await session.close()
    return session.id


async def test_what_is_the_same_is_the_same_again(client: Client, daemon: DaemonProcess) -> None:
    """By argv or text, with environment, directory and input; what was not kept is said."""
    session = await recorded(client)
    status, said = await reproduce(daemon, session, "--until", "b", "--json")
    assert status == 0, said
    outcomes: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    assert [(outcome["command"], outcome["verdict"]) for outcome in outcomes] == [("a", "same"), ("b", "same")]
    status, said = await reproduce(daemon, session)
    assert status == 3
    assert "streamed standard input is not kept" in said
    assert "its stdout differs from byte 0 on: b''; before b'later'" in said


async def test_the_first_difference_is_named(client: Client, daemon: DaemonProcess) -> None:
    session = await client.open("open")
    await session.run(["true"])
    await session.run("echo same; head -c 8 /dev/urandom | od -An -tx1", command_id="chance")
    await session.run(["false"])
    await session.close()
    status, said = await reproduce(daemon, session.id)
    assert status == 3
    assert "   1  same    true" in said
    assert "   2  differs " in said
    assert "its stdout differs from byte " in said
    assert "false" not in said


async def test_a_script_does_the_same(client: Client, daemon: DaemonProcess, tmp_path: Path) -> None:
    """It runs elsewhere, and stops at the first command that ends otherwise."""
    session = await recorded(client)
    status, said = await reproduce(daemon, session, "--until", "b", "--script", "--image", "debian:12", cwd=tmp_path)
    assert status == 0, said
    directory = tmp_path / f"reproduce-{session}"
    assert {path.name for path in directory.iterdir()} == {"reproduce.sh", "Dockerfile", "input-2"}
    assert "FROM debian:12\n" in (directory / "Dockerfile").read_text()
    script = directory / "reproduce.sh"
    elsewhere = tmp_path / "workspace"
    elsewhere.mkdir()
    script.write_text(script.read_text().replace("/workspace", str(elsewhere)))
    done = subprocess.run(["sh", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "me it's\ninput\nall as recorded\n"
    again = subprocess.run(["sh", script], capture_output=True, text=True, timeout=20, check=False, env=os.environ)
    assert again.returncode == 0
    script.write_text(script.read_text().replace("check 1 3", "check 1 4"))
    other = subprocess.run(["sh", script], capture_output=True, text=True, timeout=20, check=False)
    assert other.returncode == 1
    assert "step 1: ended with 3, before with 4" in other.stderr
    assert (await reproduce(daemon, session, "--script", "--image", "x", cwd=tmp_path))[0] == 1
