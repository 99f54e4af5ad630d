"""Import the program once, and run each command line of standard input in a process forked from here.

A line is JSON: {"arguments", "environment", "output"}. The answer is its exit code.
"""

import json
import os
import sys


def _run(request: dict) -> int:
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["firstlight", *request["arguments"]]
    from firstlight.cli import main

    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    return 0


def serve() -> None:
    import torch  # noqa: F401 - imported for the forked processes

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(request))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
