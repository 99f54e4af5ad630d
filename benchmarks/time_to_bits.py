"""Time to bits per byte on a BPE corpus: a tuned nanoGPT and the preset words-cpu, on the same token ids.

    python benchmarks/time_to_bits.py --nanogpt ../nanoGPT --text novels.txt --rounds 3

Tokenizer and store are prepared once. Then both train as whole processes, interleaved: nanoGPT's train.py on the same
ids with the settings below (the best learning rate of those tried, see docs/benchmarks.md), not compiled; Firstlight's
command on the store. The result is the time at which Firstlight reaches nanoGPT's final loss. Arguments after ``--``
are passed to nanoGPT if they start with two dashes, else to Firstlight.
"""

import argparse
import json
import math
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.store import TokenStore

VOCABULARY = 4096
TUNED = [
    "--device=cpu",
    "--compile=False",
    "--eval_iters=40",
    "--log_interval=100",
    "--wandb_log=False",
    "--block_size=256",
    "--batch_size=8",
    "--gradient_accumulation_steps=1",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=256",
    "--max_iters=600",
    "--lr_decay_iters=600",
    "--eval_interval=600",
    "--warmup_iters=50",
    "--learning_rate=2e-3",
    "--min_lr=2e-4",
    "--beta2=0.99",
    "--dropout=0.0",
    "--always_save_checkpoint=False",
]


def prepare(text: Path, folder: Path) -> tuple[TokenStore, float]:
    """Prepare tokenizer and store; return the store and the tokens per byte of its validation split."""
    command = [sys.executable, "-m", "firstlight"]
    tokenizer, store = str(folder / "bpe"), folder / "store"
    vocabulary = f"tokenizer.vocab_size={VOCABULARY}"
    for arguments in (
        ["tokenizer", "train", str(text), "--out", tokenizer, vocabulary],
        ["data", "prepare", str(text), "--tokenizer", tokenizer, "--out", str(store), "data.valid_ratio=0.05"],
    ):
        subprocess.run([*command, *arguments], capture_output=True, check=True)
    opened = TokenStore.open(store)
    return opened, opened.valid.n_tokens / opened.valid.n_bytes


def nanogpt(checkout: Path, python: str, store: TokenStore, arguments: list[str]) -> dict[str, float]:
    """Train nanoGPT on the store's ids; return its seconds and its final validation loss."""
    data = checkout / "data" / "firstlight_words"
    data.mkdir(exist_ok=True)
    for name, split in (("train", store.train), ("val", store.valid)):
        np.asarray(split.tokens).astype(np.uint16).tofile(data / f"{name}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": store.vocab_size}))
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        done = subprocess.run(
            [python, "train.py", "--dataset=firstlight_words", *TUNED, *arguments, f"--out_dir={out}"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"seconds": seconds, "valid_loss": float(re.findall(r"val loss ([0-9.]+)", done.stdout)[-1])}


def firstlight(store: TokenStore, arguments: list[str]) -> dict[str, Any]:
    """Run the preset; return its seconds and its curve of seconds and validation losses."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "firstlight", "pretrain", str(store.directory), "--preset", "words-cpu"]
        began = time.perf_counter()
        done = subprocess.run([*command, "--out", str(out), *arguments], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(line["seconds"], line["valid_loss"]) for line in lines if "valid_loss" in line]
    return {"seconds": seconds, "curve": curve, "valid_loss": curve[-1][1]}


def main() -> None:
    """Run the rounds and print the results; --json writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; without it only Firstlight runs")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the requirements of nanoGPT")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("arguments", nargs="*", help="further settings, after --")
    args = parser.parse_args()
    theirs_words = [w for w in args.arguments if w.startswith("--")]
    ours_words = [w for w in args.arguments if not w.startswith("--")]
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        store, tokens_per_byte = prepare(args.text, Path(folder))
        bits = tokens_per_byte / math.log(2)
        for number in range(args.rounds):
            ours = firstlight(store, ours_words)
            message = (
                f"round {number + 1}: Firstlight {ours['seconds']:.1f} s to {ours['valid_loss'] * bits:.3f} bits/byte"
            )
            rounds.append({"firstlight": ours, "bits_per_nat": bits})
            if args.nanogpt is not None:
                theirs = nanogpt(args.nanogpt, args.python, store, theirs_words)
                reached = next((s for s, loss in ours["curve"] if loss <= theirs["valid_loss"]), math.nan)
                rounds[-1] |= {"nanogpt": theirs, "seconds_to_it": reached, "ratio": theirs["seconds"] / reached}
                message += (
                    f"; nanoGPT {theirs['seconds']:.1f} s to {theirs['valid_loss'] * bits:.3f}, which Firstlight "
                    f"reached after {reached:.1f} s: ratio {theirs['seconds'] / reached:.2f}"
                )
            print(message, flush=True)
    if args.nanogpt is not None:
        ratios = [r["ratio"] for r in rounds]
        print(f"median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if args.json is not None:
        args.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
