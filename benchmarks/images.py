"""Images as sequences: bits per dimension compared with baselines, and linear probes compared with raw pixels.

    python benchmarks/images.py digits                              # scikit-learn's 8 × 8 digits
    python benchmarks/images.py mnist --data FOLDER --minutes 30    # FOLDER has MNIST's four IDX files

Trains with ``firstlight pretrain`` in a separate process, then runs ``evaluate`` and ``probe`` on held-out images:
MNIST's test set, or the last fifth of the digits. Since the digits are few, the training images are augmented with
shifts by one pixel in every direction. Results have the same image size and number of grey levels, so they are
comparable; with --levels 256 and --size 28 also with published bits per dimension of MNIST (docs/images.md). The run
with its report stays in --out. Arguments after ``--`` are settings of the run.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = {
    "digits": ["model.n_layer=4", "model.n_head=4", "model.n_embd=128", "train.batch_tokens=4096"],
    "mnist": ["model.n_layer=6", "model.n_head=4", "model.n_embd=128", "train.batch_tokens=7840"],
}


def digits(folder: Path) -> tuple[Path, Path]:
    """Write scikit-learn's digits as two arrays with labels: four fifths for training, and the rest."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    cut = len(images) * 4 // 5
    folder.mkdir(parents=True, exist_ok=True)
    augmented = [shifted(images[:cut], down, right) for down in (0, -1, 1) for right in (0, -1, 1)]
    parts = {"digits": (np.concatenate(augmented), np.tile(found.target[:cut], len(augmented)))}
    for name, (pixels, labels) in {**parts, "held-out": (images[cut:], found.target[cut:])}.items():
        np.save(folder / f"{name}.npy", pixels)
        np.save(folder / f"{name}-labels.npy", labels)
    return folder / "digits.npy", folder / "held-out.npy"


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift images (N, H, W) by at most a pixel, with zero padding."""
    _, h, w = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + h, 1 - right : 1 - right + w]


def mnist(folder: Path) -> tuple[Path, Path]:
    """Find the files of the training and the test images."""
    files = [next(folder.glob(f"{side}-images-idx3-ubyte*"), None) for side in ("train", "t10k")]
    if files[0] is None or files[1] is None:
        raise SystemExit(f"{folder} has no train-images-idx3-ubyte and t10k-images-idx3-ubyte")
    return files[0], files[1]


def call(*arguments: str) -> dict[str, Any]:
    """Run a command of Firstlight and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", *arguments, "--json"], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise SystemExit(f"firstlight {' '.join(arguments)} failed")
    table: dict[str, Any] = json.loads(done.stdout)
    return table


def main() -> None:
    """Train, evaluate, probe, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", choices=SHAPES)
    parser.add_argument("--data", type=Path, default=Path("data/mnist"), help="folder with MNIST's files")
    parser.add_argument("--out", type=Path, default=Path("runs/images"), help="parent folder of the runs")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--size", type=int, help="width and height in pixels; default 8 for digits, 14 for MNIST")
    parser.add_argument("--levels", type=int, default=16, help="number of grey levels")
    parser.add_argument("--rows", type=int, default=10_000, help="limit of the images for fitting the probe")
    own, arguments = sys.argv[1:], []
    if "--" in own:
        own, arguments = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    size = args.size or {"digits": 8, "mnist": 14}[args.images]
    train, test = digits(args.out / "digits-data") if args.images == "digits" else mnist(args.data)
    run = args.out / f"{args.images}-{size}-{args.levels}"
    settings = [
        *SHAPES[args.images],
        f"image.size={size}",
        f"image.levels={args.levels}",
        f"train.minutes={args.minutes}",
        "train.eval_windows=500",
        "train.sample_every=0",
        *arguments,
    ]
    trained = call("pretrain", str(train), "--out", str(run), "--resume", *settings)
    (scored,) = call("evaluate", str(run), "--text", str(test))["texts"]
    probed = call("probe", str(run), str(test), "--rows", str(args.rows))
    pixels = size * size
    seen = f"{trained['tokens'] / pixels:,.0f} images seen in {trained['seconds']:,.0f} s"
    print(f"\n{args.images}, {size} × {size} pixels of {args.levels} levels, {seen}")
    print(f"\n{'held-out images':24}{'bits per dimension':>20}{'nats per image':>16}")
    for name, table in (("this model", scored["model"]), *scored["baselines"].items()):
        print(f"{name:24}{table['bits_per_dim']:20.4f}{table['bits_per_dim'] * math.log(2) * pixels:16.2f}")
    print(f"\n{'linear classifier on':24}{'accuracy':>20}")
    for layer in probed["layers"]:
        print(f"{'embeddings' if layer['layer'] == 0 else 'block ' + str(layer['layer']):24}{layer['accuracy']:20.4f}")
    print(f"{'raw pixels':24}{probed['raw_pixels']:20.4f}")
    print(f"{'majority class':24}{probed['majority']:20.4f}\n\nreport: {run / 'report.html'}")


if __name__ == "__main__":
    main()
