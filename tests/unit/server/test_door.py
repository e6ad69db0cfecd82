"""Who may come in."""

from http import HTTPStatus

import pytest

from sessiond.server.door import Door, check_peer, check_request, host_name

TCP = Door("tcp", token=b"0123456789abcdef", hosts=frozenset({"localhost", "127.0.0.1", "::1"}), uids=None)
UNIX = Door("unix", token=None, hosts=None, uids=frozenset({0, 1000}))
GOOD = {"host": "localhost:8080", "authorization": "Bearer 0123456789abcdef"}


def status(door: Door, headers: dict[str, str]) -> HTTPStatus | None:
    refusal = check_request(door, headers)
    return refusal.status if refusal else None


def test_the_right_token_at_the_right_host_comes_in():
    assert status(TCP, GOOD) is None
    assert status(UNIX, {"host": "anything"}) is None


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "Basic 0123456789abcdef", "Bearer 0123456789abcdef, Bearer x"]
)
def test_no_or_another_token_is_401(authorization):
    assert status(TCP, {**GOOD, "authorization": authorization}) == HTTPStatus.UNAUTHORIZED
    without = {name: value for name, value in GOOD.items() if name != "authorization"}
    assert status(TCP, without) == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://localhost:3000", "http://127.0.0.1:8080", ""])
@pytest.mark.parametrize("door", [TCP, UNIX])
def test_every_browser_origin_is_403_even_with_the_token(origin, door):
    assert status(door, {**GOOD, "origin": origin}) == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8080", "localhost.evil.test", "", "127.0.0.1.nip.io", "localhost, evil"]
)
def test_a_rebound_host_name_is_403(host):
    assert status(TCP, {**GOOD, "host": host}) == HTTPStatus.FORBIDDEN


def test_another_user_may_not_connect():
    assert check_peer(UNIX, 1000)
    assert check_peer(UNIX, 0)
    assert not check_peer(UNIX, 1001)
    assert not check_peer(UNIX, None)
    assert check_peer(TCP, None)


@pytest.mark.parametrize(
    ("header", "name"),
    [("Localhost:1", "localhost"), ("[::1]:80", "::1"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")],
)
def test_host_names_are_read_without_port_brackets_and_case(header, name):
    assert host_name(header) == name
