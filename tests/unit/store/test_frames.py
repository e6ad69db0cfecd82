"""The journal's layout: what was written is read, and nothing else is taken for it."""

from hypothesis import given
from hypothesis import strategies as st

from sessiond.store import frames

SALT = 0x12345678
BODIES = st.binary(min_size=1, max_size=200)


@given(st.integers(0, 2**64 - 1), BODIES, st.integers(0, 2**32 - 1), st.binary(max_size=20))
def test_a_record_is_read_as_it_was_written(seq, body, salt, around):
    record = frames.encode(seq, body, salt)
    assert frames.length(around + record, len(around)) == len(record) == len(body) + frames.OVERHEAD_BYTES
    read = frames.decode(around + record + around, len(around), salt)
    assert read == (seq, body, len(around) + len(record))


@given(BODIES, st.data())
def test_a_changed_or_cut_record_is_none(body, data):
    record = frames.encode(7, body, SALT)
    at = data.draw(st.integers(0, len(record) - 1))
    changed = bytearray(record)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert frames.decode(bytes(changed), 0, SALT) is None
    assert frames.decode(record[:at], 0, SALT) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_none_and_a_record_or_none(data):
    assert frames.read_header(data) is None
    assert frames.decode(data, 0, SALT) is None


def test_a_record_is_found_behind_damage_by_its_seq():
    damage = b"\x92\xcf" + bytes(50)
    record = frames.encode(9, b"body", SALT)
    assert frames.find(damage + record, 0, 8, SALT) == len(damage)
    assert frames.find(damage + record, 0, 9, SALT) is None
    assert frames.find(damage + record[:-1], 0, 8, SALT) is None


def test_output_that_imitates_a_record_is_not_one():
    """A sandbox's output lies in records; it does not know the salt."""
    assert frames.find(frames.encode(9, b"body", SALT + 1), 0, 0, SALT) is None


def test_header():
    header = frames.header(2**40, SALT)
    assert frames.read_header(header + b"more") == (frames.FORMAT, 2**40, SALT)
    for at in range(len(header)):
        assert frames.read_header(header[:at]) is None
        changed = bytearray(header)
        changed[at] ^= 1
        read = frames.read_header(bytes(changed))
        assert read is None or (8 <= at < 12 and read.version != frames.FORMAT)
