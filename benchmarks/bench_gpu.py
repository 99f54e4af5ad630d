"""Compare Firstlight with nanoGPT and transformers on one GPU, in bf16 and compiled: tokens per second and MFU.

    make bench-gpu NANOGPT=../nanoGPT PEERS=../peers/bin/python

The most informative shapes come first; when --minutes are over, the rest is skipped with a message. Writes
docs/benchmarks-gpu.json and the GPU tables of docs/benchmarks.md. MFU is model FLOPs (six per weight of a matrix
product, and causal attention) relative to the data sheet's bf16 rate, and relative to the measured rate of a product of
two 8192 x 8192 matrices.
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
from interleave import run_interleaved, speedup
from shapes import GENERATION_WORKLOADS, GPU_SHAPES, SHAPES, GenerationWorkload, Shape

RESULTS = DOCS / "benchmarks-gpu.json"
ROUNDS = 3


def training(args: argparse.Namespace, shape: Shape, peak: float, peak_flops: float) -> dict[str, Any]:
    """Measure training of all systems at one shape."""
    results = run_interleaved(_systems(args, shape.name, "--compile"), shape.steps, ROUNDS)
    ours_seconds = results["firstlight, compiled"]["seconds"]
    found = {}
    for system, measured in results.items():
        rate = shape.steps / statistics.median(measured["seconds"])
        found[system] = {
            "tokens_per_second": round(rate * shape.tokens),
            "mfu": round(rate * shape.flops / peak, 3) if peak else None,
            "of_ceiling": round(rate * shape.flops / peak_flops, 3),
            "firstlight_over_it": "1"
            if system == "firstlight, compiled"
            else speedup(ours_seconds, measured["seconds"]),
            "peak_gb": round(measured["peak_bytes"] / 1e9, 1),
            "warm_seconds": round(measured["warm_seconds"]),
        }
    return found


def generation(args: argparse.Namespace, name: str, workload: GenerationWorkload) -> dict[str, Any]:
    """Measure generation of all systems, with random weights."""
    arguments = ("--generate", f"{workload.batch},{workload.prompt},{workload.new}")
    results = run_interleaved(_systems(args, name, *arguments), 1, ROUNDS)
    ours_seconds = results["firstlight"]["seconds"]
    return {
        system: {
            "tokens_per_second": round(workload.batch * workload.new / statistics.median(measured["seconds"]), 1),
            "firstlight_over_it": "1" if system == "firstlight" else speedup(ours_seconds, measured["seconds"]),
        }
        for system, measured in results.items()
    }


def _systems(args: argparse.Namespace, *arguments: str) -> list[Any]:
    options = ("--device", args.device, "--precision", "bf16")
    systems = [worker(sys.executable, "firstlight", *arguments, *options)]
    if args.nanogpt:
        systems.append(worker(args.python, "nanogpt", *arguments, *options, "--checkout", str(args.nanogpt)))
    return [*systems, worker(args.python, "transformers", *arguments, *options)]


def machine(device: str) -> dict[str, Any]:
    """Describe the device, with its nominal and its measured rate, in a process of its own to free the memory."""
    code = f"from bench_gpu import print_device; print_device({device!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def print_device(device: str) -> None:
    """Print the result of ``machine`` as JSON."""
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
    """Build the GPU tables of docs/benchmarks.md, by name."""
    about = results["machine"]
    datasheet = (
        f"{about['peak'] / 1e12:.0f} TFLOP/s on its data sheet" if about["peak"] else "unknown rate on its data sheet"
    )
    made = {
        "gpu-machine": f"{about['device']}, torch {about['torch']}, {about['date']}; bf16: {datasheet}, "
        f"{about['ceiling'] / 1e12:.1f} measured."
    }
    head = ["shape", "system", "tokens/s", "Firstlight speed-up", "MFU", "of the measured rate", "peak GB", "warm-up s"]
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
    made["gpu-generation"] = markdown(["what", "system", "tokens/s", "Firstlight speed-up"], written)
    return made


def main() -> None:
    """Measure until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter with transformers and the requirements of nanoGPT"
    )
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only to test this script")
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=GPU_SHAPES)
    parser.add_argument("--minutes", type=float, default=8.5, help="limit of the whole run")
    parser.add_argument("--json", type=Path, help="write the results here, and do not change the docs")
    args = parser.parse_args()
    began, longest = time.perf_counter(), 0.0
    results: dict[str, Any] = {"machine": machine(args.device), "training": {}, "generation": {}}
    about = results["machine"]
    parts: list[tuple[str, str, Any]] = [("training", name, SHAPES[name]) for name in args.shapes]
    small = args.device == "cpu"
    parts[1:1] = [
        ("generation", title, GenerationWorkload(workload.batch, 4, 4) if small else workload)
        for title, workload in GENERATION_WORKLOADS.items()
    ]
    for kind, name, what in parts:
        at = time.perf_counter()
        if (at - began) + longest > 60 * args.minutes:
            print(f"skipped, since the time is over: {kind}, {name}", file=sys.stderr)
            continue
        print(f"{kind}, {name}", file=sys.stderr, flush=True)
        results[kind][name] = (
            training(args, what, about["peak"], about["ceiling"])
            if isinstance(what, Shape)
            else generation(args, args.shapes[0], what)
        )
        longest = max(longest, time.perf_counter() - at)
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        (args.json or RESULTS).write_text(text, encoding="utf-8")
    if not args.json:
        write_docs(tables(results))


if __name__ == "__main__":
    main()
