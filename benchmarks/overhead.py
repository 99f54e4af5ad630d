"""What a run spends beside its steps: seconds spent in the feed, in saving, evaluating and sampling.

python benchmarks/overhead.py TEXT RUN
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firstlight.parallel.allocator import ensure_allocator
from firstlight.train import periodic


def timed(holder: Any, name: str, spent: dict[str, list[float]]) -> None:
    """Let each call of a function note the seconds that it takes."""
    plain: Callable[..., Any] = getattr(holder, name)

    def noting(*given: Any) -> Any:
        began = time.perf_counter()
        answer = plain(*given)
        spent.setdefault(name, []).append(time.perf_counter() - began)
        return answer

    setattr(holder, name, noting)


def main() -> None:
    """Train the preset for characters, with a checkpoint every 50 steps, and print the shares."""
    ensure_allocator()
    from firstlight.stages import pretrain
    from firstlight.train import loop
    from firstlight.train.prefetch import Prefetcher

    spent: dict[str, list[float]] = {}
    timed(Prefetcher, "take", spent)
    timed(loop, "train_step", spent)
    for name in ("save", "evaluate", "sample"):
        timed(periodic, name, spent)
    text, out = sys.argv[1:]
    pretrain.pretrain(
        [text],
        out=Path(out),
        preset="shakespeare-char-cpu",
        overrides=["train.steps=600", "train.checkpoint_every=50", "train.eval_every=100", "train.sample_every=200"],
    )
    steps = spent["train_step"][1:]  # the first one warms up
    mean = sum(steps) / len(steps)
    # The last save waits for the disk, as it must; the others are what a run stalls by.
    stalls = spent["save"][:-1]
    answer = {
        "a step, ms": round(1e3 * mean, 2),
        "waiting for data, share of a step": f"{sum(spent['take'][1:]) / len(steps) / mean:.2%}",
        "a checkpoint's stall, steps": round(sum(stalls) / len(stalls) / mean, 2),
        "an evaluation, steps": round(sum(spent["evaluate"]) / len(spent["evaluate"]) / mean, 1),
        "a sample, steps": round(sum(spent["sample"]) / len(spent["sample"]) / mean, 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
