"""Run systems interleaved, A B C A B C …, each in its own process, which waits while the others run."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent


@dataclass
class System:
    """A system to measure, with its worker process.

    Attributes:
        name: in the tables.
        command: command line of its worker.
        environment: additional environment variables.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    # A file, since a pipe that is not read would block the system once it is full.
    log: IO[str] = field(default_factory=lambda: tempfile.TemporaryFile("w+"))  # noqa: SIM115 - closed with the object
    warm_seconds: float = 0.0

    def start(self) -> None:
        """Start the worker and wait until it has warmed up.

        Raises:
            RuntimeError: it exited; the message has the end of its output.
        """
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **self.environment},
        )
        self.warm_seconds = self._answer()["warm_seconds"]

    def run_steps(self, n: int) -> dict[str, Any]:
        """Run n steps; return the seconds and the peak memory."""
        self.start_steps(n)
        return self.wait()

    def start_steps(self, n: int) -> None:
        """Start to run n steps."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()

    def wait(self) -> dict[str, Any]:
        """Wait for the steps that were started; return the seconds and the peak memory."""
        return self._answer()

    def stop(self) -> None:
        """Kill the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"{self.name} exited:\n{self.log.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def run_interleaved(systems: Sequence[System], n: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Run n steps of each system in turn, for several rounds; a system that cannot start is reported and skipped.

    Returns:
        Of each system that ran: the seconds of each round, peak memory, and seconds to warm up.
    """
    running = []
    try:
        for system in systems:
            try:
                system.start()
                running.append(system)
            except (RuntimeError, OSError) as error:
                system.stop()
                print(f"skipped: {error}", file=sys.stderr, flush=True)
        results: dict[str, list[dict[str, Any]]] = {system.name: [] for system in running}
        for number in range(rounds):
            for system in running:
                results[system.name].append(system.run_steps(n))
            last = ", ".join(f"{s.name} {results[s.name][-1]['seconds']:.2f} s" for s in running)
            print(f"  round {number + 1}: {last}", file=sys.stderr, flush=True)
        return {
            system.name: {
                "seconds": [a["seconds"] for a in results[system.name]],
                "peak_bytes": results[system.name][-1]["peak_bytes"],
                "warm_seconds": system.warm_seconds,
            }
            for system in running
        }
    finally:
        for system in systems:
            system.stop()


def speedup(seconds: Sequence[float], baseline: Sequence[float]) -> str:
    """Format the median and the range, over rounds, of how many times faster a system is than a baseline."""
    ratios = [b / a for a, b in zip(seconds, baseline, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
