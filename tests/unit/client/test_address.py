"""Where the client looks for the daemon, and with which token."""

from __future__ import annotations

from pathlib import Path

import pytest
from sessiond_client import UsageError
from sessiond_client.address import find_address, find_token, parse_address
from sessiond_protocol.address import default_socket_path


@pytest.mark.parametrize(
    ("environ", "uid", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/a"}, 1000, "/run/user/1000/sessiond/sessiond.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0/", "HOME": "/root"}, 0, "/run/sessiond/sessiond.sock"),
        ({"HOME": "/home/a/"}, 1000, "/home/a/.local/state/sessiond/sessiond.sock"),
        ({"XDG_RUNTIME_DIR": "relative", "HOME": "/home/a"}, 1000, "/home/a/.local/state/sessiond/sessiond.sock"),
    ],
)
def test_default_socket(environ: dict[str, str], uid: int, path: str) -> None:
    assert default_socket_path(environ, uid) == path


@pytest.mark.parametrize(
    ("url", "text", "uri"),
    [
        ("unix:/a/b.sock", "unix:/a/b.sock", "ws://localhost:80/v1"),
        ("unix:///a/b.sock", "unix:/a/b.sock", "ws://localhost:80/v1"),
        ("ws://127.0.0.1:7000", "ws://127.0.0.1:7000", "ws://127.0.0.1:7000/v1"),
        ("ws://127.0.0.1:7000/v1", "ws://127.0.0.1:7000", "ws://127.0.0.1:7000/v1"),
        ("wss://example.org", "wss://example.org:443", "wss://example.org:443/v1"),
        ("ws://[::1]:7000/", "ws://[::1]:7000", "ws://[::1]:7000/v1"),
    ],
)
def test_urls(url: str, text: str, uri: str) -> None:
    address = parse_address(url)
    assert (str(address), address.uri) == (text, uri)


@pytest.mark.parametrize(
    "url",
    [
        "unix:relative",
        "unix:",
        "http://localhost:1",
        "ws://",
        "ws://host:99999",
        "ws://host/elsewhere",
        "localhost:80",
        "ws://user:secret@host:1",
        "ws://host:1/?token=secret",
        "ws://host:1/#secret",
    ],
)
def test_what_is_no_url_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


def test_the_environment_counts_when_no_url_is_given() -> None:
    environ = {"SESSIOND_URL": "ws://127.0.0.1:1", "HOME": "/h"}
    assert str(find_address(None, environ)) == "ws://127.0.0.1:1"
    assert str(find_address("unix:/x", environ)) == "unix:/x"
    assert str(find_address(None, {"HOME": "/h"})).endswith("sessiond.sock")


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert find_token(None, None, {}) is None
    assert find_token("given", None, {"SESSIOND_TOKEN": "other"}) == "given"
    assert find_token(None, None, {"SESSIOND_TOKEN": "env", "SESSIOND_TOKEN_FILE": str(file)}) == "env"
    assert find_token(None, None, {"SESSIOND_TOKEN_FILE": str(file)}) == "from-file"
    assert find_token(None, str(file), {"SESSIOND_TOKEN": "env"}) == "from-file"


def test_bad_tokens_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        find_token(None, str(file), {})
    with pytest.raises(UsageError, match="cannot read"):
        find_token(None, str(tmp_path / "none"), {})
    with pytest.raises(UsageError, match="not both"):
        find_token("a", str(file), {})
    for token in ("", "a\nb", "ü", "x" * 5000):
        with pytest.raises(UsageError, match="printable ASCII"):
            find_token(token, None, {})
