"""Systems in turn: A B C A B C …, each in a process that waits while the others work."""

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
    """A system at work.

    Attributes:
        name: as the table shows it.
        command: starts its worker.
        environment: what it needs beside the caller's.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    # A file, since a pipe that nobody empties would hold the system up once it is full.
    told: IO[str] = field(default_factory=lambda: tempfile.TemporaryFile("w+"))  # noqa: SIM115 - lives with it
    warm_seconds: float = 0.0

    def start(self) -> None:
        """Start the worker and wait until it is warm.

        Raises:
            RuntimeError: it ended; the end of what it printed says why.
        """
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.told,
            text=True,
            env={**os.environ, **self.environment},
        )
        self.warm_seconds = self._answer()["warm_seconds"]

    def ask(self, n: int) -> dict[str, Any]:
        """Let it take n steps; return its answer."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.told.seek(0)
            raise RuntimeError(f"{self.name} ended:\n{self.told.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def in_turn(systems: Sequence[System], n: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Let all systems take n steps in turn, several rounds; a system that cannot start is named and left out.

    Returns:
        For each system that ran: seconds of each round, peak memory, and seconds to be warm.
    """
    running = []
    try:
        for system in systems:
            try:
                system.start()
                running.append(system)
            except (RuntimeError, OSError) as error:
                system.stop()
                print(f"left out: {error}", file=sys.stderr, flush=True)
        told: dict[str, list[dict[str, Any]]] = {system.name: [] for system in running}
        for number in range(rounds):
            for system in running:
                told[system.name].append(system.ask(n))
            last = ", ".join(f"{s.name} {told[s.name][-1]['seconds']:.2f} s" for s in running)
            print(f"  round {number + 1}: {last}", file=sys.stderr, flush=True)
        return {
            system.name: {
                "seconds": [a["seconds"] for a in told[system.name]],
                "peak_bytes": told[system.name][-1]["peak_bytes"],
                "warm_seconds": system.warm_seconds,
            }
            for system in running
        }
    finally:
        for system in systems:
            system.stop()


def ratio(of: Sequence[float], to: Sequence[float]) -> str:
    """Return the median, and the range, of ``to / of`` round by round: how many times faster ``of`` is."""
    ratios = [b / a for a, b in zip(of, to, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
