"""One system in a process of its own, which takes steps when it is told to.

    python benchmarks/worker.py SYSTEM SHAPE [--checkout DIR] [--compile]

It answers each line of standard input, a number of steps, with one line of JSON: the seconds that they
took and the peak of this process's memory. The first line that it prints says how long it took to be warm.
"""

import argparse
import importlib
import json
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Build the system, take two steps to warm it, then obey."""
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("shape")
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from shapes import SHAPES

    began = time.perf_counter()
    peer = importlib.import_module(f"peers.{asked.system}")
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a system prints must not be taken for an answer

    def answer(**fields: float | str) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    def commands(first_seconds: float) -> "Iterator[int]":
        answer(warm_seconds=first_seconds)
        for line in sys.stdin:
            yield int(line)

    class Gate:
        """Counts steps, and waits for the next command after the last one of each."""

        left = 2

        def __init__(self) -> None:
            self._orders: Iterator[int] | None = None
            self._began = began

        def step(self) -> None:
            """A step has ended."""
            self.left -= 1
            if self.left > 0:
                return
            seconds = time.perf_counter() - self._began
            if self._orders is None:
                self._orders = commands(seconds)
            else:
                answer(seconds=seconds, peak_bytes=peak_bytes())
            self.left = next(self._orders, 0)
            if self.left == 0:
                answers.flush()
                import os

                os._exit(0)
            self._began = time.perf_counter()

    peer.train(SHAPES[asked.shape], Gate().step, checkout=asked.checkout, compiled=asked.compile)


if __name__ == "__main__":
    from collections.abc import Iterator  # noqa: F401 - for the annotations above

    main()
