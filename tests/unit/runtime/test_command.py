"""One command between its client and its guest; the channel here only remembers what it was given."""

from pathlib import Path

import pytest
from sessiond_protocol import guest as wire
from sessiond_protocol.codec import encode
from sessiond_protocol.messages import Error, Exited, Failed, Failure, Gap, Output, Started, StdinAck, Terminal

from sessiond.core.errors import RequestError
from sessiond.runtime.command import Command, Starter
from sessiond.runtime.reports import GuestFault
from tests.unit.runtime.keeper import make_command

RING = 1024 * 1024


class Channel:
    def __init__(self):
        self.sent = []

    def send(self, frame, *, soon=True):
        self.sent.append(frame)

    def of(self, kind):
        return [frame for frame in self.sent if isinstance(frame, kind)]


class Sink:
    def __init__(self):
        self.sent, self.writable, self.done = [], True, 0

    def send(self, message):
        self.sent.append(message)

    def finished(self, follower):
        self.done += 1


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(**fields) -> Command:
    return make_command(Path("spools"), **fields)


def launch(command: Command, channel: Channel | None = None) -> Channel:
    channel = channel or Channel()
    command.launch(channel, wire.Start(7, (b"cat",), b"/", stdin=True))
    return channel


def running(**fields) -> tuple[Command, Channel]:
    command = make(**fields)
    channel = launch(command)
    command.on_started(wire.Started(7, 5))
    return command, channel


def test_what_comes_while_it_waits_to_be_admitted_reaches_the_guest():
    command = make(stdin=True, input=b"ab")
    command.write(2, b"cd")
    command.close_stdin(4)
    command.signal(15, tree=False)
    command.signal(9, tree=True)
    channel = launch(command)
    assert isinstance(channel.sent[0], wire.Start)
    assert channel.sent[1:] == [
        wire.Stdin(7, 0, b"ab"),
        wire.Stdin(7, 2, b"cd"),
        wire.StdinClose(7, 4),
        wire.Signal(7, 15, wire.SCOPE_GROUP),
        wire.Signal(7, 9, wire.SCOPE_TREE),
    ]


def test_a_guest_that_redials_is_told_again_what_may_not_have_reached_it():
    command, channel = running(stdin=True)
    command.write(0, b"abc")
    command.write(3, b"def")
    command.on_stdin_ack(wire.StdinAck(7, 3))
    command.signal(15, tree=False)
    command.signal(9, tree=True)
    channel.sent.clear()
    command.resynchronise(known=True)
    assert channel.sent == [
        wire.OutputAck(7, 0),
        wire.Stdin(7, 3, b"def"),
        wire.Signal(7, 9, wire.SCOPE_TREE),
    ]


def test_a_running_command_that_the_guest_does_not_know_is_lost_and_never_run_again():
    command, channel = running()
    channel.sent.clear()
    command.resynchronise(known=False)
    assert command.state == "lost"
    assert channel.of(wire.Start) == []


def test_a_start_that_never_arrived_is_sent_again():
    command = make()
    channel = launch(command)
    channel.sent.clear()
    command.resynchronise(known=False)
    assert len(channel.of(wire.Start)) == 1
    assert command.state == "starting"


def test_output_is_sent_within_the_window_and_the_end_only_after_the_last_byte():
    command, _ = running()
    sink = Sink()
    follower = command.follow(sink, 0, 4)
    command.on_output(wire.Output(7, 1, 0, b"abcdef"), RING)
    command.on_eof(wire.OutputEof(7, 1, 6))
    command.on_eof(wire.OutputEof(7, 2, 6))
    command.on_exited(wire.Exited(7, 3, 0, output_bytes=6))
    assert [message.data for message in sink.sent if isinstance(message, Output)] == [b"abcd"]
    assert not any(isinstance(message, Exited) for message in sink.sent)
    follower.ack(4, 4)
    follower.pump()
    assert sink.sent[-2].data == b"ef"
    assert sink.sent[-1].exit.code == 3
    assert sink.done == 1
    assert command.followers == {}


def test_a_client_that_is_full_gets_nothing_until_it_is_writable_again():
    command, _ = running()
    sink = Sink()
    follower = command.follow(sink, 0, 100)
    sink.writable = False
    command.on_output(wire.Output(7, 1, 0, b"abc"), RING)
    assert sink.sent == []
    sink.writable = True
    follower.pump()
    assert sink.sent[0].data == b"abc"


def test_a_reader_behind_what_is_kept_is_told_the_gap():
    command, _ = running()
    command.on_output(wire.Output(7, 1, 0, b"abc"), RING)
    command.spool.forget()
    sink = Sink()
    command.follow(sink, 1, 100).pump()
    assert sink.sent == [Gap(session="s", command="c", start=1, end=3)]


def test_a_repetition_after_a_redial_is_skipped():
    command, _ = running()
    command.on_output(wire.Output(7, 1, 0, b"abc"), RING)
    command.on_output(wire.Output(7, 1, 0, b"abc"), RING)
    command.on_output(wire.Output(7, 1, 1, b"bcd"), RING)
    assert bytes(command.spool.read(0, 100).data) == b"abcd"
    command.on_exited(wire.Exited(7, 0, 0, output_bytes=4))
    first = command.exit
    command.on_exited(wire.Exited(7, 9, 0, output_bytes=4))
    assert command.exit is first


