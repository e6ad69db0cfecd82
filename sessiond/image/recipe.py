"""What is in the images, as data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"

USER_HOOK = """set -eu
chroot "$1" groupadd --gid 1000 sandbox
chroot "$1" useradd --uid 1000 --gid 1000 --home-dir /workspace --no-create-home --shell /bin/bash sandbox
install -d -o 1000 -g 1000 "$1/workspace"
ln -s python3 "$1/usr/bin/python"
"""
"""Run by mmdebstrap when the packages are in: the user and directory that every sandbox has, and the name `python`."""

UNUSED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
"""Not unpacked: documentation and translations."""

CHANGES = (
    "ENV PATH=/usr/local/bin:/usr/bin:/bin",
    "ENV LANG=C.UTF-8",
    "USER 1000:1000",
    "WORKDIR /workspace",
)
"""Dockerfile instructions applied at the import."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One variant."""

    variant: str
    packages: tuple[str, ...]
    checks: tuple[tuple[str, ...], ...]
    """Commands that must succeed in a locked-down container of the image."""

    @property
    def digest(self) -> str:
        """Names the inputs: another list of packages is another image."""
        inputs = [SUITE, USER_HOOK, UNUSED, CHANGES, self.packages]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]

    @property
    def repository(self) -> str:
        """The image's name without its tag."""
        return f"sessiond/{self.variant}"

    @property
    def reference(self) -> str:
        """The image's name with its tag, as a profile names it."""
        return f"{self.repository}:{self.digest}"


_MINI = ("python3", "python3-pytest", "git", "ripgrep")
_FULL = (*_MINI, "black", "pylint", "python3-numpy", "python3-matplotlib", "python3-ipykernel")

_MINI_CHECKS = (
    ("python", "-c", "import ssl, sqlite3, ctypes, multiprocessing; assert multiprocessing.Lock()"),
    ("python", "-m", "pytest", "--version"),
    ("git", "init", "--quiet", "/tmp/repository"),  # noqa: S108 - inside the container
    ("rg", "--version"),
)
_FULL_CHECKS = (
    *_MINI_CHECKS,
    ("python", "-c", "import numpy; numpy.linalg.inv(numpy.eye(64))"),
    ("python", "-c", "import matplotlib.pyplot as p; p.plot([1, 2]); p.savefig('/tmp/figure.png')"),
    ("python", "-c", "import ipykernel.kernelapp"),
    ("black", "--version"),
    ("pylint", "--version"),
)

VARIANTS = {
    "mini": Recipe("mini", _MINI, _MINI_CHECKS),
    "full": Recipe("full", _FULL, _FULL_CHECKS),
}


def mmdebstrap_command(recipe: Recipe, tar: Path, mmdebstrap: str = "mmdebstrap") -> list[str]:
    """The command that makes the root file system. Its mirror is Debian's, through whatever proxy apt is told to
    use."""
    excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED]
    return [
        mmdebstrap,
        "--variant=minbase",
        "--format=tar",
        *excludes,
        f"--include={','.join(recipe.packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        f"--customize-hook={USER_HOOK}",
        SUITE,
        str(tar),
    ]
