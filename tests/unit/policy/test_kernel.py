"""From a profile's kernel section to the RESTRICT frame, and from the guest's answer to what holds."""

from __future__ import annotations

from typing import Any

import pytest
from sessiond_protocol import guest as wire

from sessiond.policy.decide import load_policy
from sessiond.policy.kernel import (
    NAMES,
    SYSTEM_READ,
    KernelLayer,
    KernelRules,
    layer,
    restriction,
)
from sessiond.settings import KernelSettings

ALWAYS = wire.RESTRICT_SCOPE | wire.RESTRICT_IOCTL


def rules(**settings: Any) -> KernelRules:
    found = KernelRules.from_settings(KernelSettings(**settings))
    assert found is not None
    return found


def granted(frame: wire.Restrict) -> dict[str, int]:
    assert len({path for _, path in frame.grants}) == len(frame.grants)
    return {path.decode(): access for access, path in frame.grants}


def test_a_profile_that_says_nothing_asks_nothing() -> None:
    assert KernelRules.from_settings(KernelSettings()) is None
    assert KernelRules.from_settings(KernelSettings(exec="strict")) is None
    assert KernelRules.from_settings(KernelSettings(executables=["cat"], landlock="off")) is None


def test_each_setting_restricts_its_own() -> None:
    assert rules(network=False).flags == wire.RESTRICT_TCP | ALWAYS
    assert rules(read=["/etc"]).flags == wire.RESTRICT_READ | ALWAYS
    assert rules(write=[]).flags == wire.RESTRICT_WRITE | ALWAYS
    assert rules(executables=[], read="any", write="any").flags == wire.RESTRICT_EXECUTE | ALWAYS


def test_a_list_of_programs_closes_what_the_loader_could_read() -> None:
    frame = restriction(rules(executables=["python3", "/opt/tool"], exec="strict"), "/bin")
    assert frame.flags == wire.RESTRICT_EXECUTE | wire.RESTRICT_READ | wire.RESTRICT_WRITE | ALWAYS
    assert frame.search == b"/bin"
    paths = granted(frame)
    assert paths["python3"] == paths["/opt/tool"] == wire.ACCESS_PROGRAM
    assert set(SYSTEM_READ) <= paths.keys()
    assert paths["/workspace"] == paths["/tmp"] == wire.ACCESS_READ | wire.ACCESS_WRITE
    assert [path for path, access in paths.items() if access & wire.ACCESS_EXECUTE] == [
        "/lib64/ld-*.so*",
        "/lib/ld-*.so*",
    ]


def test_no_directory_of_programs_may_be_read_by_default() -> None:
    """The dynamic loader runs whatever it may read."""
    for path in granted(restriction(rules(executables=["cat"]), "")):
        assert path not in ("/", "/usr", "/usr/lib", "/lib", "/usr/libexec", "/usr/local"), path
        assert "bin" not in path.split("/"), path


@pytest.mark.parametrize(
    ("mode", "executable"),
    [("strict", set()), ("workspace", {"/workspace"}), ("any", {"/workspace", "/tmp", "/var/tmp", "/dev/shm"})],
)
def test_where_written_files_may_be_executed(mode: str, executable: set[str]) -> None:
    paths = granted(restriction(rules(executables=["cat"], exec=mode), ""))
    assert {path for path, access in paths.items() if access & wire.ACCESS_EXECUTE and "ld-" not in path} == executable


def test_directories_and_a_programs_own_helpers() -> None:
    paths = granted(restriction(rules(executables=["git", "/opt/tools/"]), ""))
    both = wire.ACCESS_READ | wire.ACCESS_EXECUTE
    assert paths["/opt/tools"] == paths["/usr/lib/git-core"] == both
    assert paths["git"] == wire.ACCESS_PROGRAM
    assert "/usr/lib/git-core" not in granted(restriction(rules(executables=["cat"]), ""))


def test_trees_add_to_the_systems_only_where_it_is_named() -> None:
    paths = granted(restriction(rules(read=["system", "/opt"], write=["/workspace"]), ""))
    assert {"/opt", *SYSTEM_READ} <= paths.keys()
    assert not paths.get("/tmp", 0) & wire.ACCESS_WRITE
    assert "/etc" not in granted(restriction(rules(read=["/opt"]), ""))


def test_the_frame_can_be_said() -> None:
    frame = restriction(rules(executables=["x"] * 1024, read=["/r"] * 1024, write=["/w"] * 1024), "/usr/bin:/bin")
    assert wire.DaemonDecoder().feed(wire.encode(frame)) == [frame]


def test_what_holds_is_what_was_asked_and_applied() -> None:
    asked = restriction(rules(executables=["cat"], network=False), "")
    held = layer(asked, wire.Restricted(7, 63, 40, 2))
    assert (held.abi, held.absent, held.missing) == (7, (), 2)
    assert set(held.applied) == set(NAMES.values())
    assert str(held) == "landlock abi 7"
    older = layer(asked, wire.Restricted(3, 7))
    assert older.absent == ("tcp", "scope", "ioctl")
    assert str(older) == "landlock abi 3, without tcp, scope, ioctl"
    assert str(layer(asked, wire.Restricted(0, 0))) == "no landlock"


def test_a_guest_cannot_claim_what_was_not_asked() -> None:
    asked = restriction(rules(network=False), "")
    assert "execute" not in layer(asked, wire.Restricted(7, 63)).applied
    assert isinstance(layer(asked, wire.Restricted(7, 63)), KernelLayer)


def test_executables_from_the_policy_are_its_programs_and_trees() -> None:
    """Also what it asks about; not what it denies; and no tree of programs, which the loader would run."""
    table = {
        "include": ["strict"],
        "paths": {"read": ["/srv/data", "/usr/bin"], "write": ["/srv/out"]},
        "rule": [
            {"id": "a", "programs": ["mytool", "/opt/tool"], "any": True},
            {"id": "b", "programs": ["asked"], "any": True, "verdict": "ask"},
            {"id": "c", "programs": ["never"], "any": True, "verdict": "deny"},
        ],
    }
    policy = load_policy("mine", named={"mine": table})
    derived = KernelRules.from_settings(KernelSettings(executables="policy", exec="strict"), policy)
    assert derived is not None
    assert {"python3", "pytest", "black", "pylint", "mytool", "/opt/tool", "asked"} <= set(derived.executables)
    assert not {"never", "git", "sh", "python -m pytest"} & set(derived.executables)
    grants = granted(restriction(derived, "/bin"))
    assert grants["/srv/data"] == wire.ACCESS_READ
    assert grants["/srv/out"] == grants["/workspace"] == wire.ACCESS_READ | wire.ACCESS_WRITE
    assert not {"/usr/bin", "/usr/lib", "/bin"} & set(grants)


def test_executables_from_a_policy_that_allows_everything_restrict_nothing() -> None:
    assert KernelRules.from_settings(KernelSettings(executables="policy"), load_policy("open")) is None
