"""What must hold before a session may have a sandbox with kernel rules."""

import errno

import pytest
from sessiond_protocol import guest as wire

from sessiond.core.errors import RequestError
from sessiond.engine.port import SandboxSpec
from sessiond.policy.kernel import KernelRules, restriction
from sessiond.runtime.confine import confine
from sessiond.runtime.link import GuestLink, LinkError
from sessiond.runtime.outbox import Outbox
from sessiond.runtime.sandbox import Sandbox

ALL = 63
USE = KernelRules(executables=("cat",), read=("system",), write=("system",), network=False)
REQUIRE = KernelRules(executables=("cat",), read=("system",), write=("system",), network=False, use="require")


class Link(GuestLink):
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self, answer: wire.Restricted | LinkError) -> None:
        super().__init__("s-1", lambda _: None, Outbox())
        self.answer = answer
        self.asked: list[wire.Restrict] = []

    async def restrict(self, frame, seconds):
        self.asked.append(frame)
        if isinstance(self.answer, LinkError):
            raise self.answer
        return self.answer


def sandbox(answer: wire.Restricted | LinkError) -> Sandbox:
    made = Sandbox(None, SandboxSpec("s-1", "p"), Outbox())
    made.link = Link(answer)
    return made


@pytest.mark.parametrize("rules", [USE, REQUIRE])
async def test_all_of_it_holds(rules):
    held = sandbox(wire.Restricted(7, ALL, 40, 1))
    await confine(held, rules, "/usr/bin")
    assert held.link.asked == [restriction(rules, "/usr/bin")]
    assert str(held.layer) == "landlock abi 7"
    assert held.layer.absent == ()


@pytest.mark.parametrize(("abi", "applied"), [(0, 0), (1, 7), (5, 47)])
async def test_an_older_kernel_is_enough_unless_the_profile_requires_all(abi, applied):
    less = sandbox(wire.Restricted(abi, applied))
    await confine(less, USE, "")
    assert less.layer.absent
    with pytest.raises(RequestError, match="requires kernel rules") as caught:
        await confine(sandbox(wire.Restricted(abi, applied)), REQUIRE, "")
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize("rules", [USE, REQUIRE])
@pytest.mark.parametrize(
    "answer",
    [
        wire.Restricted(7, 0, 3, 0, errno.ENOMEM),
        wire.Restricted(7, 0),
        wire.Restricted(7, wire.RESTRICT_READ | wire.RESTRICT_WRITE),
        LinkError("the guest did not answer"),
    ],
)
async def test_what_failed_is_never_taken_for_what_is_missing(rules, answer):
    """A kernel that has it and did not do it: nobody may have the sandbox, whatever the profile makes do with."""
    with pytest.raises(RequestError) as caught:
        await confine(sandbox(answer), rules, "")
    assert caught.value.code == "unavailable"
