"""What becomes of an archive on its way, with a scripted command at the other end."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sessiond_client import ExitStatus, Gap, Output, RemoteError, StdinClosedError, TransferError
from sessiond_client.transfer import export_to, import_from


class Scripted:
    """Says what it is told to, and remembers what was written to it."""

    def __init__(
        self, *said: Output | Gap, code: int | None = 0, reads: int = 1 << 30, closes: Exception | None = None
    ):
        self._said: Iterable[Output | Gap] = said
        self._code = code
        self._reads = reads
        self._closes = closes
        self.got = bytearray()
        self.closed = False

    async def __aiter__(self) -> Any:
        for piece in self._said:
            yield piece

    async def write(self, data: bytes) -> None:
        if len(self.got) + len(data) > self._reads:
            raise self._closes or StdinClosedError("it reads no more")
        self.got += data

    async def close_stdin(self) -> None:
        self.closed = True

    async def wait(self) -> ExitStatus:
        signal = 9 if self._code is None else None
        return ExitStatus(self._code, signal, "exit" if signal is None else "killed", 0.1, 0.0, 0.0, 0, 0)


def command(*said: Output | Gap, **options: Any) -> Any:
    return Scripted(*said, **options)


ARCHIVE = [Output("stdout", b"one", 0), Output("stderr", b"note 1\nnote 2\n", 3), Output("stdout", b"two", 17)]


async def test_only_standard_output_is_the_archive(tmp_path: Path) -> None:
    transfer = await export_to(command(*ARCHIVE), tmp_path / "tar")
    assert (tmp_path / "tar").read_bytes() == b"onetwo"
    assert (transfer.size, transfer.complete, transfer.notes) == (6, True, ("note 1", "note 2"))
    file = io.BytesIO()
    assert (await export_to(command(*ARCHIVE, code=5), file)).complete is False
    assert file.getvalue() == b"onetwo"


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (ARCHIVE, 1, "note 2"),
        (ARCHIVE, 3, "note 2"),
        (ARCHIVE[:1], 77, "exited with 77"),
        (ARCHIVE[:1], None, "SIGKILL"),
        ([ARCHIVE[0], Gap(3, 900)], 0, "3 to 900"),
    ],
)
async def test_a_path_gets_a_whole_archive_or_stays_as_it_was(
    tmp_path: Path, said: list[Output | Gap], code: int | None, words: str
) -> None:
    (tmp_path / "tar").write_text("old")
    with pytest.raises(TransferError, match=words):
        await export_to(command(*said, code=code), tmp_path / "tar")
    assert [path.name for path in tmp_path.iterdir()] == ["tar"]
    assert (tmp_path / "tar").read_text() == "old"


async def test_all_of_a_source_is_written_and_closed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000
    (tmp_path / "tar").write_bytes(data)
    for source in (tmp_path / "tar", str(tmp_path / "tar"), io.BytesIO(data)):
        scripted = command()
        transfer = await import_from(scripted, source)
        assert (bytes(scripted.got), scripted.closed, transfer.size) == (data, True, len(data))


@pytest.mark.parametrize("closes", [StdinClosedError("no more"), RemoteError("gone", "no more")])
async def test_what_stops_reading_says_why_by_its_end(closes: Exception) -> None:
    scripted = command(Output("stderr", b"refused: x\n", 0), code=3, reads=300_000, closes=closes)
    with pytest.raises(TransferError, match="refused: x") as failed:
        await import_from(scripted, io.BytesIO(bytes(1_000_000)))
    assert failed.value.exit_code == 3


async def test_notes_are_bounded() -> None:
    scripted = command(*(Output("stderr", b"x" * 50_000, 0) for _ in range(100)))
    transfer = await import_from(scripted, io.BytesIO(b""))
    assert sum(map(len, transfer.notes)) == 64 * 1024
