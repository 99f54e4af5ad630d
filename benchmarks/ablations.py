"""Ablations of a preset: runs with one setting changed, with several seeds; compares final validation losses.

    python benchmarks/ablations.py --text input.txt --seeds 3

The baseline is the preset shakespeare-char-cpu with 400 steps. Every run is the command ``pretrain``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from firstlight.config import flatten, preset

BASE = ["train.steps=400", "train.eval_every=400", "train.eval_windows=1000", "train.checkpoint_every=400"]
ABLATIONS: dict[str, list[str]] = {
    "the preset": [],
    "AdamW (lr 3e-3) instead of Muon": ["optim.name=adamw", "optim.lr=3e-3", "optim.weight_decay=0.0"],
    "no QK-norm (family llama)": ["model.family=llama"],
    "LayerNorm, GELU, learned positions, tied (family gpt2)": ["model.family=gpt2"],
    "output projections initialized randomly, not to zero": ["model.residual_init=scaled"],
    "head tied to the embedding": ["model.tie_embeddings=true"],
    "cosine instead of linear decay": ["optim.schedule.name=cosine"],
    "wsd instead of linear decay": ["optim.schedule.name=wsd"],
    "warm-up of 40 steps": ["optim.schedule.warmup_steps=40"],
    "momentum 0.95, 5 iterations, lr 0.02 (Muon's usual)": ["optim.momentum=0.95", "optim.ns_steps=5", "optim.lr=0.02"],
    "weight decay 0.1": ["optim.weight_decay=0.1"],
    "4 layers": ["model.n_layer=4"],
    "twice the batch": ["train.batch_tokens=1536"],
}


def loss(text: Path, arguments: list[str]) -> tuple[float, float]:
    """Run once; return the final validation loss and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = flatten(preset("firstlight.stages.presets.pretrain", "shakespeare-char-cpu"))
        if "optim.name=adamw" in arguments:  # AdamW does not have Muon's settings
            settings = {k: v for k, v in settings.items() if not k.startswith("optim.") or ".schedule." in k}
        base = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        command = [sys.executable, "-m", "firstlight", "pretrain", str(text), *base]
        done = subprocess.run(
            [*command, "--out", str(out), *BASE, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "valid_loss" in line][-1]
    return last["valid_loss"], last["seconds"]


def main() -> None:
    """Run every ablation with every seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare's input.txt")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    args = parser.parse_args()
    print(
        "| change | valid loss, by seed | mean | difference to the preset | seconds |\n|---|---|---|---|---|",
        flush=True,
    )
    base: list[float] = []
    for name, arguments in ABLATIONS.items():
        runs = [loss(args.text, [*arguments, f"run.seed={seed}"]) for seed in range(args.seeds)]
        losses = [value for value, _ in runs]
        base = base or losses
        differences = [a - b for a, b in zip(losses, base, strict=True)]  # per seed: same data, same order
        print(
            f"| {name} | {', '.join(f'{value:.3f}' for value in losses)} | {statistics.mean(losses):.3f} | "
            f"{statistics.mean(differences):+.3f} | {statistics.median(seconds for _, seconds in runs):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
