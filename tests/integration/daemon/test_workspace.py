"""A session's workspace as a tar archive, out and in, on the real path."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from sessiond_client import (
    Client,
    CommandFailedError,
    FencedError,
    NotFoundError,
    SessionLimits,
    TransferError,
    connect,
    sync,
)
from sessiond_protocol.messages import Error, Exited, Output, SessionExport, SessionImport, Started

from tests.daemon import COMMAND, UNDEBUGGED, DaemonProcess, eventually
from tests.wire import Wire

MIB = 1024**2

MAKE = """
set -e
git init -q repo; cd repo; git config user.email a@b; git config user.name a
echo x >file; git add file; git commit -qm one; ln -s file link; mkdir empty; touch run; chmod 755 run
cd ..; head -c 20M /dev/urandom >large; sha256sum large; mkfifo fifo
"""


def members(archive: bytes | Path) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive if isinstance(archive, bytes) else archive.read_bytes())) as tar:
        return tar.getmembers()


def archive(*names: str, data: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def test_a_workspace_moves_from_one_session_to_another(client: Client, tmp_path: Path) -> None:
    one, other = await client.open("open"), await client.open("open")
    digest = (await one.run(MAKE, check=True)).text
    exported = await one.export_workspace(tmp_path / "tar")
    assert exported.size == (tmp_path / "tar").stat().st_size and exported.complete
    assert exported.notes == ("guest: tar-export: skipped: 'fifo': it is a fifo",)
    assert [path.name for path in tmp_path.iterdir()] == ["tar"]
    imported = await other.import_workspace(tmp_path / "tar")
    assert (imported.size, imported.complete, imported.notes) == (exported.size, True, ())
    check = "sha256sum large; git -C repo status --porcelain; git -C repo fsck; stat -c %A repo/run; readlink repo/link"
    assert (await other.run(check, check=True)).stdout.decode() == f"{digest}?? link\n?? run\n-rwxr-xr-x\nfile\n"


async def test_files_that_are_open_here_and_a_part_of_the_workspace(client: Client) -> None:
    session = await client.open("open")
    await session.import_workspace(io.BytesIO(archive("a", "b/c")), path="d/e")
    out = io.BytesIO()
    transfer = await session.export_workspace(out, path="d")
    assert transfer.size == len(out.getvalue())
    assert sorted(member.name for member in members(out.getvalue())) == ["e", "e/a", "e/b", "e/b/c"]


async def test_it_works_where_the_policy_allows_next_to_nothing_and_is_on_record(
    client: Client, daemon: DaemonProcess
) -> None:
    """The list of programs has no say in it; the guest's own program is not to be had otherwise."""
    session = await client.open("strict")
    await session.import_workspace(io.BytesIO(archive("file")))
    await session.export_workspace(io.BytesIO())
    records = [record for record in daemon.audit(session.id) if record["event"] == "decision"]
    assert [(record["verdict"], record["rule"], record["argv"]) for record in records] == [
        ("allow", "workspace", ["/run/sessiond/guest", "tar-import", "."]),
        ("allow", "workspace", ["/run/sessiond/guest", "tar-export", "."]),
    ]
    await eventually("the end is on record", lambda: daemon.audit(session.id)[-1]["event"] == "end")
    with pytest.raises(Exception, match="name the program alone"):
        await session.run(["/run/sessiond/guest", "tar-export", "."])


@pytest.mark.parametrize("path", ["..", "/etc", "a/../..", "link"])
async def test_nothing_outside_the_workspace_is_reached(client: Client, tmp_path: Path, path: str) -> None:
    session = await client.open("open")
    await session.run("ln -s /etc link", check=True)
    with pytest.raises(TransferError, match="refused") as refused:
        await session.export_workspace(tmp_path / "tar", path=path)
    assert refused.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TransferError, match="refused"):
        await session.import_workspace(io.BytesIO(archive("x")), path=path)


async def test_what_cannot_be_imported_says_why(client: Client) -> None:
    session = await client.open("open", limits=SessionLimits(file_bytes=MIB))
    for data, code, words in (
        (archive("good", "../bad", "never"), 3, r"refused: '\.\./bad': its name has \.\."),
        (b"x" * 100_000, 4, "no tar archive"),
        (archive("cut")[:700], 4, "ends too early"),
        (b"", 4, "ends too early"),
        (archive("large", data=bytes(9 * MIB)), 1, "File too large"),
    ):
        with pytest.raises(TransferError, match=words) as failed:
            await session.import_workspace(io.BytesIO(data))
        assert failed.value.exit_code == code
    assert (await session.run("ls -A", check=True)).text == "good\n"


