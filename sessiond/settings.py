"""What an operator may set, read from `sessiond.toml` and `SESSIOND_...`; docs/configuration.md lists it.

Everything has a default that works. An unknown key or an impossible value is refused at start: the error
names the file, the line and the key of every problem at once.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError
from sessiond_protocol.address import default_socket_path

from sessiond.engine.port import ExecMode, Limits
from sessiond.settings_report import Report, command_line_problem, syntax_problem

_SOCKET_PATH_BYTES = 107
"""Linux's own limit (sun_path)."""
_LARGEST_PORT = 65535
_KERNEL_PATH_BYTES = 128 * 1024
"""Half of a frame to the guest; the rest is for what it adds to each path, and the system's own."""

PREFIX = "SESSIOND_"
DELIMITER = "__"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)?")
_BINARY_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_SIZE_UNITS = _BINARY_UNITS | {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_PROGRAM = re.compile(r"\[|[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
_WILDCARD = re.compile(r"[*?]")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """The settings cannot be used. The message lists every problem with its place, a line each."""

    def __init__(self, problems: list[str]) -> None:
        """Keep `problems`, at least one, for who wants them one by one."""
        super().__init__("\n".join(problems))
        self.problems = problems


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")  # noqa: TRY004 - pydantic reports only ValueError
    return value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return _no_bool(value)
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError('expected a size: a number of bytes or a string such as "512MiB" or "1.5GB"')
    return int(float(match[1]) * _SIZE_UNITS[match[2] or "B"])


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return _no_bool(value)
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('expected a duration: a number of seconds or a string such as "30s", "10m" or "1h"')
    return float(match[1]) * _DURATION_UNITS[match[2] or "s"]


def _absolute(value: Path) -> Path:
    path = value.expanduser()
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


Size = Annotated[int, BeforeValidator(_size), Field(ge=0, le=2**53 - 1)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**31 - 1)]
Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
Timeout = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
EngineName = Literal["auto", "docker", "bubblewrap"]


class _Section(BaseModel):
    """Base of every section: no unknown keys, defaults checked like everything else, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_LIMITS = Limits()


class LimitsSettings(_Section):
    """What one sandbox may use; `sessiond.engine.port.Limits` describes each."""

    memory_bytes: Annotated[Size, Field(ge=16 * 1024**2)] = _LIMITS.memory_bytes
    cpus: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=4096, allow_inf_nan=False)] = _LIMITS.cpus
    pids: Annotated[Count, Field(ge=8)] = _LIMITS.pids
    open_files: Annotated[Count, Field(ge=64)] = _LIMITS.open_files
    file_bytes: Size = _LIMITS.file_bytes
    workspace_bytes: Annotated[Size, Field(ge=1024**2)] = _LIMITS.workspace_bytes
    tmp_bytes: Annotated[Size, Field(ge=64 * 1024)] = _LIMITS.tmp_bytes

    def to_limits(self) -> Limits:
        """The same as the Engine port has it."""
        return Limits(**self.model_dump())


class PoolSettings(_Section):
    """How many sandboxes of a profile are kept warm."""

    min: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=4096)] = 2
    """Sandboxes kept ready and unused."""
    max: Annotated[Count, Field(le=4096)] = 32
    """Most sandboxes of the profile: ready, in use and being created."""
    waiters: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=65536)] = 64
    """Opens that may wait for a sandbox at once; one more is told `busy`."""
    wait: Duration = 10.0
    """Longest wait of one."""
    max_age: Timeout = 3600.0
    """Age at which an unused sandbox is replaced."""
    creations: Annotated[Count, Field(le=64)] = 4
    """Creations in flight at once."""
    health_interval: Timeout = 30.0
    """Time between two checks of an unused sandbox."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class OutputSettings(_Section):
    """How much output of commands is kept, on disk beyond a few KiB."""

    command_bytes: Annotated[Size, Field(ge=1024**2)] = 64 * 1024**2
    """Of one command. Beyond it what every reader has consumed is forgotten; if that is not enough, see `at_cap`."""
    session_bytes: Annotated[Size, Field(ge=1024**2)] = 1024**3
    """Of one session. Beyond it the outputs of commands that have ended are forgotten, the oldest first."""
    at_cap: Literal["block", "ring"] = "block"
    """block makes the command wait for its readers; ring forgets the oldest output and tells readers the gap."""


class PolicySettings(_Section):
    """Which commands a profile's sessions may run; docs/policy.md tells what that stops."""

    use: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")] = "developer"
    """A shipped rule set, one of `[policies]`, or the absolute path of a rule file."""
    allow: Annotated[list[str], Field(max_length=4096)] | None = None
    """Programs that may have any arguments, instead of rules: a bare name, or an absolute path that means itself."""
    open: bool = False
    """Allow everything; only the sandbox is left."""

    @field_validator("allow")
    @classmethod
    def _programs(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if name.startswith("/"):
                if os.path.normpath(name) != name or name == "/" or not name.isprintable():
                    raise ValueError(f"{name!r} is not a plain absolute path")
            elif _PROGRAM.fullmatch(name) is None:
                raise ValueError(f"{name!r} is neither a program's bare name nor an absolute path")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = self.model_fields_set & {"use", "allow"}
        if self.open and given:
            names = " and ".join(sorted(given))
            raise ValueError(f"open = true allows everything, so {names} must not be given with it")
        if len(given) > 1:
            raise ValueError("either use names a policy, or allow lists programs, not both")
        return self


class KernelSettings(_Section):
    """What the kernel lets a profile's programs do, however they were started; docs/policy-kernel.md tells more."""

    executables: list[str] | Literal["any", "policy"] = Field(default="any", max_length=1024)
    """Programs that may be executed: bare names, absolute paths, directories with a slash at the end. policy: those
    that the profile's policy lets run, and its trees are what may be read and written unless these are given."""
    read: list[str] | Literal["any"] | None = Field(default=None, max_length=1024)
    """Trees that may be read: absolute paths, patterns, `system`. None: any, or `system` with a list of executables."""
    write: list[str] | Literal["any"] | None = Field(default=None, max_length=1024)
    """The same for writing."""
    network: bool = True
    """Whether TCP sockets may be bound and connected."""
    exec: ExecMode = "any"
    """Where files that the session wrote may be executed."""
    landlock: Literal["require", "use", "off"] = "use"
    """require refuses sessions where the kernel cannot do all of it; off asks nothing of it."""

    @field_validator("executables")
    @classmethod
    def _executables(cls, value: list[str] | str) -> list[str] | str:
        for name in value if isinstance(value, list) else ():
            if not (_is_plain(name.removesuffix("/")) if name.startswith("/") else _PROGRAM.fullmatch(name)):
                raise ValueError(f"{name!r} is neither a program's bare name nor a plain absolute path")
        return value

    @field_validator("read", "write")
    @classmethod
    def _trees(cls, value: list[str] | str | None) -> list[str] | str | None:
        for path in value if isinstance(value, list) else ():
            if path != "system" and not _is_plain(path):
                raise ValueError(f"{path!r} is neither a plain absolute path nor 'system'")
            if _WILDCARD.search(path.rpartition("/")[0]):
                raise ValueError(f"{path!r} has a * or ? before its last part, where it stands for nothing")
        return value

    @model_validator(mode="after")
    def _fits_a_frame(self) -> Self:
        lists = [value for value in (self.executables, self.read, self.write) if isinstance(value, list)]
        if sum(len(path.encode()) for paths in lists for path in paths) > _KERNEL_PATH_BYTES:
            raise ValueError(f"the paths are more than {_KERNEL_PATH_BYTES} bytes in all; name trees that hold them")
        return self


def _is_plain(path: str) -> bool:
    """Whether it is an absolute path that means exactly what it shows."""
    return path.startswith("/") and os.path.normpath(path) == path and path.isprintable() and len(path) < 4096


class WorkspaceSettings(_Section):
    """What a session's files are kept in; `limits.workspace_bytes` is its size either way."""

    kind: Literal["tmpfs", "volume"] = "tmpfs"
    """`tmpfs` is memory, and gone with the sandbox; `volume` is on disk, and outlives it."""


class Profile(_Section):
    """A named recipe for sessions."""

    engine: EngineName | None = None
    """Which engine makes its sandboxes; None takes the daemon's."""
    image: Annotated[str, Field(max_length=512, pattern=r"^[!-~]+$")] = "python:3.13-slim"
    """Image reference, for engines that have images."""
    limits: LimitsSettings = LimitsSettings()
    commands: Annotated[Count, Field(le=256)] = 64
    """Commands that may run at once in a session."""
    output: OutputSettings = OutputSettings()
    pool: PoolSettings = PoolSettings()
    policy: PolicySettings = PolicySettings()
    kernel: KernelSettings = KernelSettings()
    workspace: WorkspaceSettings = WorkspaceSettings()
    files: bool = True
    """Whether clients may read, write and watch files, and carry workspaces in and out."""
    tunnels: bool = True
    """Whether clients may connect to what listens inside."""
    env: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")],
        Annotated[str, Field(max_length=32 * 1024, pattern=r"^[^\x00]*$")],
    ] = Field(default_factory=dict, max_length=256)
    """Environment of every command."""
    shell: Literal["auto", "bash", "sh"] = "auto"
    """What reads a command given as text; auto takes bash where the sandbox has it."""
    ttl: Timeout | None = None
    """Life of a session whose client does not say."""
    idle_timeout: Timeout | None = None
    """Time without a command after which a session whose client does not say is closed."""
    max_ttl: Timeout | None = None
    """Longest life that a client may ask for."""
    idle_pause: Timeout | None = None
    """Time without a command after which a session's processes are made to stand still, until it is used again."""
    on_loss: Literal["replace", "close"] = "replace"
    """What becomes of a session whose sandbox died: replace gives it another one, in its next generation."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ttl is not None and self.max_ttl is not None and self.ttl > self.max_ttl:
            raise ValueError(f"ttl ({self.ttl:g} s) is more than max_ttl ({self.max_ttl:g} s)")
        return self


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/sessiond")
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "sessiond"


def _default_listen() -> list[str]:
    return [f"unix:{default_socket_path(os.environ, os.geteuid())}"]


class DaemonSettings(_Section):
    """The daemon itself."""

    state: Annotated[Path, Field(default_factory=_default_state)]
    """Directory of everything that the daemon keeps."""
    listen: Annotated[list[str], Field(default_factory=_default_listen, min_length=1, max_length=16)]
    """Addresses: `unix:/path`, `tcp:127.0.0.1:PORT`, `tcp:[::1]:PORT`."""
    engine: EngineName = "auto"
    """auto takes Docker where it answers, else bubblewrap, and says which."""
    docker_host: str | None = None
    """Docker's address; None is DOCKER_HOST or the local socket."""
    runtime: str | None = None
    """Docker runtime such as runsc; None is Docker's default."""
    token_file: Path | None = None
    """File with the bearer token that TCP connections must send."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: list[str] = ["localhost", "127.0.0.1", "::1"]
    """Host names that a TCP request may be addressed to."""
    spawns: Annotated[Count, Field(le=4096)] | None = None
    """Spawns admitted at once; None is twice the processors."""
    max_connections: Annotated[Count, Field(le=65536)] = 256
    max_pending_connections: Annotated[Count, Field(le=65536)] = 64
    """Connections that have not authenticated yet."""
    open_timeout: Timeout = 10.0
    """Time a new connection has until its `hello`."""
    ping_interval: Timeout = 20.0
    ping_timeout: Timeout = 20.0
    on_stop: Literal["keep", "close"] = "keep"
    """What becomes of sessions when the daemon is told to stop: keep leaves them, and all that runs in them, to the
    next start; close ends them."""
    drain: Duration = 10.0
    """Time that running commands get before their sessions are closed."""
    durability: Literal["process", "power"] = "process"
    """What records survive: process is the daemon's death; power is the machine's, too, for a disk write a command."""
    retention: Duration = 3600.0
    """Time for which an ended session's commands and output can still be looked up."""
    approval_timeout: Timeout = 600.0
    """Time that a person has to allow a command that the policy asks about; then it is denied."""
    max_sessions: Annotated[Count, Field(le=65536)] = 256
    audit_segment_bytes: Annotated[Size, Field(ge=64 * 1024)] = 64 * 1024**2
    """Size at which a file of the audit log is sealed and the next begun."""
    audit_keep: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=2**31 - 1)] = 0
    """Sealed files of the audit log that are kept; 0 keeps all."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto writes for people on a terminal, JSON elsewhere."""

    _paths = field_validator("state", "token_file", "tls_certificate", "tls_key")(
        lambda value: None if value is None else _absolute(value)
    )

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            _check_address(address)
        if len(set(value)) != len(value):
            raise ValueError("an address is given twice")
        return value

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        for address in self.listen:
            if address.startswith("tcp:"):
                host = address[4:].rpartition(":")[0].strip("[]")
                if not ipaddress.ip_address(host).is_loopback and self.tls_certificate is None:
                    raise ValueError(f"{address} is not loopback: it needs tls_certificate and tls_key")
        return self


