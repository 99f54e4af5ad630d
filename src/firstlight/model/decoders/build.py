"""The C++ decoder: compiled on the machine that runs it, for its processor, when it is first used.

The library is kept in the cache folder, named by a hash of sources, compiler and processor. It is used only if a check
in a process of its own succeeds, so that a wrong guess of the compiler about the processor costs nothing but speed.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from firstlight import progress
from firstlight.errors import StorageError
from firstlight.files import cache_dir, write_atomic

_SOURCES = Path(__file__).parent
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-w",
)
_LINK = ("-shared", "-fPIC", "-pthread")
_TARGETS = (("-march=native",), ("-mcpu=native",), ())  # the second for compilers that know the first on x86 only
_CHECK = "import ctypes, sys; sys.exit(0 if ctypes.CDLL(sys.argv[1]).firstlight_check() == 1 else 1)"


@functools.cache
def load_library() -> ctypes.CDLL | str:
    """Return the library of the C++ decoder, compiled if need be, or why there is none."""
    if os.environ.get("FIRSTLIGHT_NATIVE") == "0":
        return "FIRSTLIGHT_NATIVE=0"
    if os.name != "posix":
        return f"not supported on {platform.system()}"
    reasons = []
    for compiler in _compilers():
        try:
            return _load(compiler)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{' '.join(compiler)} failed: {(str(error).splitlines() or [type(error).__name__])[0]}")
    return "; ".join(reasons) or "no C++ compiler: install g++ or clang++"


def _compilers() -> list[list[str]]:
    """Return the commands of the compilers that are there: $CXX, which may have arguments, before the usual names."""
    commands = [shlex.split(os.environ.get("CXX", "")), ["g++"], ["clang++"], ["c++"]]
    return [command for command in commands if command and shutil.which(command[0])]


def _load(compiler: list[str]) -> ctypes.CDLL:
    """Load the library from the cache, or compile it.

    Raises:
        OSError, SubprocessError: the compiler does not make one that runs here.
    """
    name = f"decoder-{_key(compiler)}.so"
    try:
        path: Path | None = cache_dir() / "native" / name
        if path is not None and _is_own(path):
            return ctypes.CDLL(str(path))
    except RuntimeError:  # no home
        path = None
    except OSError:  # not readable, or not a whole library
        pass
    with tempfile.TemporaryDirectory() as folder, progress.task("compile the decoder for this processor"):
        built = Path(folder) / name
        _compile(compiler, built)
        if path is not None:
            with contextlib.suppress(StorageError, OSError):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(path, built.read_bytes())
                path.chmod(0o600)
        return ctypes.CDLL(str(built))  # which may be deleted once it is loaded


def _key(compiler: list[str]) -> str:
    """Hash the sources, the compiler and the processor: a cache may be shared by different machines."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    key = hashlib.sha256(version + repr((compiler, _FLAGS, _LINK, _TARGETS, _processor())).encode())
    for source in sorted(_SOURCES.glob("*.[hc]*")):
        key.update(source.read_bytes())
    return key.hexdigest()[:16]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return "".join(line for line in lines[:64] if line.startswith(("model name", "flags", "Features", "CPU part")))


def _is_own(path: Path) -> bool:
    """Whether a library is there, and no other user can have written it."""
    if not path.is_file():
        return False
    found = [p.stat() for p in (path, path.parent)]
    return all(f.st_uid in (os.getuid(), 0) and not f.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for f in found)


def _compile(compiler: list[str], built: Path) -> None:
    """Compile the sources for this processor, and check the result.

    Raises:
        OSError, SubprocessError: that is not possible.
    """
    errors = list[str]()
    for target in _TARGETS:
        command = [*compiler, *_FLAGS, *target, *_LINK, str(_SOURCES / "forward.cpp"), "-o", str(built)]
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, check=False, timeout=600, env=environment)
        if done.returncode == 0 and _runs(built):
            return
        output = done.stderr.decode("utf-8", errors="replace").splitlines()
        errors += [line for line in output if "error" in line]
    raise OSError(errors[0] if errors else "its output does not run on this processor")


def _runs(library: Path) -> bool:
    command = [sys.executable, "-c", _CHECK, str(library)]
    try:
        return subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0
    except subprocess.TimeoutExpired:
        return False
