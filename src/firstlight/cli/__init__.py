"""The command line: each command parses its arguments, calls a stage and prints the result."""

import io
import os
import sys

__all__ = ["main"]

# These commands restart the process with a tuned memory allocator before torch is imported.
_TUNED_COMMANDS = {"pretrain", "quickstart", "verify-resume", "evaluate"}


def main() -> None:
    """Run ``firstlight`` with the arguments of the process and exit with its code."""
    arguments = sys.argv[1:]
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command in _TUNED_COMMANDS and "--help" not in arguments:
        from firstlight.parallel import ensure_allocator

        ensure_allocator()
    from firstlight.cli.app import run

    _use_utf8()
    code = run(arguments)
    sys.exit(_flush(code))


def _use_utf8() -> None:
    """Write UTF-8 to files and pipes; in a terminal, replace characters that its encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def _flush(code: int) -> int:
    """Flush stdout and return the exit code; a closed pipe, such as to ``head``, is not an error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise the interpreter flushes again at exit, and prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
            return 1
    return code
