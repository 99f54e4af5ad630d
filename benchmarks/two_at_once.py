"""Two processes at once on the same cores, by how long idle OpenMP threads spin.

    python benchmarks/two_at_once.py --rounds 3

Each setting has two workers. In a round one of them runs alone, then both run at the same time, then the next setting
has its turn. "alone" is the time beside that of libgomp's default (300,000 rounds of a busy loop). "two at once" is the
time until both are done, beside twice the time alone with the default: 1.0 loses nothing, and 0.5 is as if each had
cores of its own. "adaptive" is what Firstlight does: brief spinning only while others need the cores; "1 thread" stands
for one thread per process. With the default, two at once can take a hundred times as long; a setting that is named in
--skip-pairs is measured alone only.
"""

import argparse
import statistics
import sys
from pathlib import Path

from interleave import System
from shapes import SHAPES

DEFAULT = "300000"
HERE = Path(__file__).parent


def _environment(setting: str) -> dict[str, str]:
    if setting == "adaptive":
        return {"OMP_NUM_THREADS": "2"}
    if setting == "1 thread":
        return {"OMP_NUM_THREADS": "1"}
    return {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": setting}


def measure(command: list[str], settings: list[str], steps: int, rounds: int, alone_only: set[str]) -> None:
    """Print a line per setting: median and range of both ratios over the rounds."""
    pairs = {
        setting: [System(f"{setting}, {i}", command, _environment(setting)) for i in range(2)] for setting in settings
    }
    alone: dict[str, list[float]] = {setting: [] for setting in settings}
    both: dict[str, list[float]] = {setting: [] for setting in settings}
    try:
        for pair in pairs.values():
            for system in pair:
                system.start()
        for _ in range(rounds):
            for setting, pair in pairs.items():
                alone[setting].append(pair[0].run_steps(steps)["seconds"])
                if setting in alone_only:
                    continue
                for system in pair:
                    system.start_steps(steps)
                both[setting].append(max(system.wait()["seconds"] for system in pair))
    finally:
        for pair in pairs.values():
            for system in pair:
                system.stop()
    default = statistics.median(alone[DEFAULT])
    for setting in settings:
        two = _describe([seconds / 2 / default for seconds in both[setting]]) if both[setting] else "-"
        one = _describe([seconds / default for seconds in alone[setting]])
        print(f"  {setting:>9}  alone {one}  two at once {two}", flush=True)


def _describe(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Measure training and generation of each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spin", default="adaptive,1 thread,300,1000,3000,300000", help="settings, joined by commas")
    parser.add_argument("--shapes", default="char-4x64,char-6x192,char-6x384", help="of training")
    parser.add_argument("--generate", default="char-6x192:1,char-6x192:8", help="shape:batch of generation")
    parser.add_argument("--skip-pairs", default=DEFAULT, help="settings that are measured alone only")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = args.spin.split(",")
    alone_only = set(args.skip_pairs.split(","))
    worker = [sys.executable, str(HERE / "worker.py"), "firstlight"]
    for name in filter(None, args.shapes.split(",")):
        print(f"training {name}", flush=True)
        measure([*worker, name], settings, 3 * SHAPES[name].steps, args.rounds, alone_only)
    for name, _, batch in (item.partition(":") for item in args.generate.split(",") if item):
        print(f"generation {name}, batch {batch}", flush=True)
        measure([*worker, name, "--generate", f"{batch},32,64"], settings, 8, args.rounds, alone_only)


if __name__ == "__main__":
    main()
