"""The profiles' policies while the daemon runs: read again, all or none, and added to by approvers."""

from __future__ import annotations

import asyncio
import os
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from sessiond.audit.log import AuditError, AuditLog
from sessiond.audit.record import Detail, EventName, Subject
from sessiond.core.errors import RequestError
from sessiond.policy.decide import CommandRequest, Policy, load_policy
from sessiond.policy.errors import PolicyError, shown
from sessiond.policy.kernel import KernelRules
from sessiond.policy.load import parse_table
from sessiond.runtime.approvals import asked_for
from sessiond.runtime.terms import OpenProfile
from sessiond.settings import Profile, Settings, SettingsError
from sessiond.store.records import ApprovalRow

log = structlog.get_logger()


class Policies:
    """Changes the policy of profiles for the sessions to come. Those that are open keep theirs."""

    def __init__(
        self, profiles: dict[str, OpenProfile], audit: AuditLog, settings: Settings, load: Callable[[], Settings]
    ) -> None:
        """Of `profiles`, which `settings` describe; `load` reads the settings again."""
        self._profiles = profiles
        self._audit = audit
        self._settings = settings
        self._load = load
        self._turn = asyncio.Lock()

    def of(self, profile: str) -> Policy | None:
        """The policy that a profile's next session is bound to; None when there is no such profile."""
        found = self._profiles.get(profile)
        return found.rules.policy if found is not None else None

    async def reload(self, who: str) -> None:
        """Read the settings' policies and their files again. Raises RequestError; then all is as it was."""
        async with self._turn:
            await self._reload(who)

    async def append(self, row: ApprovalRow, text: str, who: str) -> None:
        """Append rules to the policy file of the question's profile, and reload. Raises RequestError.

        They must be rules and nothing else, the whole policy must stand with them, and it must allow the command then.
        """
        async with self._turn:
            await asyncio.to_thread(self._append, row, text, who)
            await self._reload(who)

    async def _reload(self, who: str) -> None:
        try:
            settings, policies = await asyncio.to_thread(self._read)
        except (PolicyError, SettingsError) as error:
            log.error("the policy was not reloaded; the one in use stays", error=str(error))
            self._record("policy_refused", Subject(who=who), {"reason": str(error)})
            raise RequestError("invalid", str(error), "the policy in use stays as it was") from error
        self._settings = settings
        for name, policy in policies.items():
            profile = self._profiles[name]
            was = profile.rules.policy.digest
            if policy.digest != was:
                kernel = KernelRules.from_settings(settings.profiles[name].kernel, policy)
                self._profiles[name] = replace(profile, rules=replace(profile.rules, policy=policy, kernel=kernel))
                self._record("policy_reloaded", Subject(profile=name, policy=policy.digest, who=who), {"was": was})
                log.info("policy reloaded", profile=name, policy=policy.digest)

    def _read(self) -> tuple[Settings, dict[str, Policy]]:
        """For any thread. A profile that the file does not have any more keeps its settings until the next start."""
        fresh = self._load()
        profiles = dict(self._settings.profiles)
        for name, profile in profiles.items():
            now = fresh.profiles.get(name, profile)
            profiles[name] = profile.model_copy(update={"policy": now.policy})
        settings = self._settings.model_copy(update={"profiles": profiles, "policies": fresh.policies})
        return settings, {name: open_policy(name, profile, settings) for name, profile in profiles.items()}

    def _append(self, row: ApprovalRow, text: str, who: str) -> None:
        """For any thread."""
        profile = self._settings.profiles.get(row.profile)
        use = profile.policy.use if profile is not None else ""
        if profile is None or profile.policy.allow is not None or not ("/" in use or use.endswith(".toml")):
            raise RequestError(
                "unsupported",
                f"the policy of profile {row.profile} is no file that a rule can be appended to",
                f'name a file in [profiles.{row.profile}.policy] use = "/etc/sessiond/policy.toml"',
            )
        path = Path(use).expanduser().resolve()
        try:
            _check_rules(text)
            old = path.read_text(encoding="utf-8")
            draft = _draft(path, f"{old.rstrip()}\n\n{_heading(row, who)}\n{text.strip()}\n")
        except PolicyError as error:
            raise RequestError("invalid", str(error)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError("unavailable", f"{path} cannot be appended to: {error}") from error
        try:
            shell = "sh" if profile.shell == "sh" else "bash"
            _check_allows(load_policy(draft, shell=shell, named=self._settings.policies), row)  # type: ignore[arg-type]
            draft.replace(path)
        except PolicyError as error:
            raise RequestError("invalid", str(error).replace(str(draft), str(path))) from error
        except OSError as error:
            raise RequestError("unavailable", f"{path} cannot be appended to: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def _record(self, event: EventName, subject: Subject, details: dict[str, Detail]) -> None:
        try:
            self._audit.event(event, subject, details=details)
        except AuditError as error:
            log.error("an event of the policy is not on record", event_=event, error=str(error))


def open_policy(name: str, profile: Profile, settings: Settings) -> Policy:
    """The policy of a profile. Raises PolicyError."""
    return Policy.from_settings(name, profile.policy, "sh" if profile.shell == "sh" else "bash", settings.policies)


def _check_rules(text: str) -> None:
    """Raise PolicyError unless it is `[[rule]]` tables alone: an approver grants a command, not a tree or a set."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([f"the rule is not TOML: {error}"]) from error
    if set(values) != {"rule"}:
        raise PolicyError(["only [[rule]] tables may be appended, and one at least"])
    parse_table("the rule", values)


def _check_allows(policy: Policy, row: ApprovalRow) -> None:
    request = asked_for(row)
    argv = tuple(request.argv) if request.argv is not None else None
    verdict = policy.judge(CommandRequest(argv, request.text, request.env, request.cwd))
    if verdict.outcome != "allow":
        raise RequestError(
            "invalid",
            f"with this rule the command still gets {verdict.outcome} by {verdict.rule}: {verdict.reason}",
            "a rule never overrides one that asks or denies; change it, or allow the command otherwise",
        )


def _heading(row: ApprovalRow, who: str) -> str:
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"# Allowed by {shown(who)} at {when}, as approval {row.id}."


def _draft(path: Path, text: str) -> Path:
    """A file beside `path` that may take its place: what it includes is found from there, too."""
    status = path.stat()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".toml")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fsync(file.fileno())
    return Path(name)
