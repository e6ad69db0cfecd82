"""Trees on their way: what comes out of a sandbox is not trusted."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from sessiond_client import TransferError
from sessiond_client.tree import pack_tree, unpack_tree


def archive(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o4755
            info.size = 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"new"))
    return out.getvalue()


def unpack(content: bytes, target: Path) -> None:
    with unpack_tree(target, None) as unpacked:
        unpacked.file.write(content)


FILE, LINK, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def test_a_tree_goes_through_a_pipe_and_comes_back(tmp_path: Path) -> None:
    tree, back = tmp_path / "tree", tmp_path / "back"
    (tree / "d" / "e").mkdir(parents=True)
    (tree / "d" / "f").write_bytes(os.urandom(1_000_000))
    (tree / "l").symlink_to("d/f")
    counted: list[int] = []
    with pack_tree(tree, counted.append) as packed:
        content = b""
        while data := packed.file.read(65536):
            content += data
    assert counted[-1] == len(content)
    unpack(content, back)
    assert (back / "d" / "f").read_bytes() == (tree / "d" / "f").read_bytes()
    assert (back / "l").readlink() == Path("d/f")


@pytest.mark.parametrize(
    "members",
    [
        [("../x", FILE, "")],
        [("/x", FILE, "")],
        [("a/../../x", FILE, "")],
        [("out/x", FILE, "")],
        [("out", DIRECTORY, ""), ("out/x", FILE, "")],
        [("l", LINK, "d"), ("l/x", LINK, "y")],
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (target / "out").symlink_to(outside)
    with pytest.raises((TransferError, OSError)):
        unpack(archive(*members), target)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "target"]


def test_links_that_lead_out_and_devices_are_left_out_and_nothing_gets_special_bits(tmp_path: Path) -> None:
    target = tmp_path / "target"
    members = [("a", LINK, "/etc/passwd"), ("b", LINK, "../x"), ("c", LINK, "f"), ("p", tarfile.FIFOTYPE, "")]
    unpack(archive(*members, ("h", tarfile.LNKTYPE, "/etc/passwd"), ("f", FILE, "")), target)
    assert sorted(path.name for path in target.iterdir()) == ["c", "f"]
    assert (target / "f").stat().st_mode & 0o7777 == 0o755


def test_a_file_is_not_written_through_a_link_that_has_its_name(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "mine").write_text("mine")
    (target / "f").symlink_to(tmp_path / "mine")
    unpack(archive(("f", FILE, "")), target)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (target / "f").read_text() == "new"


def test_no_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no good archive"):
        unpack(b"x" * 100_000, tmp_path / "target")