@pytest.mark.parametrize(
    "lie",
    [
        lambda c: c.on_output(wire.Output(7, 1, 5, b"hole"), RING),
        lambda c: c.on_output(wire.Output(7, 1, 0, bytes(11)), 10),
        lambda c: c.on_exited(wire.Exited(7, 0, 0, output_bytes=99)),
        lambda c: c.on_exited(wire.Exited(7, 256, 0)),
        lambda c: c.on_exited(wire.Exited(7, 0, 65)),
        lambda c: c.on_stdin_ack(wire.StdinAck(7, 1)),
        lambda c: c.on_failed(wire.Failed(7, 2, wire.STAGE_EXEC)),
    ],
)
def test_a_lying_guest_is_a_fault(lie):
    command, _ = running(stdin=True)
    with pytest.raises(GuestFault):
        lie(command)


def test_an_end_before_the_start_is_a_fault():
    command = make()
    launch(command)
    with pytest.raises(GuestFault):
        command.on_exited(wire.Exited(7, 0, 0))


def test_stdin_with_a_hole_or_beyond_the_window_is_refused_and_a_repetition_is_not():
    command, channel = running(stdin=True)
    command.write(0, b"abc")
    command.write(0, b"abcd")
    assert channel.of(wire.Stdin)[-1] == wire.Stdin(7, 3, b"d")
    with pytest.raises(RequestError, match="goes on at 4"):
        command.write(9, b"x")
    with pytest.raises(RequestError, match="window"):
        command.write(4, bytes(wire.STDIN_WINDOW))
    command.close_stdin(4)
    with pytest.raises(RequestError, match="closed"):
        command.write(4, b"x")


def test_who_writes_on_is_told_where_standard_input_stands_also_when_all_of_it_is_old():
    command, _ = running(stdin=True)
    command.write(0, b"abcdef")
    command.on_stdin_ack(wire.StdinAck(7, 4))
    command.stdin_sink = sink = Sink()
    command.tell_stdin(6)
    command.tell_stdin(3)  # What another wrote after it is not its business.
    command.on_stdin_ack(wire.StdinAck(7, wire.NO_MORE_STDIN))
    command.tell_stdin(6)
    window = wire.STDIN_WINDOW
    told = [(message.offset, message.window) for message in sink.sent if isinstance(message, StdinAck)]
    assert told == [(4, window), (3, window), (6, 0), (6, 0)]


def test_a_start_is_answered_by_its_start_or_by_its_end_as_asked():
    command = make()
    started, ended, follows = Sink(), Sink(), Sink()
    command.starters += [Starter(started, 1, "started"), Starter(ended, 2, "exited"), Starter(follows, 3, "exited")]
    command.follow(follows, 0, 10)
    launch(command)
    command.on_started(wire.Started(7, 5))
    assert started.sent == [Started(re=1, session="s", command="c", pid=5)]
    assert ended.sent == []
    command.on_output(wire.Output(7, 1, 0, b"x"), RING)
    command.on_exited(wire.Exited(7, 0, 0, output_bytes=1))
    assert [message.re for message in ended.sent] == [2]
    assert [type(message) for message in follows.sent] == [Output, Exited]
    assert follows.sent[-1].re == 3
    assert len(started.sent) == 1


def test_what_cannot_be_spawned_is_an_error_with_a_reason():
    command = make()
    sink = Sink()
    command.starters.append(Starter(sink, 1, "started"))
    command.follow(sink, 0, 10)
    launch(command)
    command.on_failed(wire.Failed(7, 2, wire.STAGE_EXEC))
    error, failed = sink.sent
    assert isinstance(error, Error)
    assert isinstance(failed, Failed)
    assert "'cat' cannot be executed" in error.message
    assert command.state == "failed"


def test_a_program_name_of_any_length_leaves_room_for_the_reason():
    name = "\x01" * 60_000
    command = make(argv=[name])
    sink = Sink()
    command.starters.append(Starter(sink, 1, "started"))
    command.launch(Channel(), wire.Start(7, (name.encode(),), b"/"))
    command.on_failed(wire.Failed(7, 36, wire.STAGE_EXEC))
    assert len(encode(sink.sent[0])) < 4096


def test_a_missing_shell_has_a_substitute_once():
    command = make()
    tried = []
    command.substitute = tried.append
    launch(command)
    command.on_failed(wire.Failed(7, 2, wire.STAGE_EXEC))
    assert tried == [command]
    assert command.state == "starting"
    command.on_failed(wire.Failed(8, 2, wire.STAGE_EXEC))
    assert command.state == "failed"


