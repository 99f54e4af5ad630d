"""Commands that messages and files show: every word is quoted, so that they can be pasted into a shell as they are."""

import os
import re
import shlex
import sys
from itertools import count
from pathlib import Path

_PACKAGE = "firstlight"


def quote_argument(value: object) -> str:
    r"""Quote a path or another value for a shell: a Path as an absolute one, so that it holds in any folder.

    Characters that a terminal does not show are written as escapes, which bash, zsh and ksh read (``$'\x1b'``).
    """
    text = _absolute(value) if isinstance(value, Path) else str(value)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_ansi_c, os.fsencode(text)))}'"


def _absolute(path: Path) -> str:
    try:
        return str(path.absolute())
    except OSError:  # the current folder was deleted
        return str(path)


def _ansi_c(byte: int) -> str:
    if chr(byte) in "\\'":
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"


def command_line(*words: object) -> str:
    """Return a command of Firstlight for a terminal, as it can be called in this environment.

    Args:
        words: the command, its arguments and options; see ``quote_argument``.
    """
    return " ".join([_program(), *map(quote_argument, words)])


def command_in_folder(*words: str) -> str:
    """Return a command of Firstlight for a file that may be read on another machine, to be run in the file's folder."""
    return " ".join([_PACKAGE, *map(quote_argument, words)])


def resume_command(kind: str, run: Path) -> str:
    """Return the command that resumes a run, with as many processes as this one has."""
    n = os.environ.get("LOCAL_WORLD_SIZE", "1")
    command = command_line(kind, run, "--resume")
    if n == "1":
        return command
    launcher = "torchrun" if _is_on_path("torchrun") else f"{quote_argument(sys.executable)} -m torch.distributed.run"
    return f"{launcher} --nproc-per-node {n} -m {_PACKAGE}{command.removeprefix(_program())}"


def python_command(code: str) -> str:
    """Return the command that runs code with this Python."""
    return f"{quote_argument(sys.executable)} -c {quote_argument(code)}"


def install_command(*requirements: str) -> str:
    """Return the command that installs packages for this Python; an environment need not have pip."""
    from shutil import which  # only in errors: the command line starts without it

    python = quote_argument(sys.executable)
    if _has_pip():
        return pip_command(sys.executable, *requirements)
    if which("uv"):
        return f"uv pip install --python {python} {' '.join(map(quote_argument, requirements))}"
    return f"{python} -m ensurepip && {pip_command(sys.executable, *requirements)}"


def _has_pip() -> bool:
    # Not importlib.util.find_spec: before Python 3.12, setuptools takes a search for pip for pip's own start, and
    # cannot be imported afterwards, which torch.compile does.
    from importlib.machinery import PathFinder

    return PathFinder.find_spec("pip") is not None


def pip_command(python: str, *requirements: str) -> str:
    """Return the command that installs packages for an interpreter that has pip."""
    return f"{quote_argument(python)} -m pip install {' '.join(map(quote_argument, requirements))}"


def tensorboard_command(folder: Path) -> str | None:
    """Return the command that shows the TensorBoard files in a folder; None where TensorBoard is not installed."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        return None
    program = "tensorboard" if _is_on_path("tensorboard") else f"{quote_argument(sys.executable)} -m tensorboard.main"
    return f"{program} --logdir {quote_argument(folder)}"


def requirements(extra: str = "", package: str = "") -> list[str]:
    """Return the requirements of an extra of this package, or the one for a package that it always needs.

    Args:
        extra: as in pyproject.toml.
        package: a name; only its requirement is returned.
    """
    from importlib import metadata

    try:
        listed = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from its source, without being installed
        return []
    found = []
    for line in listed:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip())[0]
        of_extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        if (of_extra[1] if of_extra else "") == extra and package in ("", name):
            found.append(requirement.strip())
    return found


def is_installed(module: str) -> bool:
    """Return whether a module of another package can be imported, without importing it."""
    from importlib.util import find_spec  # only where a library is optional

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of a parent that is missing, or a module that was blocked
        return False


def install_extra(extra: str) -> str:
    """Return the advice to install what an extra of this package needs, which no package index may have."""
    needed = requirements(extra)
    if not needed:
        return f"Install the packages of the extra {extra!r}, which pyproject.toml lists"
    return f"Run: {install_command(*needed)}"


def unused_path(path: Path) -> Path:
    """Return a path for a new file or folder: this one, or where it exists one with a number, such as ``books-2``."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(2))
    return path if not os.path.lexists(path) else next(p for p in numbered if not os.path.lexists(p))


def model_argument(name: str | Path) -> str | Path:
    """Return a model's name as an argument: a path where it is one, and a hub name as it is."""
    path = Path(name).expanduser() if str(name).startswith("~/") else Path(name)
    return path if path.is_absolute() or os.path.lexists(path) or os.path.lexists(path.parent) else str(name)


def _program() -> str:
    """Return how this program is called: by its name, or where that is not on PATH (or another's) as a module."""
    return _PACKAGE if _is_on_path(_PACKAGE) else f"{quote_argument(sys.executable)} -m {_PACKAGE}"


def _is_on_path(script: str) -> bool:
    """Whether a script of this environment, or the one that is running, is what its name calls."""
    from shutil import which

    found = which(script)
    if found is None:
        return False
    called = Path(sys.argv[0])
    folders = [Path(sys.executable).parent, *([called.absolute().parent] if called.name == script else [])]
    return Path(found).absolute().parent in folders
