"""The command line: parse, call a stage, print. No other room prints."""

import io
import os
import sys

__all__ = ["main"]

# Commands that compute with a model start again with the memory allocator tuned, before torch is imported.
_COMPUTING = {"pretrain", "quickstart", "verify-resume", "evaluate"}


def main() -> None:
    """Run ``firstlight`` with the words of the process and exit with its code."""
    words = sys.argv[1:]
    command = next((word for word in words if not word.startswith("-")), None)
    if command in _COMPUTING and "--help" not in words:
        from firstlight.parallel import ensure_allocator

        ensure_allocator()
    from firstlight.cli.app import run

    _speak_utf8()
    code = run(words)
    sys.exit(_flush(code))


def _speak_utf8() -> None:
    """Let no character stop what is printed: files and pipes get UTF-8, a terminal what it can show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def _flush(code: int) -> int:
    """Flush what was printed and return the exit code; a reader that has gone away, such as ``head``, is no error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else the interpreter flushes once more as it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
            return 1
    return code
