"""Measure whether word vectors help: train a small word-level model with pre-trained or random embeddings.

    python benchmarks/vectors_help.py --text stories.txt --vectors glove.6B.50d.txt --out runs/vectors

Tokenizer and store are prepared once, from the words that have vectors, so that all runs see the same tokens; then one
run per seed and initialization is trained (with the settings below), unless it is in --out already. The table has the
steps after which each initialization reaches the losses that the random one has after a tenth, a quarter, a half and
all of its steps, on the mean over seeds, interpolated between evaluations. The head is tied to the embeddings, so that
vectors initialize both; "random, untied" is the preset's default. In "shuffled vectors" each word has the vector of
another, so gains there are due to the vectors' norms and angles, not the meaning of words. --frozen adds an
initialization whose vectors are not trained. Arguments after ``--`` are further settings of pre-training: with
``model.n_embd=256 model.n_head=4`` the vectors are projected.
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
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
TIED = ["model.tie_embeddings=true"]
COLOURS = {
    "random": "#888888",
    "random, untied": "#2ca02c",
    "shuffled vectors": "#ff7f0e",
    "vectors": "#1f77b4",
    "frozen vectors": "#d62728",
}

Curve = list[tuple[int, float]]


def run(*arguments: str | Path) -> None:
    """Run a command of Firstlight."""
    done = subprocess.run([sys.executable, "-m", "firstlight", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    for line in done.stderr.splitlines():
        if "have a vector" in line or "of the corpus's" in line:
            print(line, file=sys.stderr, flush=True)


def prepare(text: Sequence[Path], vectors: Path, out: Path, vocabulary: str) -> Path:
    """Prepare tokenizer and store."""
    store = out / "store"
    if not (store / "manifest.json").is_file():
        arguments = ["tokenizer.kind=word", f"tokenizer.vocab_source={vectors}", f"tokenizer.vocab_size={vocabulary}"]
        run("tokenizer", "train", *text, "--out", out / "words", *arguments)
        run("data", "prepare", *text, "--tokenizer", out / "words", "--out", store, "data.valid_ratio=0.05")
    return store


def shuffled(vectors: Path, out: Path) -> Path:
    """Write the vocabulary's vectors, randomly reassigned to other words."""
    file = out / "shuffled.safetensors"
    if not file.is_file():
        read = vectors_of.read_vectors(
            vectors, frozenset(form for t in load(out / "words").tokens() for form in (t, t.lower()))
        )
        order = np.random.default_rng(0).permutation(len(read))
        vectors_of.write_vectors(vectors_of.WordVectors(read.words, read.matrix[order], file), file)
    return file


def curve(store: Path, folder: Path, arguments: list[str]) -> Curve:
    """Train unless it is done already; return steps and validation losses."""
    run("pretrain", store, "--preset", "words-cpu", "--out", folder, "--resume", *SETTINGS, *arguments)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["valid_loss"]) for line in lines if "valid_loss" in line]


def mean(curves: list[Curve]) -> Curve:
    """Compute the mean curve over seeds."""
    return [(points[0][0], statistics.mean(loss for _, loss in points)) for points in zip(*curves, strict=True)]


def steps_to(curve: Curve, loss: float) -> float | None:
    """Compute the step at which a curve first reaches a loss, if it does."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= loss:
            if before is None or before[1] == value:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - value)
        before = (step, value)
    return None


def table(curves: dict[str, list[Curve]]) -> str:
    """Format the table in Markdown."""
    means = {name: mean(found) for name, found in curves.items()}
    base = means["random"]
    wanted = [base[max(0, round(fraction * len(base)) - 1)] for fraction in FRACTIONS]
    heads = ["initialization", *(f"steps to {loss:.3f}" for _, loss in wanted), "loss at the end"]
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
    """Draw the mean curves as an SVG."""
    means = {name: mean(found) for name, found in curves.items()}
    steps = [step for found in means.values() for step, _ in found]
    # Without the first evaluation, whose loss is so high that the others would look flat.
    losses = [loss for found in means.values() for _, loss in found[1:]]
    low, high, last = min(losses), max(losses), max(steps)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="640" height="360" fill="white"/>')
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = 320 - 290 * fraction, 60 + 560 * fraction
        parts.append(f'<path d="M60 {y:.1f}H620" stroke="#dddddd"/>')
        parts.append(f'<text x="54" y="{y + 4:.1f}" text-anchor="end">{low + (high - low) * fraction:.2f}</text>')
        parts.append(f'<text x="{x:.1f}" y="340" text-anchor="middle">{last * fraction:,.0f}</text>')
    for number, (name, found) in enumerate(means.items()):
        points = " ".join(
            f"{60 + 560 * step / last:.1f},{320 - 290 * (loss - low) / ((high - low) or 1):.1f}"
            for step, loss in found[1:]
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(f'<text x="480" y="{44 + 18 * number}" fill="{COLOURS[name]}">{name}</text>')
    parts.append(
        '<text x="340" y="356" text-anchor="middle">steps (vertical: validation loss, nats per word)</text></svg>'
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Train every initialization with every seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", default="auto", help="size; auto: all words of the corpus that have a vector")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frozen", action="store_true", help="add runs with frozen vectors")
    parser.add_argument("--svg", type=Path, help="write the mean curves here")
    ours, arguments = sys.argv[1:], []
    if "--" in ours:
        ours, arguments = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    args = parser.parse_args(ours)
    store = prepare(args.text, args.vectors, args.out, args.vocabulary)
    begun = [*TIED, f"model.embeddings={args.vectors}"]
    mixed = [*TIED, f"model.embeddings={shuffled(args.vectors, args.out)}"]
    starts = {"random": TIED, "random, untied": [], "shuffled vectors": mixed, "vectors": begun}
    if args.frozen:
        starts["frozen vectors"] = [*begun, "model.embeddings_frozen_steps=all"]
    curves: dict[str, list[Curve]] = {name: [] for name in starts}
    for seed in range(1, args.seeds + 1):
        for name, more in starts.items():
            folder = args.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            curves[name].append(curve(store, folder, [f"run.seed={seed}", *more, *arguments]))
            print(f"seed {seed}, {name}: {curves[name][-1][-1][1]:.4f} at the end", file=sys.stderr, flush=True)
    print(table(curves))
    if args.svg is not None:
        args.svg.write_text(drawing(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
