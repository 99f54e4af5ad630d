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
import shutil
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
    compiler = next((path for name in _compilers() if (path := shutil.which(name))), None)
    if compiler is None:
        return "no C++ compiler: install g++ or clang++"
    try:
        library = _library_path(compiler)
        return ctypes.CDLL(str(library)) if library.exists() else _compile(compiler, library)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} failed: {str(error).splitlines()[0]}"


def _compilers() -> tuple[str, ...]:
    return (*filter(None, [os.environ.get("CXX")]), "g++", "clang++", "c++")


def _library_path(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    key = hashlib.sha256(version + " ".join([compiler, *_FLAGS]).encode() + _processor().encode())
    for source in sorted(_SOURCES.glob("*.[hc]*")):
        key.update(source.read_bytes())
    return cache_dir() / "native" / f"decoder-{key.hexdigest()[:16]}.so"


def _processor() -> str:
    """Describe what the compiler may generate code for: a cache folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return "".join(line for line in lines[:64] if line.startswith(("model name", "flags", "Features", "CPU part")))


def _compile(compiler: str, path: Path) -> ctypes.CDLL:
    """Compile the sources for this processor, check the result, keep it in the cache if that can be written, load it.

    Raises:
        OSError, SubprocessError: that is not possible.
    """
    with tempfile.TemporaryDirectory() as folder, progress.task("compile the decoder for this processor"):
        built = Path(folder) / path.name
        for target in _TARGETS:
            command = [compiler, *_FLAGS, *target, *_LINK, str(_SOURCES / "forward.cpp"), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, check=False, timeout=600, text=True)
            if done.returncode == 0 and _runs(built):
                with contextlib.suppress(StorageError):
                    write_atomic(path, built.read_bytes())
                return ctypes.CDLL(str(built))  # which may be deleted once it is loaded
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise OSError(errors[0] if errors else "its output does not run on this processor")


def _runs(library: Path) -> bool:
    command = [sys.executable, "-c", _CHECK, str(library)]
    return subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0
