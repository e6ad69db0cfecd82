"""Commands of a session, on the real path."""

from __future__ import annotations

from sessiond_client import Client


async def test_exit_code_and_both_streams(client: Client) -> None:
    session = await client.open("open")
    result = await session.run("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.signal, result.cause) == (3, None, "exit")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert sorted(result.output) == sorted(b"out\nerr\n")


async def test_argv_is_passed_on_as_it_is(client: Client) -> None:
    session = await client.open("open")
    words = ["a b", "", "$HOME", "*", "quo'te", 'dou"ble', "new\nline", "ünïcode"]
    result = await session.run(["python3", "-c", "import sys; print(sys.argv[1:])", *words])
    assert result.stdout.decode() == f"{words}\n"