def test_output_is_acknowledged_in_large_steps_and_not_while_the_record_is_full():
    command, channel = running()
    for number in range(4):
        command.on_output(wire.Output(7, 1, number * 65536, bytes(65536)), RING)
    assert channel.of(wire.OutputAck) == [wire.OutputAck(7, 262144)]
    for number in range(4, 20):
        command.on_output(wire.Output(7, 1, number * 65536, bytes(65536)), RING)
    last = channel.of(wire.OutputAck)[-1].offset
    assert last <= 1 << 20
    sink = Sink()
    follower = command.follow(sink, 0, RING * 4)
    follower.pump()
    follower.ack(command.spool.end, RING)
    command.acknowledge()
    assert channel.of(wire.OutputAck)[-1].offset == command.spool.end


def recalled(**fields) -> tuple[Command, Channel]:
    """A command that an earlier life of the daemon started."""
    fresh = make(**fields)
    command = Command.recalled(
        session_id="s",
        number=1,
        request=fresh.request,
        body=b"",
        spool=fresh.spool,
        keeper=fresh._keeper,
        end=None,
        started=None,
        settled=False,
    )
    channel = Channel()
    command.expect(channel, 7, wire.Start(7, (b"cat",), b"/", stdin=True))
    return command, channel


def test_after_a_restart_standard_input_goes_on_where_the_guest_says():
    command, channel = recalled(stdin=True, input=b"ab")
    command.write(5, b"fgh")  # what its client has not seen acknowledged, or more
    command.on_started(wire.Started(7, 5))
    command.on_stdin_ack(wire.StdinAck(7, 6))
    channel.sent.clear()
    command.resynchronise(known=True)
    assert channel.of(wire.Stdin) == [wire.Stdin(7, 5, b"fgh")]
    command.write(8, b"i")
    assert channel.of(wire.Stdin)[-1] == wire.Stdin(7, 8, b"i")
    command.close_stdin(9)
    assert channel.of(wire.StdinClose) == [wire.StdinClose(7, 9)]


def test_after_a_restart_a_reader_may_be_ahead_of_what_is_kept():
    """Output is sent on before it is on the disk; the guest has it still."""
    command, _ = recalled()
    sink = Sink()
    command.follow(sink, 3, 100).pump()
    command.on_started(wire.Started(7, 5))
    command.on_output(wire.Output(7, 1, 0, b"abcdef"), RING)
    assert [(message.offset, message.data) for message in sink.sent] == [(3, b"def")]


def test_after_a_restart_a_start_that_never_arrived_is_sent():
    command, channel = recalled()
    command.resynchronise(known=False)
    assert len(channel.of(wire.Start)) == 1


def test_an_ended_command_whose_streams_are_held_is_settled_when_the_guest_knows_it_no_more():
    command, _ = running()
    command.on_exited(wire.Exited(7, 0, 0))
    assert not command.settled
    command.resynchronise(known=False)
    assert command.settled


def told(sink):
    return [(message.offset, message.window) for message in sink.sent if isinstance(message, StdinAck)]


def test_who_takes_standard_input_has_it_alone_and_the_one_before_is_told():
    command, _ = running(stdin=True)
    command.stdin_sink = first = Sink()
    second, taken = Sink(), []
    command.take_stdin(second, lambda: taken.append(command.info().stdin))
    assert (told(first), taken) == ([(0, 0)], [0])
    command.check_stdin(second)
    with pytest.raises(RequestError, match="another connection"):
        command.check_stdin(first)
    command.unfollow(second)
    command.check_stdin(first)


def test_standard_input_of_an_earlier_life_is_taken_when_the_guest_has_said_where_it_stands():
    command, _ = recalled(stdin=True)
    taken = []
    command.take_stdin(Sink(), lambda: taken.append(command.info().stdin))
    assert (taken, command.info().stdin) == ([], None)
    command.on_stdin_ack(wire.StdinAck(7, 1000))
    assert taken == [1000]


@pytest.mark.parametrize("end", ["gone", "lost"])
def test_who_waits_for_standard_input_is_answered_when_there_is_none_any_more(end):
    command, _ = recalled(stdin=True)
    taken = []
    command.take_stdin(Sink(), lambda: taken.append(True))
    if end == "gone":
        command.on_stdin_ack(wire.StdinAck(7, wire.NO_MORE_STDIN))
    else:
        command.lose(Failure(code="gone", message="lost"))
    assert taken == [True]


def test_standard_input_that_is_none_cannot_be_taken():
    command, _ = running()
    with pytest.raises(RequestError, match="without standard input"):
        command.take_stdin(Sink(), lambda: None)


def test_a_terminal_has_one_stream_and_its_last_size_is_repeated():
    command, channel = running(stdin=True, pty=Terminal())
    command.resize(10, 20)
    command.resize(30, 40)
    channel.sent.clear()
    command.resynchronise(known=True)
    assert channel.of(wire.Resize) == [wire.Resize(7, 30, 40)]
    command.on_exited(wire.Exited(7, 0, 0, stdout_eof=True))
    assert command.silent


def test_only_a_terminal_has_a_size():
    command, channel = running()
    with pytest.raises(RequestError, match="without a terminal"):
        command.resize(10, 20)
    assert channel.of(wire.Resize) == []
