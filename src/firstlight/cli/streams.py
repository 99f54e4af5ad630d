"""Standard streams that may be closed, full or gone: what cannot be written to stderr never ends a command."""

import codecs
import io
import os
import select
import sys
from pathlib import Path
from typing import Any, TextIO

# What stands for characters of our messages in a terminal whose encoding lacks them; others become a question mark.
_ASCII = {"·": "-", "…": "...", "×": "x", "±": "+/-", "–": "-", "—": "-", "→": "->", "“": '"', "”": '"', "’": "'"}
_REPLACE = "firstlight-replace"


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded: the error handler of the standard streams."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in part), error.end


codecs.register_error(_REPLACE, _replace)


class _LossyFile(io.FileIO):
    """A file that drops what cannot be written: a closed pipe or terminal, a full disk."""

    def write(self, data: Any, /) -> int:
        """Write what can be written; report all of it as written."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def open_standard_streams() -> None:
    """Make all three standard streams usable.

    A closed one is opened on the null device: otherwise the next file that is opened, such as a token store, would get
    its descriptor, and receive what libraries print. Files and pipes are UTF-8; in a terminal, characters that its
    encoding lacks are replaced by ASCII.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor, which is this one
    sys.stdin = sys.stdin or _open_null("r")
    sys.stdout = sys.stdout or _open_null("w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors=_REPLACE)
    if sys.stderr is None:
        sys.stderr = _open_null("w")
    elif isinstance(sys.stderr, io.TextIOWrapper):
        file = _LossyFile(sys.stderr.fileno(), "w", closefd=False)
        encoding = sys.stderr.encoding if file.isatty() else "utf-8"
        stream = io.TextIOWrapper(io.BufferedWriter(file), encoding, errors=_REPLACE, line_buffering=True)
        sys.stderr = stream


def is_reader_gone() -> bool:
    """Whether standard output is a pipe or a terminal that nobody reads any more, as after ``| head``."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(1, 0)  # reports only what ended it
    return bool(poll.poll(0))


def _open_null(mode: str) -> TextIO:
    # Not on the standard descriptor, which a library may have been given meanwhile.
    return Path(os.devnull).open(mode, encoding="utf-8")  # type: ignore[return-value]
