"""Build the guest: `python -m sessiond.guest.build [--arch A] [--sanitize] [--out DIR]`.

Standard library only, and importable on its own: the wheel's build hook loads it before anything is installed.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
SECCOMP = HERE / "seccomp.toml"
BINARIES = HERE / "bin"
ARCHITECTURES = ("x86_64", "aarch64")

STRICT = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Werror")
SMALL = (
    *("-static", "-Os", "-s", "-flto", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-fno-sanitize=all", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
)
SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

LONGEST_LIST = 60
"""Values of one argument: the filter's jumps over them are 8 bits wide."""


class GuestBuildError(Exception):
    """The guest could not be built: what failed, with the compiler's words."""


def version() -> str:
    """The version that `guest version` prints: the distribution's."""
    project = HERE.parents[1] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"])


def seccomp_header(table: dict[str, Any]) -> str:
    """Turn seccomp.toml into C tables. A name that the target does not have vanishes by its #ifdef."""
    allowed = [name for entry in table["allow"] for name in entry["syscalls"]]
    refused = [(name, entry["errno"]) for entry in table.get("errno", []) for name in entry["syscalls"]]
    arguments = table.get("argument", [])
    narrowed = {entry["syscall"] for entry in arguments}
    names = allowed + [name for name, _ in refused]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GuestBuildError(f"{SECCOMP.name}: named twice: {', '.join(twice)}")
    if loose := sorted(narrowed - set(allowed)):
        raise GuestBuildError(f"{SECCOMP.name}: narrowed but not allowed: {', '.join(loose)}")
    for name in (table["default_errno"], *(code for _, code in refused)):
        if not hasattr(errno, name):
            raise GuestBuildError(f"{SECCOMP.name}: {name} is not an errno")

    def guarded(name: str, line: str) -> list[str]:
        return [f"#ifdef SYS_{name}", line, "#endif"]

    lines = ["/* Made by build.py from seccomp.toml. */", f"#define DEFAULT_ERRNO {table['default_errno']}"]
    lines.append("static const int allowed[] = {")
    for name in allowed:
        if name not in narrowed:
            lines += guarded(name, f"    SYS_{name},")
    lines += ["};", "static const struct refused refused[] = {"]
    for name, code in refused:
        lines += guarded(name, f"    {{SYS_{name}, {code}}},")
    lines += ["};", "static const struct argument arguments[] = {"]
    for entry in sorted(arguments, key=lambda entry: str(entry["syscall"])):
        operation = entry["op"]
        values = [entry["mask"]] if operation == "masked_zero" else entry.get("values", [])
        if operation not in {"in", "not_in", "masked_zero"} or not 0 < len(values) <= LONGEST_LIST:
            raise GuestBuildError(f"{SECCOMP.name}: bad condition for {entry['syscall']}: {entry}")
        if not all(0 <= value < 1 << 32 for value in values) or not 0 <= entry["index"] < 6:
            raise GuestBuildError(f"{SECCOMP.name}: out of range for {entry['syscall']}: {entry}")
        listed = ", ".join(f"{value:#x}u" for value in values)
        name = entry["syscall"]
        fields = f"{entry['index']}, {operation.upper()}, {len(values)}, (const uint32_t[]){{{listed}}}"
        lines += guarded(name, f"    {{SYS_{name}, {fields}}},")
    return "\n".join([*lines, "};", ""])


def build(arch: str, out: Path = BINARIES, *, sanitize: bool = False) -> Path:
    """Build one binary into `out` unless it is there already, made of the same inputs; return its path."""
    header = seccomp_header(tomllib.loads(SECCOMP.read_text()))
    flags = [*STRICT, *(SANITIZE if sanitize else SMALL), f'-DGUEST_VERSION="{version()}"']
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl"]
    compiler = ["gcc"] if sanitize else zig
    sources = sorted(SOURCES.glob("*.[ch]"))

    digest = hashlib.sha256("\0".join([*compiler[1:], *flags, header]).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    binary = out / ("guest-sanitized" if sanitize else f"guest-{arch}")
    stamp = binary.with_name(binary.name + ".inputs")
    if binary.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return binary

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        (Path(scratch) / "seccomp_table.h").write_text(header)
        fresh = Path(scratch) / "guest"
        units = [str(source) for source in sources if source.suffix == ".c"]
        done = subprocess.run(  # noqa: S603 - our own compiler line
            [*compiler, *flags, "-I", scratch, "-o", str(fresh), *units],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise GuestBuildError(f"{' '.join(compiler)} failed:\n{done.stderr}")
        fresh.chmod(0o755)
        fresh.replace(binary)  # never half a binary under its name, even for a guest that is being started now
    stamp.write_text(digest.hexdigest())
    return binary


def main() -> None:
    """Build for the architectures asked for, and say where the results are."""
    parser = argparse.ArgumentParser(prog="python -m sessiond.guest.build", description="Build the guest.")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="default: all")
    parser.add_argument("--sanitize", action="store_true", help="a native binary with ASan and UBSan, for tests")
    parser.add_argument("--out", type=Path, default=BINARIES, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        if arguments.sanitize:
            print(build(platform.machine(), arguments.out, sanitize=True))
        else:
            for arch in arguments.arch or ARCHITECTURES:
                print(build(arch, arguments.out))
    except GuestBuildError as problem:
        sys.exit(f"build: {problem}")


if __name__ == "__main__":
    main()
