"""One system in a process of its own, which takes steps when it is told to.

    python benchmarks/worker.py SYSTEM SHAPE [--checkout DIR] [--compile] [--recompute]
    python benchmarks/worker.py SYSTEM SHAPE --texts 8,64,96 [--int8]
    python benchmarks/worker.py SYSTEM SHAPE --device cuda --precision bf16 …

A step is one of the optimiser, or with --texts one greedy writing of so many texts, with so many tokens of prompt and
new ones. It answers each line of standard input, a number of steps, with one line of JSON: the seconds that they
took and the peak of this process's memory, on a GPU of what torch has taken there. The first line that it prints says
how long it took to be warm.
"""

import argparse
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shapes import SHAPES, Texts, Ways


def on_a_gpu() -> bool:
    """Tell whether this process works on a GPU, without importing torch for the question."""
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()


def peak_bytes() -> int:
    """Return the most memory that this process has held, on a GPU where it works there."""
    if on_a_gpu():
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_ANSWERS = "FIRSTLIGHT_BENCH_ANSWERS"


class Gate:
    """Counts steps; after the last one that was ordered it answers, and waits for the next order."""

    def __init__(self, answers: TextIO) -> None:
        self._answers, self._began, self._left = answers, time.perf_counter(), 2
        self._orders: Iterator[str] | None = None

    def step(self) -> None:
        """A step has ended."""
        self._left -= 1
        if self._left:
            return
        if on_a_gpu():
            sys.modules["torch"].cuda.synchronize()
        seconds = time.perf_counter() - self._began
        if self._orders is None:
            self._orders = iter(sys.stdin)
            self._answer(warm_seconds=seconds)
        else:
            self._answer(seconds=seconds, peak_bytes=peak_bytes())
        order = next(self._orders, None)
        if order is None:
            os._exit(0)  # a system in the middle of its loop has no other end
        self._left, self._began = int(order), time.perf_counter()

    def _answer(self, **fields: float) -> None:
        print(json.dumps(fields), file=self._answers, flush=True)


def main() -> None:
    """Build the system, take two steps to warm it, then obey."""
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--checkout", type=Path)
    for flag in ("--compile", "--recompute", "--int8"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--texts", help="batch,prompt,new")
    asked = parser.parse_args()
    # What a system prints, from C too, must not be taken for an answer. Firstlight starts this process again, once.
    if _ANSWERS not in os.environ:
        answers = os.dup(1)
        os.set_inheritable(answers, True)
        os.environ[_ANSWERS] = str(answers)
        os.dup2(2, 1)
    gate = Gate(os.fdopen(int(os.environ[_ANSWERS]), "w"))
    peer = importlib.import_module(f"peers.{asked.system}")
    ways = Ways(asked.checkout, asked.compile, asked.recompute, asked.int8, asked.device, asked.precision)
    if asked.texts:
        peer.generate(SHAPES[asked.shape], Texts(*map(int, asked.texts.split(","))), gate.step, ways)
    else:
        peer.train(SHAPES[asked.shape], gate.step, ways)


if __name__ == "__main__":
    main()
