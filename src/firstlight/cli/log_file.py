"""``--log-file``: everything that a command shows, as plain lines with a time stamp."""

import os
import re
import time
from pathlib import Path

from firstlight.cli.common_options import LOG_FILE, CommonOptions
from firstlight.errors import UsageError
from firstlight.files import is_stream, storage_errors
from firstlight.shell import quote_argument

_STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")


class LogFile:
    """Appends lines to a file, each in one write: what is shown is in it also if the process is killed next.

    Args:
        path: the file; one that is there must be such a log, which is continued.

    Raises:
        UsageError: it is another file, a folder, or in a folder that does not exist.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = ""
        if path.is_dir():
            raise UsageError("is a folder", where=LOG_FILE, found=path, expected="a file", fix="Choose a file in it.")
        if not path.parent.is_dir():
            make = f"mkdir -p {quote_argument(str(path.parent))}"
            fix = f"Choose another one, or make it: {make} (but not that of a new run, which the run makes)"
            raise UsageError("no such folder", where=LOG_FILE, found=path.parent, fix=fix)
        with storage_errors(path):
            if not is_stream(path) and path.exists() and (start := _first_bytes(path)) and not _STAMP.match(start):
                raise UsageError(
                    "exists, and is not a log of Firstlight, so nothing is added to it",
                    where=LOG_FILE,
                    found=path,
                    fix="Choose another name.",
                )
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.name == "posix":
                os.set_inheritable(self._descriptor, False)

    def line(self, text: str) -> None:
        """Write a line, or several.

        Raises:
            StorageError: it cannot be written.
        """
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        data = "".join(f"{stamp}  {line}\n" for line in text.split("\n")).encode("utf-8", errors="backslashreplace")
        with storage_errors(self._path):
            os.write(self._descriptor, data)

    def output(self, text: str) -> None:
        """Write the lines of a result that is printed, as soon as they are complete."""
        *lines, self._part = f"{self._part}{text}".split("\n")
        if lines:
            self.line("\n".join(lines))

    def close(self) -> None:
        """Write what is left of an incomplete line, and close the file."""
        if self._part:
            self.output("\n")
        os.close(self._descriptor)


def open_log(options: CommonOptions) -> LogFile | None:
    """Open the log file that a command line names, if any.

    Raises:
        UsageError: it has no name or cannot be used, or the command is to be quiet and verbose.
        StorageError: it cannot be written.
    """
    if options.quiet and options.verbose:
        raise UsageError("exclude each other", where="--quiet --verbose", fix="Remove one of them.")
    if options.log_file == "":
        raise UsageError("needs a file", where=LOG_FILE, fix=f"Name a file after it: {LOG_FILE} FILE")
    return None if options.log_file is None else LogFile(Path(options.log_file))


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)
