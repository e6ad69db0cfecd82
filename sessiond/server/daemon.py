"""The daemon: state directory, engines, profiles, sessions and listeners, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import structlog

from sessiond.audit.files import NAME as AUDIT_NAME
from sessiond.audit.log import AuditError, AuditLog
from sessiond.audit.record import DAEMON, Subject
from sessiond.core.errors import RequestError, SessiondError
from sessiond.core.pool import PoolPolicy
from sessiond.engine.port import Engine, EngineError, SandboxSpec
from sessiond.engine.select import open_engine
from sessiond.policy.kernel import KernelRules
from sessiond.runtime.admission import Admission, default_slots
from sessiond.runtime.manager import SessionManager
from sessiond.runtime.outbox import Outbox
from sessiond.runtime.pool import Pool
from sessiond.runtime.recovery import Found, erase, recover
from sessiond.runtime.sandbox import Sandbox
from sessiond.runtime.terms import OpenProfile, SessionRules
from sessiond.runtime.tools import ALL_TOOLS
from sessiond.runtime.volume import Volume
from sessiond.server.app import make_app
from sessiond.server.approver import ApproverDesk, approver_token
from sessiond.server.connection import ClientConnection
from sessiond.server.door import Door
from sessiond.server.listener import Listener, Pending, listen
from sessiond.server.policies import Policies, open_policy
from sessiond.server.websocket import WebSocketConnection
from sessiond.settings import Profile, Settings
from sessiond.store.records import SessionRow
from sessiond.store.store import Store
from sessiond.version import VERSION
from sessiond.workspace.volumes import Volumes

log = structlog.get_logger()

STOP_SECONDS = 60.0
"""Erasing all sandboxes must not take longer; what is left is found and erased at the next start."""


BY_DAEMON = Subject(who=DAEMON)


class StateError(SessiondError):
    """The state directory cannot be used."""


class Daemon:
    """One daemon on one state directory."""

    def __init__(self, settings: Settings, load: Callable[[], Settings] | None = None) -> None:
        """`load` reads the settings again, for a reload of their policies; without it they stay as they are."""
        self._settings = settings
        self._load = load or (lambda: settings)
        self._state = settings.daemon.state
        self._lock: int | None = None
        self._engines: dict[str, Engine] = {}
        self._listeners: list[Listener] = []
        self._connections: set[WebSocketConnection] = set()
        self._outbox = Outbox()
        self._stop = asyncio.Event()
        self._audit: AuditLog | None = None
        self._store: Store | None = None
        self._volumes = Volumes(self._state / "volumes", self._volume_exceeded)
        self._eraser: asyncio.Task[None] | None = None
        self._manager: SessionManager | None = None
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self, ready: Callable[[list[str]], None]) -> None:
        """Serve until SIGTERM or SIGINT. `ready` is called with the addresses once clients may come.

        Raises SessiondError or EngineError when it cannot start; whatever was begun is undone.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._start()
            addresses = [listener.address for listener in self._listeners]
            log.info("sessiond is ready", version=VERSION, listen=addresses)
            ready(addresses)
            notify("READY=1")
            await self._stop.wait()
            notify("STOPPING=1")
            await self._drain()
        finally:
            await self._close()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    # --- start ------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._lock = lock_state(self._state)
        instance = instance_name(self._state)
        audit = self._audit = AuditLog(
            self._state / AUDIT_NAME,
            segment_bytes=self._settings.daemon.audit_segment_bytes,
            keep=self._settings.daemon.audit_keep,
        )
        audit.event("daemon_started", BY_DAEMON, details={"version": VERSION, "pid": os.getpid(), "instance": instance})
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reopen_audit, audit)
        store = self._store = Store(self._state, durability=self._settings.daemon.durability)
        store.open()
        admission = Admission(self._settings.daemon.spawns or default_slots())
        profiles = {
            name: await self._open_profile(name, profile, instance) for name, profile in self._settings.profiles.items()
        }
        manager = self._manager = SessionManager(
            profiles,
            audit=audit,
            admission=admission,
            store=store,
            spools=self._state / "spools",
            most=self._settings.daemon.max_sessions,
            retention=self._settings.daemon.retention,
            approval_seconds=self._settings.daemon.approval_timeout,
        )
        policies = Policies(profiles, audit, self._settings, self._load)
        desk = ApproverDesk(approver_token(self._state), manager.approvals, policies)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up, audit, policies)
        volumes = await self._orphan_volumes(store.sessions())
        orphans = await recover(manager, store.sessions(), self._engines.values(), partial(self._hold, profiles))
        await self._listen(manager, desk)
        self._eraser = asyncio.create_task(self._begin(manager, orphans, volumes))

    async def _orphan_volumes(self, rows: Iterable[SessionRow]) -> list[str]:
        """Volumes of an earlier life that belong to no session. Where no profile has volumes, none are looked for."""
        if all(profile.workspace.kind != "volume" for profile in self._settings.profiles.values()):
            return []
        choice = await self._volumes.open()
        log.info("volumes", quota=choice.quota, hard=choice.hard, passed_over=choice.passed_over)
        living = {row.workspace for row in rows if row.ended is None}
        return [name for name in await self._volumes.list() if name not in living]

    def _volume_exceeded(self, name: str, used: int) -> None:
        if self._manager is not None:
            self._manager.volume_exceeded(name, used)

    async def _begin(self, manager: SessionManager, orphans: list[Found], volumes: list[str]) -> None:
        """Fill the pools, once what is left of an earlier life's pools is gone: the two together would be too many."""
        await erase(orphans)
        for volume in volumes:
            try:
                await self._volumes.remove(volume)
            except EngineError as error:
                log.warning("volume not removed", volume=volume, error=str(error))
        if not self._stop.is_set():
            manager.start()

    def _hold(self, profiles: dict[str, OpenProfile], row: SessionRow) -> Sandbox | None:
        """The daemon's hold on a session's sandbox, not adopted yet; None when its profile is gone."""
        profile = profiles.get(row.profile)
        if profile is None:
            return None
        settings = self._settings.profiles[row.profile]
        return self._make_sandbox(profile.engine, row.profile, settings, row.sandbox, row.workspace)

    def _make_sandbox(self, engine: Engine, name: str, profile: Profile, sandbox_id: str, volume: str) -> Sandbox:
        """A sandbox of a profile, not launched yet; `volume` is a session's already, or empty."""
        limits = profile.limits.to_limits()
        spec = SandboxSpec(id=sandbox_id, profile=name, image=profile.image, limits=limits, exec_in=profile.kernel.exec)
        workspace = None
        if profile.workspace.kind == "volume":
            workspace = Volume(self._volumes, volume or sandbox_id, limits.workspace_bytes, new=not volume)
        return Sandbox(engine, spec, self._outbox, workspace)

    async def _open_profile(self, name: str, profile: Profile, instance: str) -> OpenProfile:
        engine = await self._engine(profile.engine or self._settings.daemon.engine, instance)
        limits = profile.limits.to_limits()
        policy = open_policy(name, profile, self._settings)
        rules = SessionRules(
            profile=name,
            engine=engine.name,
            policy=policy,
            limits=limits,
            commands=profile.commands,
            command_bytes=profile.output.command_bytes,
            session_bytes=profile.output.session_bytes,
            ring=profile.output.at_cap == "ring",
            env=profile.env,
            try_sh=profile.shell == "auto",
            replace=profile.on_loss == "replace",
            kernel=KernelRules.from_settings(profile.kernel, policy),
            tools=frozenset(tool for tool in ALL_TOOLS if getattr(profile, tool)),
        )
        wanted = profile.pool
        pool = Pool(
            name,
            PoolPolicy(
                min=wanted.min,
                max=wanted.max,
                creations=wanted.creations,
                max_age=wanted.max_age,
                waiters=wanted.waiters,
            ),
            make=partial(self._make_sandbox, engine, name, profile),
            prepare=partial(engine.prepare, profile.image),
            erase_volume=self._volumes.remove,
            wait_seconds=wanted.wait,
            health_interval=wanted.health_interval,
        )
        return OpenProfile(
            engine=engine,
            rules=rules,
            pool=pool,
            ttl=profile.ttl,
            idle_timeout=profile.idle_timeout,
            max_ttl=profile.max_ttl,
            idle_pause=profile.idle_pause,
        )

    async def _engine(self, name: str, instance: str) -> Engine:
        if name not in self._engines:
            daemon = self._settings.daemon
            engine, capabilities, why = await open_engine(
                name,
                instance=instance,
                directory=self._state / "sandboxes",
                docker_host=daemon.docker_host,
                runtime=daemon.runtime,
            )
            log.info("engine chosen", engine=capabilities.engine, version=capabilities.version, why=why)
            for weakness in capabilities.weaknesses:
                log.warning("engine weakness", engine=capabilities.engine, weakness=weakness)
            self._engines[name] = engine
        return self._engines[name]

    async def _listen(self, manager: SessionManager, desk: ApproverDesk) -> None:
        daemon = self._settings.daemon
        pending = Pending(daemon.max_pending_connections, daemon.open_timeout)

        def websocket(door: Door) -> WebSocketConnection:
            return WebSocketConnection(
                door,
                partial(ClientConnection, manager, desk),
                self._connections,
                self._outbox,
                most_connections=daemon.max_connections,
                ping_interval=daemon.ping_interval,
                ping_timeout=daemon.ping_timeout,
                open_timeout=daemon.open_timeout,
            )

        for address in daemon.listen:
            listener = await listen(address, daemon, pending, lambda door: make_app(door, manager), websocket)
            self._listeners.append(listener)

    def _reopen_audit(self, audit: AuditLog) -> None:
        try:
            audit.reopen()
        except AuditError as error:
            log.error("the audit log was not rotated", error=str(error))

    def _hang_up(self, audit: AuditLog, policies: Policies) -> None:
        """SIGHUP: go on with a new file of the audit log, and reload the policy."""
        self._reopen_audit(audit)
        task = asyncio.create_task(self._reload(policies))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, policies: Policies) -> None:
        with contextlib.suppress(RequestError):  # it is in the log, and on the audit log
            await policies.reload(DAEMON)

    # --- stop -------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Refuse new sessions and commands; where sessions end with the daemon, give running commands time to end."""
        manager, daemon = self._manager, self._settings.daemon
        if manager is None:
            return
        manager.drain()
        log.info("sessiond stops", sessions=manager.count, on_stop=daemon.on_stop)
        if daemon.on_stop == "keep":
            return
        try:
            async with asyncio.timeout(daemon.drain):
                await manager.quiet()
        except TimeoutError:
            log.warning("commands still run; their sessions are closed")

    async def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        keep = self._settings.daemon.on_stop == "keep"
        if self._eraser is not None:
            await asyncio.wait({self._eraser}, timeout=STOP_SECONDS)
        if self._manager is not None:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._manager.close(keep=keep)
            except TimeoutError:
                log.error("sandboxes are left behind; the next start erases them")
            if keep and self._manager.count:
                log.info("sessions are kept for the next start", sessions=self._manager.count)
        for connection in tuple(self._connections):
            connection.close(1001, "the daemon stops")
        await self._volumes.close()
        for engine in self._engines.values():
            await engine.close()
        self._outbox.tidy()
        if self._store is not None:
            self._store.close()
        if self._audit is not None:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            try:
                self._audit.event("daemon_stopped", BY_DAEMON, details={"pid": os.getpid()})
            except AuditError as error:
                log.error("the daemon's end is not on record", error=str(error))
            self._audit.close()
        if self._lock is not None:
            os.close(self._lock)
        log.info("sessiond has stopped")


def lock_state(state: Path) -> int:
    """Make the state directory ours alone. Raises StateError when another daemon has it."""
    try:
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"state directory {state}: {error.strerror}; set daemon.state or `--state` to a writable one"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StateError(f"another sessiond runs on {state}; stop it, or give this one its own `--state`") from None
    return descriptor


def instance_name(state: Path) -> str:
    """The name under which this state directory's sandboxes are found again; chosen once."""
    path = state / "instance"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        name = secrets.token_hex(6)
        draft = state / ".instance"
        draft.write_text(name + "\n")
        draft.rename(path)
        return name


def notify(message: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(message.encode(), address)
        except OSError as error:
            log.warning("systemd was not notified", error=str(error))
