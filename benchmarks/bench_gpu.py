"""Firstlight beside nanoGPT and transformers on one GPU, in bf16 and compiled: tokens a second and MFU.

    make bench-gpu NANOGPT=../nanoGPT PEERS=../peers/bin/python

Shapes come in the order of what they tell; where the minutes run out, the rest is left out, and said. Writes
docs/benchmarks-gpu.json and the GPU's tables of docs/benchmarks.md. MFU is model FLOPs (six a weight of a matrix
product, and causal attention) over the data sheet's bf16 rate, and over what a product of two 8192 x 8192 matrices
reaches here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import DOCS, markdown, worker, write_docs
from interleave import in_turn, ratio
from shapes import GENERATED, ON_A_GPU, SHAPES, Shape, Texts

RESULTS = DOCS / "benchmarks-gpu.json"
ROUNDS = 3


def training(asked: argparse.Namespace, shape: Shape, peak: float, peak_flops: float) -> dict[str, Any]:
    """Let the systems train in turn at one shape."""
    told = in_turn(_systems(asked, shape.name, "--compile"), shape.steps, ROUNDS)
    beside = told["firstlight, compiled"]["seconds"]
    found = {}
    for system, figures in told.items():
        rate = shape.steps / statistics.median(figures["seconds"])
        found[system] = {
            "tokens_per_second": round(rate * shape.tokens),
            "mfu": round(rate * shape.flops / peak, 3) if peak else None,
            "of_ceiling": round(rate * shape.flops / peak_flops, 3),
            "firstlight_over_it": "1" if system == "firstlight, compiled" else ratio(beside, figures["seconds"]),
            "peak_gb": round(figures["peak_bytes"] / 1e9, 1),
            "warm_seconds": round(figures["warm_seconds"]),
        }
    return found


def generation(asked: argparse.Namespace, name: str, texts: Texts) -> dict[str, Any]:
    """Let the systems write in turn, from random weights."""
    words = ("--texts", f"{texts.batch},{texts.prompt},{texts.new}")
    told = in_turn(_systems(asked, name, *words), 1, ROUNDS)
    beside = told["firstlight"]["seconds"]
    return {
        system: {
            "tokens_per_second": round(texts.batch * texts.new / statistics.median(figures["seconds"]), 1),
            "firstlight_over_it": "1" if system == "firstlight" else ratio(beside, figures["seconds"]),
        }
        for system, figures in told.items()
    }


def _systems(asked: argparse.Namespace, *words: str) -> list[Any]:
    where = ("--device", asked.device, "--precision", "bf16")
    systems = [worker(sys.executable, "firstlight", *words, *where)]
    if asked.nanogpt:
        systems.append(worker(asked.python, "nanogpt", *words, *where, "--checkout", str(asked.nanogpt)))
    return [*systems, worker(asked.python, "transformers", *words, *where)]


def machine(device: str) -> dict[str, Any]:
    """Return the device, its data sheet's rate and its measured one, in a process that gives its memory back."""
    code = f"from bench_gpu import look; look({device!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def look(device: str) -> None:
    """Print what ``machine`` returns."""
    import torch

    from firstlight.parallel import HardwareSettings, environment, peak_flops, resolve_hardware

    device_context = resolve_hardware(HardwareSettings(device=device, precision="bf16"))
    side = 8192 if device == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        (a @ b)[0, 0].item()
        times.append(time.perf_counter() - began)
    print(
        json.dumps(
            {
                "device": environment(device_context)["device_name"],
                "torch": torch.__version__,
                "date": time.strftime("%Y-%m-%d"),
                "peak": peak_flops(device_context) if device == "cuda" else None,
                "ceiling": 2 * side**3 / min(times),
            }
        )
    )


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the GPU's tables of the docs, by name."""
    about = results["machine"]
    datasheet = f"{about['peak'] / 1e12:.0f} TFLOP/s on its data sheet" if about["peak"] else "no data sheet known"
    made = {
        "gpu-machine": f"{about['device']}, torch {about['torch']}, {about['date']}; bf16: {datasheet}, "
        f"{about['ceiling'] / 1e12:.1f} measured."
    }
    head = ["shape", "system", "tokens/s", "Firstlight over it", "MFU", "of the measured rate", "peak GB", "warm-up s"]
    rows = [
        [
            shape,
            system,
            f"{f['tokens_per_second']:,}",
            f["firstlight_over_it"],
            "" if f["mfu"] is None else f"{f['mfu']:.1%}",
            f"{f['of_ceiling']:.1%}",
            str(f["peak_gb"]),
            str(f["warm_seconds"]),
        ]
        for shape, systems in results["training"].items()
        for system, f in systems.items()
    ]
    made["gpu-training"] = markdown(head, rows)
    written = [
        [title, system, str(f["tokens_per_second"]), f["firstlight_over_it"]]
        for title, systems in results["generation"].items()
        for system, f in systems.items()
    ]
    made["gpu-generation"] = markdown(["what", "system", "tokens/s", "Firstlight over it"], written)
    return made


def main() -> None:
    """Measure until the minutes are spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter that has transformers and nanoGPT's needs"
    )
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only to try this script")
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=ON_A_GPU)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--json", type=Path, help="write the figures here and leave the docs alone")
    asked = parser.parse_args()
    began, longest = time.perf_counter(), 0.0
    results: dict[str, Any] = {"machine": machine(asked.device), "training": {}, "generation": {}}
    about = results["machine"]
    parts: list[tuple[str, str, Any]] = [("training", name, SHAPES[name]) for name in asked.shapes]
    small = asked.device == "cpu"
    parts[1:1] = [
        ("generation", title, Texts(texts.batch, 4, 4) if small else texts) for title, texts in GENERATED.items()
    ]
    for kind, name, what in parts:
        at = time.perf_counter()
        if (at - began) + longest > 60 * asked.minutes:
            print(f"left out, since the minutes are spent: {kind}, {name}", file=sys.stderr)
            continue
        print(f"{kind}, {name}", file=sys.stderr, flush=True)
        results[kind][name] = (
            training(asked, what, about["peak"], about["ceiling"])
            if isinstance(what, Shape)
            else generation(asked, asked.shapes[0], what)
        )
        longest = max(longest, time.perf_counter() - at)
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        (asked.json or RESULTS).write_text(text, encoding="utf-8")
    if not asked.json:
        write_docs(tables(results))


if __name__ == "__main__":
    main()
