"""Real engines for tests: a Docker daemon of one's own, an image for it, and a guest.

Also a program: `python -m tests.engines dockerd --socket PATH` runs such a daemon in the foreground.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sessiond.engine import docker as sdk
from sessiond.engine import jail
from sessiond.guest.build import build as build_guest
from sessiond.image import build as build_image

START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02

MOST_DATA_ROOTS = 16
"""Runs of the tests on one machine at once."""


class EngineMissingError(Exception):
    """A test needs an engine that is not installed. A failure, not a reason to skip: run
    scripts/install-test-engines."""


def require(program: str) -> str:
    """The program's path."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise EngineMissingError(f"{program} is not installed; run scripts/install-test-engines")
    return found


def guest() -> Path:
    """The guest's binary, built if need be; or the one that SESSIOND_TEST_GUEST names (a sanitized one, say)."""
    named = os.environ.get("SESSIOND_TEST_GUEST")
    return Path(named) if named else build_guest(platform.machine())


def image(docker_host: str, variant: str = "mini") -> str:
    """An image of the variant in that engine, built if need be."""
    return build_image(variant, docker_host=docker_host, progress=lambda line: print(line, file=sys.stderr))


class PrivateDockerd:
    """A Docker daemon for tests, which sees no other daemon's containers and leaves no process behind.

    Its data root is kept from run to run, so that images need not be imported again, and locked: runs at the same time
    have different ones. Everything else is in a new directory with a short path.
    """

    def __init__(self, *, live_restore: bool = False, socket: Path | None = None) -> None:
        self.live_restore = live_restore
        self._lock, self._data = _data_root()
        self._run = Path(tempfile.mkdtemp(prefix="sessiond-dockerd-"))
        self._socket = socket or self._run / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The daemon's."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it says."""
        return self._run / "log"

    def start(self) -> None:
        """Start it, for the first time or after `kill`, and wait until it answers."""
        command = [
            require("dockerd"),
            *("--data-root", str(self._data)),
            *("--exec-root", str(self._run / "exec")),
            *("--pidfile", str(self._run / "pid")),
            *("--config-file", str(self._run / "no-config")),
            *("--host", self.url),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
            *(["--live-restore"] if self.live_restore else []),
        ]
        (self._run / "no-config").write_text("{}")
        # A daemon that was killed leaves it, and the next one would believe that the first still runs if its pid is in
        # use.
        (self._run / "pid").unlink(missing_ok=True)
        self._forget_containerd()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, START_SECONDS, lambda: f"dockerd does not answer:\n{self._last_words()}")

    def kill(self) -> None:
        """SIGKILL to the daemon alone. The kernel ends its containerd with it (a death signal that dockerd asked for);
        the containers' shims go on."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def restart(self) -> None:
        """Kill and start."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Stopped meanwhile: connections are accepted by the kernel and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Remove all containers, end the daemon and whatever it left, and check that nothing is left."""
        if self._process is not None:
            if self._process.poll() is None:
                self._remove_containers()
                self._process.terminate()
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self.kill()
            self._process = None
        for pid in self.processes():
            for process in jail.tree(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        wait_until(lambda: not self.processes(), STOP_SECONDS, lambda: f"dockerd left {self.processes()}")
        self._unmount()
        shutil.rmtree(self._run, ignore_errors=True)
        os.close(self._lock)

    def processes(self) -> list[int]:
        """The pids of all processes that name this daemon's directory: dockerd, its containerd, shims."""
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if path.name.isdigit() and str(self._run).encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def _forget_containerd(self) -> None:
        """A dockerd that finds its old containerd's pid in use waits for that one, also when it is a zombie."""
        file = self._run / "exec" / "containerd" / "containerd.pid"
        if file.exists():
            process = Path("/proc", file.read_text().strip(), "cmdline")
            wait_until(
                lambda: not process.exists() or not process.read_bytes(), STOP_SECONDS, lambda: "containerd lives on"
            )
            file.unlink()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"dockerd ended with {self._process.returncode}:\n{self._last_words()}")
        if not self._socket.exists():
            return False
        try:
            sdk.DockerClient(self.url, 5).close()
        except sdk.ERRORS:
            return False
        return True

    def _remove_containers(self) -> None:
        with contextlib.suppress(*sdk.ERRORS), contextlib.closing(sdk.DockerClient(self.url)) as client:
            for container in client.all_containers():
                client.remove(container)

    def _unmount(self) -> None:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            where = line.split()[1]
            if where.startswith((f"{self._run}/", f"{self._data}/")):
                subprocess.run(["umount", "--lazy", where], check=True)

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def private_dockerd(*, live_restore: bool = False) -> Iterator[PrivateDockerd]:
    """A running PrivateDockerd."""
    dockerd = PrivateDockerd(live_restore=live_restore)
    try:
        dockerd.start()
        yield dockerd
    finally:
        dockerd.stop()


def wait_until(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Poll a condition that no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(POLL_SECONDS)


def _data_root() -> tuple[int, Path]:
    """The first data root that no other run has locked; the lock is held while the descriptor is open."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sessiond" / "test-docker"
    for number in range(MOST_DATA_ROOTS):
        directory = base / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return descriptor, directory / "data"
    raise AssertionError(f"all {MOST_DATA_ROOTS} data roots in {base} are in use")


def main() -> None:
    """Run a daemon until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=__doc__.split("\n")[0])
    parser.add_argument("engine", choices=["dockerd"])
    parser.add_argument("--socket", type=Path, required=True, help="where it listens")
    parser.add_argument("--live-restore", action="store_true", help="containers outlive the daemon")
    parser.add_argument("--image", default="mini", help="variant to have ready (default: %(default)s; empty: none)")
    arguments = parser.parse_args()
    dockerd = PrivateDockerd(live_restore=arguments.live_restore, socket=arguments.socket.absolute())
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        dockerd.start()
        if arguments.image:
            print(f"image {image(dockerd.url, arguments.image)}", flush=True)
        print(f"DOCKER_HOST={dockerd.url}", flush=True)
        signal.sigwait(signals)
    finally:
        dockerd.stop()


if __name__ == "__main__":
    main()
