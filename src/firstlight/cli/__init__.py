"""The command line: parse, call a stage, print. No other room prints."""

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

    code = run(words)
    _flush()
    sys.exit(code)


def _flush() -> None:
    """Flush what was printed; a reader that has gone away, such as ``head``, is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter flushes once more as it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
