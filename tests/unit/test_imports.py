"""The import graph that ARCHITECTURE.md promises, read from the sources themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "sessiond_protocol": ROOT / "protocol" / "sessiond_protocol",
    "sessiond_client": ROOT / "client" / "sessiond_client",
    "sessiond": ROOT / "sessiond",
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}: relative import")
    return found


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, folder
    return found


def violations(folder: Path, forbidden: set[str], *, apart_from: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        if path.name not in apart_from
        for name in sorted(imports(path))
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


def test_protocol_is_pure_and_stands_on_nothing_of_ours():
    forbidden = {"asyncio", "socket", "selectors", "threading", "websockets", "sessiond", "sessiond_client"}
    assert violations(PACKAGES["sessiond_protocol"], forbidden) == []


def test_client_does_not_know_the_daemon():
    assert violations(PACKAGES["sessiond_client"], {"sessiond", "docker", "starlette", "uvicorn"}) == []


def test_daemon_does_not_know_the_client_but_in_its_commands():
    for part in ("core", "engine", "policy", "workspace", "audit", "store", "runtime", "server", "guest"):
        assert violations(PACKAGES["sessiond"] / part, {"sessiond_client"}) == []


def test_core_decides_without_engine_server_or_clock():
    forbidden = {"sessiond.server", "sessiond.runtime", "sessiond.cli", "asyncio", "socket", "time", "subprocess"}
    assert violations(PACKAGES["sessiond"] / "core", forbidden) == []
    forbidden = {"sessiond.engine.docker", "sessiond.engine.docker_engine", "sessiond.engine.bubblewrap"}
    assert violations(PACKAGES["sessiond"] / "core", forbidden) == []


def test_engines_and_policy_know_nothing_above_them():
    above = {"sessiond.server", "sessiond.runtime", "sessiond.cli"}
    for part in ("engine", "policy", "audit", "store", "guest", "core"):
        assert violations(PACKAGES["sessiond"] / part, above | {"sessiond.workspace"}) == []
    assert violations(PACKAGES["sessiond"] / "workspace", above) == []
    assert violations(PACKAGES["sessiond"] / "runtime", {"sessiond.server", "sessiond.cli"}) == []
    assert violations(PACKAGES["sessiond"] / "server", {"sessiond.cli"}) == []


def test_the_store_stands_on_core_protocol_and_failpoints_alone():
    allowed = ("sessiond.store", "sessiond.core", "sessiond.failpoint")
    ours = {name for path in sources(PACKAGES["sessiond"] / "store") for name in imports(path)}
    assert [name for name in sorted(ours) if name.startswith("sessiond.") and not name.startswith(allowed)] == []
    assert violations(PACKAGES["sessiond"] / "core", {"sessiond.store"}) == []
    assert [name for name in imports(PACKAGES["sessiond"] / "failpoint.py") if name.startswith("sessiond")] == []


def test_only_the_docker_engine_imports_docker():
    allowed = tuple(path.name for path in (PACKAGES["sessiond"] / "engine").glob("docker*.py"))
    assert violations(PACKAGES["sessiond"], {"docker"}, apart_from=allowed) == []


def test_the_graph_test_sees_a_violation(tmp_path):
    (tmp_path / "bad.py").write_text("from sessiond_client import connect\n")
    assert "sessiond_client.connect" in imports(tmp_path / "bad.py")
