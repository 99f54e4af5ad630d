"""Measure what a run spends outside its steps: waiting for data, saving, evaluating and sampling.

python benchmarks/overhead.py TEXT RUN
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firstlight.parallel.allocator import ensure_allocator
from firstlight.train import periodic


def timed(holder: Any, name: str, spent: dict[str, list[float]]) -> None:
    """Replace a function by one that records the seconds of each call."""
    original: Callable[..., Any] = getattr(holder, name)

    def wrapper(*args: Any) -> Any:
        began = time.perf_counter()
        answer = original(*args)
        spent.setdefault(name, []).append(time.perf_counter() - began)
        return answer

    setattr(holder, name, wrapper)


def main() -> None:
    """Train the preset for characters, with a checkpoint every 50 steps, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text file to train on")
    parser.add_argument("run", type=Path, help="run directory to write")
    args = parser.parse_args()
    ensure_allocator()
    from firstlight.stages import pretrain
    from firstlight.train import loop
    from firstlight.train.prefetch import Prefetcher

    spent: dict[str, list[float]] = {}
    timed(Prefetcher, "take", spent)
    timed(loop, "train_step", spent)
    for name in ("save", "evaluate", "sample"):
        timed(periodic, name, spent)
    pretrain.pretrain(
        [str(args.text)],
        out=args.run,
        preset="shakespeare-char-cpu",
        overrides=["train.steps=600", "train.checkpoint_every=50", "train.eval_every=100", "train.sample_every=200"],
    )
    steps = spent["train_step"][1:]  # without the first one, which warms up
    mean = sum(steps) / len(steps)
    # The last save waits for the disk; the others are what the loop waits for.
    stalls = spent["save"][:-1]
    answer = {
        "a step, ms": round(1e3 * mean, 2),
        "waiting for data, fraction of a step": f"{sum(spent['take'][1:]) / len(steps) / mean:.2%}",
        "a checkpoint's stall, steps": round(sum(stalls) / len(stalls) / mean, 2),
        "an evaluation, steps": round(sum(spent["evaluate"]) / len(spent["evaluate"]) / mean, 1),
        "a sample, steps": round(sum(spent["sample"]) / len(spent["sample"]) / mean, 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
