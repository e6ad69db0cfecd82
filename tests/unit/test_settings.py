"""Settings: defaults that work, a file, the environment, and errors that name their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessiond.engine.port import Limits
from sessiond.settings import SettingsError, load

EXAMPLE = Path(__file__).parents[2] / "sessiond.example.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SESSIOND_DAEMON", "SESSIOND_PROFILES", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sessiond.toml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(str(tmp_path) + "/") for problem in caught.value.problems]


def test_defaults_work_without_a_file() -> None:
    settings = load(None)
    assert list(settings.profiles) == ["default"]
    profile = settings.profiles["default"]
    assert profile.limits.to_limits() == Limits()
    assert (profile.policy.use, profile.policy.allow, profile.policy.open) == ("developer", None, False)
    assert settings.daemon.listen[0].startswith("unix:/")
    assert settings.daemon.state.is_absolute()


def test_an_ordinary_user_keeps_state_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert load(None).daemon.state == tmp_path / ".local/state/sessiond"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert load(None).daemon.state == Path("/state/sessiond")
    assert load(None).daemon.listen == ["unix:/run/user/1000/sessiond/sessiond.sock"]


def test_the_example_is_valid_and_says_the_defaults() -> None:
    assert load(EXAMPLE) == load(None)


def test_the_example_with_every_comment_taken_away_is_valid(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    lines = [line.removeprefix("#: ") for line in text.splitlines()]
    settings = load(write(tmp_path, "\n".join(lines)))
    assert "locked" in settings.profiles


def test_sizes_and_durations_are_read(tmp_path: Path) -> None:
    settings = load(
        write(
            tmp_path,
            """
            [daemon]
            drain = "1.5m"
            ping_interval = 5
            [profiles.default]
            ttl = "1h"
            output = { command_bytes = "2MB" }
            [profiles.default.limits]
            memory_bytes = "1GiB"
            tmp_bytes = 1048576
            """,
        )
    )
    profile = settings.profiles["default"]
    assert settings.daemon.drain == 90.0
    assert settings.daemon.ping_interval == 5.0
    assert (profile.output.command_bytes, profile.ttl) == (2_000_000, 3600.0)
    assert profile.limits.to_limits() == Limits(memory_bytes=1024**3, tmp_bytes=1024**2)


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path, "[profiles.default.pool]\nmin = 1\nmax = 9\n")
    monkeypatch.setenv("SESSIOND_PROFILES__DEFAULT__POOL__MIN", "3")
    monkeypatch.setenv("SESSIOND_DAEMON__LISTEN", '["tcp:127.0.0.1:8000"]')
    monkeypatch.setenv("SESSIOND_URL", "unix:/client/only")
    settings = load(path)
    assert (settings.profiles["default"].pool.min, settings.profiles["default"].pool.max) == (3, 9)
    assert settings.daemon.listen == ["tcp:127.0.0.1:8000"]


def test_an_error_names_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_DAEMON__SPAWN", "3")
    with pytest.raises(SettingsError) as caught:
        load(None)
    assert caught.value.problems == [
        "environment SESSIOND_DAEMON__SPAWN: daemon.spawn: unknown key; did you mean spawns?"
    ]


def test_a_list_in_the_environment_that_is_not_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_DAEMON__LISTEN", "unix:/x")
    with pytest.raises(SettingsError, match="JSON"):
        load(None)


def test_every_problem_is_reported_with_file_line_and_key(tmp_path: Path) -> None:
    text = (
        "[daemon]\n"
        'listne = ["unix:/x"]\n'
        "spawns = true\n"
        "\n"
        "[profiles.default]\n"
        "env.NOTE = '''\n"
        "spawns = 3\n"
        "'''\n"
        'limits = { memory_bytes = "512Mb", cpus = 2 }\n'
        "pool.min = 50\n"
        '[profiles."Bad"]\n'
        "[profiles.x.policy]\n"
        "allow = [\n"
        '  "ls",\n'
        '  "./x",\n'
        "]\n"
        "[tpo]\n"
    )
    found = {problem.split(": ")[0]: problem for problem in problems(tmp_path, text)}
    assert "daemon.listne: unknown key; did you mean listen?" in found["sessiond.toml:2"]
    assert "daemon.spawns: expected a number" in found["sessiond.toml:3"]
    assert "profiles.default.limits.memory_bytes: expected a size" in found["sessiond.toml:9"]
    assert "profiles.default.pool: min (50) is more than max (32)" in found["sessiond.toml:10"]
    assert "profiles.Bad" in found["sessiond.toml:11"]
    assert "'./x' is neither" in found["sessiond.toml:13"]
    assert "tpo: unknown key" in found["sessiond.toml:17"]
    assert len(found) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[daemon\n", "sessiond.toml:1: "),
        ("a = 1\na = 2\n", "sessiond.toml:2: "),
        ("a = [", "sessiond.toml:"),
        ("_env_file = '/x'\n", "_env_file: unknown key"),
        ('[daemon]\nstate = "here"\n', "absolute"),
        ('[daemon]\nlisten = ["unix:x"]\n', "absolute path"),
        ('[daemon]\nlisten = ["tcp:localhost:1"]\n', "tcp:127.0.0.1:PORT"),
        ('[daemon]\nlisten = ["tcp:127.0.0.1:65536"]\n', "tcp:127.0.0.1:PORT"),
        ('[daemon]\nlisten = ["tcp:0.0.0.0:80"]\n', "not loopback"),
        ('[daemon]\nlisten = ["unix:/x", "unix:/x"]\n', "twice"),
        ('[daemon]\ntls_key = "/x"\n', "together"),
        ("[profiles.default]\ncommands = 257\n", "256"),
        ('[profiles.default]\nttl = "2h"\nmax_ttl = "1h"\n', "more than max_ttl"),
        ('[profiles.default]\nttl = "soon"\n', "duration"),
        ('[profiles.default]\nenv = { "A=B" = "" }\n', "env"),
        ("[profiles.default.policy]\nopen = true\nallow = []\n", "open = true"),
        ('[profiles.default.policy]\nallow = ["/usr/bin/../x"]\n', "plain absolute path"),
        ('[profiles.default.policy]\nallow = ["a b"]\n', "bare name"),
        ('[profiles.default.policy]\nallow = []\nuse = "strict"\n', "not both"),
        ('[profiles.default.policy]\nopen = true\nuse = "strict"\n', "open = true"),
        ('[policies."A"]\n', "policies.A"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert expected in found[0]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="UTF-8"):
        load(tmp_path / "binary.toml")


def test_other_than_loopback_is_possible_with_tls(tmp_path: Path) -> None:
    text = '[daemon]\nlisten = ["tcp:0.0.0.0:80", "tcp:[::1]:81"]\ntls_certificate = "/c"\ntls_key = "~/k"\n'
    daemon = load(write(tmp_path, text)).daemon
    assert daemon.tls_key == tmp_path / "k"


def test_the_command_line_comes_first_and_is_checked_too(tmp_path: Path) -> None:
    path = write(tmp_path, "[daemon]\nmax_sessions = 3\n")
    daemon = load(path, {"listen": ["tcp:127.0.0.1:0"]}).daemon
    assert (daemon.listen, daemon.max_sessions) == (["tcp:127.0.0.1:0"], 3)
    with pytest.raises(SettingsError, match=r"command line: tcp:0\.0\.0\.0:1 is not loopback"):
        load(path, {"listen": ["tcp:0.0.0.0:1"]})
    with pytest.raises(SettingsError, match="command line: engine: Input should be"):
        load(path, {"engine": "dokcer"})


def test_kernel_rules_are_read_and_default_to_none(tmp_path: Path) -> None:
    kernel = load(None).profiles["default"].kernel
    assert (kernel.executables, kernel.read, kernel.write, kernel.network) == ("any", None, None, True)
    assert (kernel.exec, kernel.landlock) == ("any", "use")
    text = """
        [profiles.default.kernel]
        executables = ["python3", "/usr/bin/git", "/opt/tools/"]
        read = ["system", "/opt/*"]
        write = "any"
        network = false
        exec = "strict"
        landlock = "require"
    """
    kernel = load(write(tmp_path, text)).profiles["default"].kernel
    assert kernel.executables == ["python3", "/usr/bin/git", "/opt/tools/"]
    assert (kernel.read, kernel.write, kernel.exec) == (["system", "/opt/*"], "any", "strict")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("executables", '["a b"]'),
        ("executables", '["./a"]'),
        ("executables", '["/"]'),
        ("executables", '["/usr/../bin/sh"]'),
        ("executables", '["/usr/bin//"]'),
        ("executables", '"some"'),
        ("read", '["etc"]'),
        ("read", '["/etc/"]'),
        ("read", '["/usr/*/python3"]'),
        ("write", '["/a\\u0000b"]'),
        ("write", '["~"]'),
        ("exec", '"sometimes"'),
        ("landlock", "true"),
    ],
)
def test_kernel_rules_that_mean_nothing_are_refused(tmp_path: Path, key: str, value: str) -> None:
    (problem,) = problems(tmp_path, f"[profiles.default.kernel]\n{key} = {value}\n")[:1]
    assert f"kernel.{key}" in problem


def test_kernel_rules_that_no_frame_holds_are_refused(tmp_path: Path) -> None:
    paths = ", ".join(f'"/{"x" * 4000}{number}"' for number in range(40))
    (problem,) = problems(tmp_path, f"[profiles.default.kernel]\nread = [{paths}]\n")
    assert "131072 bytes" in problem
