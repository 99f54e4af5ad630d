"""Do word vectors help? A small word-level model that begins as vectors, or as random numbers, trained alike.

    python benchmarks/vectors_help.py --text stories.txt --vectors glove.6B.50d.txt --out runs/vectors

Tokenizer and store are made once, of the words that the vectors have, so that both read the same tokens; then every
seed trains with each start (the settings below), unless --out has it. The table says after how many steps each start
had the losses that the random one had, on the mean over seeds, after a tenth, a quarter, a half and all of its steps;
between evaluations the mean curve is taken as straight. The head is tied to the embeddings, so that vectors serve both;
"random, untied" is the preset's own way. In "shuffled vectors" each word has another's: what they gain comes of their
lengths and angles, not of what words mean. With --frozen the vectors stay as they are in one more start.
Words behind ``--`` are further settings of pre-training: with ``model.n_embd=256 model.n_head=4`` the vectors stand
behind a projection.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from firstlight import vectors as vectors_of
from firstlight.tokenizer import load

SETTINGS = [
    "model.n_layer=3",
    "model.n_embd=50",
    "model.n_head=5",
    "model.d_ff=192",
    "train.steps=600",
    "train.eval_every=25",
    "train.checkpoint_every=0",
    "train.trackers=[]",
]
SHARES = (0.1, 0.25, 0.5, 1.0)
TIED = ["model.tie_embeddings=true"]
COLOURS = {
    "random": "#888888",
    "random, untied": "#2ca02c",
    "shuffled vectors": "#ff7f0e",
    "vectors": "#1f77b4",
    "frozen vectors": "#d62728",
}

Curve = list[tuple[int, float]]


def run(*words: str | Path) -> None:
    """Run a command of Firstlight."""
    done = subprocess.run([sys.executable, "-m", "firstlight", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    for line in done.stderr.splitlines():
        if "have a vector" in line or "of the corpus's" in line:
            print(line, file=sys.stderr, flush=True)


def prepare(text: Sequence[Path], vectors: Path, out: Path, vocabulary: str) -> Path:
    """Make tokenizer and store."""
    store = out / "store"
    if not (store / "manifest.json").is_file():
        words = ["tokenizer.kind=word", f"tokenizer.words={vectors}", f"tokenizer.vocab_size={vocabulary}"]
        run("tokenizer", "train", *text, "--out", out / "words", *words)
        run("data", "prepare", *text, "--tokenizer", out / "words", "--out", store, "data.valid_ratio=0.05")
    return store


def shuffled(vectors: Path, out: Path) -> Path:
    """Write the vocabulary's vectors with each word having another's."""
    file = out / "shuffled.safetensors"
    if not file.is_file():
        read = vectors_of.read(
            vectors, frozenset(form for t in load(out / "words").tokens() for form in (t, t.lower()))
        )
        order = np.random.default_rng(0).permutation(len(read))
        vectors_of.write(vectors_of.WordVectors(read.words, read.matrix[order], file), file)
    return file


def curve(store: Path, folder: Path, words: list[str]) -> Curve:
    """Train, or find trained; return steps and valid losses."""
    run("pretrain", store, "--preset", "words-cpu", "--out", folder, "--resume", *SETTINGS, *words)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["valid_loss"]) for line in lines if "valid_loss" in line]


def mean(curves: list[Curve]) -> Curve:
    """Return the mean curve over seeds."""
    return [(points[0][0], statistics.mean(loss for _, loss in points)) for points in zip(*curves, strict=True)]


def steps_to(curve: Curve, loss: float) -> float | None:
    """Return the step at which a curve first has a loss, or None."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= loss:
            if before is None or before[1] == value:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - value)
        before = (step, value)
    return None


def table(curves: dict[str, list[Curve]]) -> str:
    """Return the table in Markdown."""
    means = {name: mean(found) for name, found in curves.items()}
    base = means["random"]
    wanted = [base[max(0, round(share * len(base)) - 1)] for share in SHARES]
    heads = ["start", *(f"steps to {loss:.3f}" for _, loss in wanted), "loss at the end"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, found in means.items():
        cells = []
        for at, loss in wanted:
            steps = steps_to(found, loss)
            cells.append("not reached" if steps is None else f"{steps:,.0f} ({steps / at:.2f} ×)")
        ends = [one[-1][1] for one in curves[name]]
        spread = f" ({min(ends):.3f}–{max(ends):.3f})" if len(ends) > 1 else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {statistics.mean(ends):.3f}{spread} |")
    return "\n".join(lines)


def drawing(curves: dict[str, list[Curve]]) -> str:
    """Return the mean curves as an SVG."""
    means = {name: mean(found) for name, found in curves.items()}
    steps = [step for found in means.values() for step, _ in found]
    # From the second evaluation on: the first is so high that the rest would be flat.
    losses = [loss for found in means.values() for _, loss in found[1:]]
    low, high, last = min(losses), max(losses), max(steps)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="640" height="360" fill="white"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = 320 - 290 * share, 60 + 560 * share
        parts.append(f'<path d="M60 {y:.1f}H620" stroke="#dddddd"/>')
        parts.append(f'<text x="54" y="{y + 4:.1f}" text-anchor="end">{low + (high - low) * share:.2f}</text>')
        parts.append(f'<text x="{x:.1f}" y="340" text-anchor="middle">{last * share:,.0f}</text>')
    for number, (name, found) in enumerate(means.items()):
        points = " ".join(
            f"{60 + 560 * step / last:.1f},{320 - 290 * (loss - low) / ((high - low) or 1):.1f}"
            for step, loss in found[1:]
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(f'<text x="480" y="{44 + 18 * number}" fill="{COLOURS[name]}">{name}</text>')
    parts.append('<text x="340" y="356" text-anchor="middle">steps (upright: valid loss, nats a word)</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    """Train every start with every seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", default="auto", help="words; auto: all of the corpus's that have a vector")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--svg", type=Path, help="write the mean curves here")
    ours, words = sys.argv[1:], []
    if "--" in ours:
        ours, words = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    asked = parser.parse_args(ours)
    store = prepare(asked.text, asked.vectors, asked.out, asked.vocabulary)
    begun = [*TIED, f"model.embeddings={asked.vectors}"]
    mixed = [*TIED, f"model.embeddings={shuffled(asked.vectors, asked.out)}"]
    starts = {"random": TIED, "random, untied": [], "shuffled vectors": mixed, "vectors": begun}
    if asked.frozen:
        starts["frozen vectors"] = [*begun, "model.embeddings_frozen_steps=all"]
    curves: dict[str, list[Curve]] = {name: [] for name in starts}
    for seed in range(1, asked.seeds + 1):
        for name, more in starts.items():
            folder = asked.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            curves[name].append(curve(store, folder, [f"run.seed={seed}", *more, *words]))
            print(f"seed {seed}, {name}: {curves[name][-1][-1][1]:.4f} at the end", file=sys.stderr, flush=True)
    print(table(curves))
    if asked.svg is not None:
        asked.svg.write_text(drawing(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
