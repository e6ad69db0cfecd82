"""`sessiond bench` on the real path: that it measures and ends clean, not how fast it is."""

from __future__ import annotations

from sessiond.bench.figures import PROMISES
from tests.integration.cli.conftest import CommandLine, parsed

KEYS = {
    *("floor_ms", "exec_ms", "exec_p99_ms", "exec_over_floor", "python_ms", "docker_exec_ms", "docker_exec_over_exec"),
    *("open_ms", "cold_ms", "cold_over_open", "throughput", "stdout_mb_s"),
    *("pty_echo_ms", "pty_local_ms", "pty_echo_over_local"),
    *("guest_pss_kb", "daemon_rss_mb", "sandbox_memory_mb", "machine"),
    *("file_read_1k_ms", "docker_cp_ms", "docker_cp_over_file_read"),
    *("decision_us", "decision_again_us", "decision_parsed_ms", "record_us", "record_power_ms"),
}

ONLY_DOCKER = ("docker_exec_ms", "docker_exec_over_exec", "docker_cp_ms", "docker_cp_over_file_read")


def test_every_figure_is_there(command_line: CommandLine) -> None:
    done = command_line.on_engine("bench", "--quick", "--json", *command_line.image_options())
    assert done.returncode == 0, done.stderr
    figures = parsed(done)
    assert set(figures) == KEYS
    assert set(figures["throughput"]) == {"1", "8", "32"}
    assert all(load["commands_per_s"] > 0 and load["p99_ms"] > 0 for load in figures["throughput"].values())
    assert figures["machine"]["engine"] == command_line.engine.name
    only_docker = {*ONLY_DOCKER} if command_line.engine.name != "docker" else set()
    for key in KEYS - {"throughput", "machine"}:
        assert (figures[key] is None) == (key in only_docker), (key, figures[key])
        assert key in only_docker or figures[key] > 0


def test_every_promise_is_about_a_figure() -> None:
    assert {promise.key for promise in PROMISES} <= KEYS