async def test_a_session_that_is_gone_and_a_writer_that_was_replaced(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    session = await client.open("open")
    await session.attach()
    async with connect(daemon.url) as other:
        await other.attach(session.id)
        with pytest.raises(FencedError):
            await session.export_workspace(tmp_path / "tar")
        with pytest.raises(FencedError):
            await session.import_workspace(io.BytesIO(archive("x")))
        await other.close_session(session.id)
    with pytest.raises(Exception, match="closed"):
        await session.export_workspace(tmp_path / "tar")
    assert list(tmp_path.iterdir()) == []


async def test_cancelling_kills_it_and_leaves_no_file(client: Client, tmp_path: Path) -> None:
    session = await client.open("open")
    await session.run("head -c 100M /dev/zero >large", check=True)
    export = asyncio.create_task(session.export_workspace(tmp_path / "tar"))
    await eventually("it has begun", lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
    export.cancel()
    with pytest.raises(asyncio.CancelledError):
        await export
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        task = asyncio.create_task(session.import_workspace(source))
        await asyncio.sleep(0.2)
        task.cancel()
        os.close(writing)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list(tmp_path.iterdir()) == []

    async def ended() -> bool:
        return all(info.state == "exited" for info in await session.commands())

    async with asyncio.timeout(20):
        while not await ended():
            await asyncio.sleep(0.05)


async def test_it_is_a_command_like_others(client: Client, daemon: DaemonProcess) -> None:
    """Sent again it is not done again; its output is there from any offset, its end for who asks later."""
    session = await client.open("open")
    await session.run("echo x >file", check=True)
    body = {"session": session.id, "command": "out", "window": 65536}
    async with await Wire.greeted(daemon) as one, await Wire.greeted(daemon) as two:
        await one.ask(Started, SessionExport, **body)
        content = b""
        while not isinstance(event := await one.next(), Exited):
            assert isinstance(event, Output)
            content += event.data
        assert [member.name for member in members(content)] == ["file"]
        await two.ask(Started, SessionExport, **body)
        assert (await two.expect(Output)).data == content[: 1 << 18]
        conflict = await two.ask(Error, SessionImport, **body)
        assert conflict.code == "conflict"
    again = await session.command("out", offset=512)
    assert b"".join([piece.data async for piece in again]) == content[512:]  # type: ignore[union-attr]
    with pytest.raises(NotFoundError):
        await session.command("other")


def test_without_await(daemon: DaemonProcess, unharmed: None, tmp_path: Path) -> None:
    with sync.connect(daemon.url) as client, client.open("open") as session:
        (tmp_path / "tar").write_bytes(archive("file", data=b"hello"))
        assert session.import_workspace(tmp_path / "tar").complete
        assert session.run(["cat", "file"]).stdout == b"hello"
        with (tmp_path / "out").open("wb") as file:
            assert session.export_workspace(file).complete
        assert [member.name for member in members(tmp_path / "out")] == ["file"]
        with pytest.raises(TransferError):
            session.import_workspace(io.BytesIO(b"no archive" * 100))


async def sessiond(daemon: DaemonProcess, *words: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        COMMAND[0], *words, "--url", daemon.url, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **UNDEBUGGED},
    )  # fmt: skip
    out, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out, errors.decode()


async def test_on_the_command_line(client: Client, daemon: DaemonProcess, tmp_path: Path) -> None:
    session = await client.open("open")
    content = archive("d/file", data=hashlib.sha256(b"").digest() * 100_000)
    assert await sessiond(daemon, "import", session.id, stdin=content) == (0, b"", "")
    code, out, errors = await sessiond(daemon, "export", session.id, "--path", "d")
    assert (code, errors, [member.name for member in members(out)]) == (0, "", ["file"])
    code, out, errors = await sessiond(daemon, "export", session.id, "-o", str(tmp_path / "tar"), "--json")
    assert (code, errors) == (0, "") and b'"complete": true' in out
    assert [member.name for member in members(tmp_path / "tar")] == ["d", "d/file"]
    assert (await sessiond(daemon, "import", session.id, str(tmp_path / "tar"), "--path", "copy"))[0] == 0
    assert (await session.run("cmp d/file copy/d/file", check=True)).ok
    code, out, errors = await sessiond(daemon, "import", session.id, stdin=b"no archive" * 100)
    assert (code, out) == (1, b"") and errors.startswith("sessiond: guest: tar-import: malformed: ")


async def test_an_incomplete_export_says_so(client: Client, daemon: DaemonProcess, tmp_path: Path) -> None:
    session = await client.open("open")
    await session.run("echo x >good; echo x >secret; chmod 0 secret", check=True)
    transfer = await session.export_workspace(tmp_path / "tar")
    assert not transfer.complete and "'secret': Permission denied" in transfer.notes[0]
    assert [member.name for member in members(tmp_path / "tar")] == ["good"]
    code, _, errors = await sessiond(daemon, "export", session.id, "-o", str(tmp_path / "tar"))
    assert code == 1 and "secret" in errors
    with pytest.raises(CommandFailedError):
        await session.run("cat secret", check=True)