def _check_address(address: str) -> None:
    """Raise ValueError unless `address` is one that the daemon can listen on."""
    if address.startswith("unix:"):
        path = address[5:]
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            raise ValueError(f"{address!r}: expected unix: and an absolute path of at most {_SOCKET_PATH_BYTES} bytes")
        return
    match = re.fullmatch(r"tcp:(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", address)
    try:
        good = match is not None and int(match[3]) <= _LARGEST_PORT and ipaddress.ip_address(match[1] or match[2])
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{address!r}: expected unix:/path, tcp:127.0.0.1:PORT or tcp:[::1]:PORT")


class Settings(BaseSettings):
    """All settings. Environment variables come before the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True, validate_default=True
    )

    daemon: DaemonSettings = Field(default_factory=lambda: DaemonSettings.model_validate({}))
    profiles: dict[ProfileName, Profile] = Field(
        default_factory=lambda: {"default": Profile()}, min_length=1, max_length=256
    )
    policies: dict[ProfileName, dict[str, Any]] = Field(default_factory=dict, max_length=256)
    """Policies of one's own, as rule files have them; docs/policy.md tells the format."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the file's values; nothing else is read."""
        return env_settings, init_settings


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the file at `path`, or from defaults without one, with the environment on top.

    `overrides` are values of `[daemon]` from the command line; they come before all else, and are checked like all
    else. Raises SettingsError.
    """
    settings = _load(path)
    if not overrides:
        return settings
    try:
        daemon = DaemonSettings.model_validate({**settings.daemon.model_dump(), **overrides})
    except ValidationError as error:
        raise SettingsError([command_line_problem(item) for item in error.errors(include_url=False)]) from error
    return settings.model_copy(update={"daemon": daemon})


def _load(path: Path | None) -> Settings:
    text = ""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise SettingsError([f"{path}: is not UTF-8 text"]) from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError([syntax_problem(path, str(error))]) from error
    if private := [key for key in values if key.startswith("_")]:
        raise SettingsError([f"{path}: {key}: unknown key" for key in private])
    try:
        return Settings(**values)
    except SourceError as error:
        raise SettingsError([f"environment: {error}; lists and tables in {PREFIX}... are JSON"]) from error
    except ValidationError as error:
        report = Report(Settings, path, text)
        raise SettingsError([report.problem(item) for item in error.errors(include_url=False)]) from error
