"""The command line: each command parses its arguments, calls a stage and prints the result."""

import errno
import os
import sys

from firstlight import signals
from firstlight.cli.common_options import take_common_options
from firstlight.cli.streams import open_standard_streams
from firstlight.errors import Interrupted

__all__ = ["main"]

# These commands restart the process with a tuned memory allocator before torch is imported.
_TUNED_COMMANDS = {"pretrain", "quickstart", "verify-resume", "evaluate"}


def main() -> None:
    """Run ``firstlight`` with the arguments of the process and exit with its code."""
    open_standard_streams()
    signals.install(_report_signal)
    try:
        code = _run(sys.argv[1:])
    except Interrupted as error:  # before the command started
        _report_signal(error.signal_name)
        code = error.exit_code
    except KeyboardInterrupt:
        _report_signal("SIGINT")
        code = 130
    signals.uninstall()
    sys.exit(_flush(code))


def _run(arguments: list[str]) -> int:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from firstlight.parallel import watch_launcher

        watch_launcher()
    command = next((word for word in take_common_options(arguments)[0] if not word.startswith("-")), None)
    if command in _TUNED_COMMANDS and not {"-h", "--help"} & set(arguments):
        from firstlight.parallel import ensure_allocator

        ensure_allocator()
    from firstlight.cli.app import run

    return run(arguments)


def _report_signal(name: str) -> None:
    from firstlight.cli.progress_bar import report_interrupted

    report_interrupted(name)


def _flush(code: int) -> int:
    """Flush stdout and return the exit code; a closed pipe, such as to ``head``, or terminal is not an error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise the interpreter flushes again at exit, and prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and error.errno not in (errno.EPIPE, errno.EIO):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
            return 1
    return code
