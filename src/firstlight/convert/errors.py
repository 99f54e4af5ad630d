"""Turn the errors of third-party parsers into one-line errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstlight.errors import CheckpointError, FirstlightError, Interrupted, MissingExtra, UsageError
from firstlight.shell import install_command


def missing_library(what: str, extra: str | None, error: ImportError) -> UsageError:
    """Build the error for a library that is not installed.

    Args:
        what: what needs it, such as "reading a GGUF file".
        extra: the extra of this package that installs it, if any.
        error: the import that failed.
    """
    if extra is not None:
        return MissingExtra(what, extra)
    return UsageError(
        f"{what} needs a library that is not installed", found=error, fix=f"Run: {install_command(str(error.name))}"
    )


@contextmanager
def wrap_errors(path: Path, what: str, extra: str | None = None) -> Iterator[None]:
    """Raise a CheckpointError for any error of a library that parses a damaged file.

    The libraries that read these formats raise whatever their code runs into, so every exception is caught.

    Args:
        path: of the file.
        what: kind of file, for the message.
        extra: extra of this package with the libraries that read it.

    Raises:
        CheckpointError: the file cannot be read.
        MissingExtra: a library is not installed.
    """
    try:
        yield
    except (FirstlightError, Interrupted, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except ImportError as error:
        raise missing_library(f"reading a {what}", extra, error) from error
    except BaseException as error:  # noqa: BLE001 - a panic of a Rust library is not an Exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"not a readable {what}: {reason}", where=path) from error


@contextmanager
def add_path(path: Path) -> Iterator[None]:
    """Add the file's path to a CheckpointError that names only a tensor."""
    try:
        yield
    except CheckpointError as error:
        if error.where is not None and str(path) in error.where:
            raise
        where = path if error.where is None else f"{path}: {error.where}"
        raise CheckpointError(
            error.problem, where=where, found=error.found, expected=error.expected, fix=error.fix
        ) from error
