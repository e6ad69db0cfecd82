"""Listings are cut by count and by size."""

from sessiond_protocol.codec import encode
from sessiond_protocol.messages import CommandInfo, CommandsReply

from sessiond.core.paging import page


def info(size: int) -> CommandInfo:
    return CommandInfo(session="s", command="c", state="exited", argv=["x" * size])


def test_cuts_by_count():
    items = [info(1)] * 5
    assert page(items, 5) == (items, False)
    assert page(items, 4) == (items[:4], True)
    assert page([], 4) == ([], False)


def test_a_page_of_large_commands_fits_into_a_frame():
    found, more = page([info(60_000)] * 256, 256)
    assert more
    assert len(encode(CommandsReply(re=1, commands=found))) < 1024 * 1024


def test_at_least_one_item_whatever_its_size():
    assert page([info(600_000)] * 2, 10) == ([info(600_000)], True)
