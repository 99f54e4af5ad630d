"""Run one system in its own process, step by step on request.

    python benchmarks/worker.py SYSTEM SHAPE [--checkout DIR] [--compile] [--recompute]
    python benchmarks/worker.py SYSTEM SHAPE --generate 8,64,96 [--int8]
    python benchmarks/worker.py SYSTEM SHAPE --device cuda --precision bf16 …

A step is one optimizer step, or with --generate BATCH,PROMPT,NEW the greedy generation of one batch with so many tokens
of prompt and new tokens. Each line of standard input is a number of steps; the worker runs them and prints one line of
JSON: the seconds that they took, and the peak memory of the process, or torch's on a GPU. The first line that it prints
is the time to start and warm up.
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

from shapes import SHAPES, GenerationWorkload, RunOptions


def uses_gpu() -> bool:
    """Whether this process uses a GPU; does not import torch."""
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()


def peak_bytes() -> int:
    """Return the peak memory of this process, or torch's on a GPU."""
    if uses_gpu():
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_RESULTS_FD = "FIRSTLIGHT_BENCH_RESULTS_FD"


class StepGate:
    """Counts steps; after the last requested step it prints the result, and waits for the next request."""

    def __init__(self, results: TextIO) -> None:
        self._results, self._began, self._left = results, time.perf_counter(), 2
        self._requests: Iterator[str] | None = None

    def step(self) -> None:
        """Count a finished step."""
        self._left -= 1
        if self._left:
            return
        if uses_gpu():
            sys.modules["torch"].cuda.synchronize()
        seconds = time.perf_counter() - self._began
        if self._requests is None:
            self._requests = iter(sys.stdin)
            self._print(warm_seconds=seconds)
        else:
            self._print(seconds=seconds, peak_bytes=peak_bytes())
        request = next(self._requests, None)
        if request is None:
            os._exit(0)  # the systems' loops are endless
        self._left, self._began = int(request), time.perf_counter()

    def _print(self, **fields: float) -> None:
        print(json.dumps(fields), file=self._results, flush=True)


def main() -> None:
    """Build the system, run two steps to warm up, then serve requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", help="a module of benchmarks/peers")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--checkout", type=Path, help="folder of nanoGPT or llm.c")
    for flag in ("--compile", "--recompute", "--int8"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--generate", metavar="BATCH,PROMPT,NEW", help="measure generation instead of training")
    args = parser.parse_args()
    # Redirect standard output, also that of C code, so that only results are on it. The file descriptor is passed on,
    # since Firstlight restarts this process once.
    if _RESULTS_FD not in os.environ:
        results = os.dup(1)
        os.set_inheritable(results, True)
        os.environ[_RESULTS_FD] = str(results)
        os.dup2(2, 1)
    gate = StepGate(os.fdopen(int(os.environ[_RESULTS_FD]), "w"))
    peer = importlib.import_module(f"peers.{args.system}")
    options = RunOptions(args.checkout, args.compile, args.recompute, args.int8, args.device, args.precision)
    if args.generate:
        peer.generate(SHAPES[args.shape], GenerationWorkload(*map(int, args.generate.split(","))), gate.step, options)
    else:
        peer.train(SHAPES[args.shape], gate.step, options)


if __name__ == "__main__":
    main()
