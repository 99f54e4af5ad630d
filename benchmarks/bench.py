"""Compare Firstlight with its peers on one machine; writes docs/benchmarks.json and the tables of docs/benchmarks.md.

    make bench NANOGPT=../nanoGPT PEERS=../peers/bin/python

Peers from PyPI (litgpt, transformers, keras, keras-hub, jax, tiktoken) run in the interpreter of --python, since their
dependencies conflict; nanoGPT is a checkout. Missing peers are skipped with a message. The systems run interleaved.
Results are medians over the rounds, with the range in brackets; speed is given as a ratio, since machines differ and
are shared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from interleave import HERE, System, run_interleaved, speedup
from shapes import CPU_SHAPES, GENERATION_WORKLOADS, SHAPES, Shape

DOCS = HERE.parent / "docs"
RESULTS = DOCS / "benchmarks.json"
Table = list[list[str]]


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Measure training of every system at every shape; few at a time, so that all models fit into memory."""
    found: dict[str, Any] = {}
    for name in args.shapes:
        print(f"training, {name}", file=sys.stderr, flush=True)
        shape = SHAPES[name]
        ours = [worker(sys.executable, "firstlight", name)]
        if args.compiled:
            ours.append(worker(sys.executable, "firstlight", name, "--compile"))
        checkout = ("--checkout", str(args.nanogpt))
        nanogpt = [worker(args.python, "nanogpt", name, *checkout, *more) for more in ((), ("--compile",))]
        if args.nanogpt is None:
            print("skipped: nanoGPT (pass its checkout as --nanogpt)", file=sys.stderr)
        peers = [
            *(nanogpt if args.nanogpt else ()),
            worker(args.python, "litgpt", name),
            worker(args.python, "litgpt", name, "--compile"),
            worker(args.python, "transformers", name),
            worker(args.python, "keras", name, KERAS_BACKEND="jax"),
            *((worker(args.python, "llmc", name, "--checkout", str(args.llmc)),) if args.llmc else ()),
        ]
        at_once = 2 if shape.vocab_size > 1000 else len(peers)
        for first in range(0, len(peers), at_once):
            results = run_interleaved([*ours, *peers[first : first + at_once]], shape.steps, args.rounds)
            ours_seconds = results["firstlight"]["seconds"]
            for system, measured in results.items():
                if system in found.get(name, {}):
                    continue
                steps_per_second = shape.steps / statistics.median(measured["seconds"])
                found.setdefault(name, {})[system] = {
                    "tokens_per_second": round(steps_per_second * shape.tokens),
                    "gflops": round(steps_per_second * shape.flops / 1e9),
                    "peak_mb": round(measured["peak_bytes"] / 1e6),
                    "warm_seconds": round(measured["warm_seconds"], 1),
                    "firstlight_over_it": "1" if system == "firstlight" else speedup(ours_seconds, measured["seconds"]),
                }
    return found


def worker(python: str, system: str, shape: str, *more: str, **environment: str) -> System:
    """Return a system that trains or generates."""
    names = {"--compile": "compiled", "--recompute": "recomputing", "--int8": "int8"}
    name = ", ".join([system, *(label for flag, label in names.items() if flag in more)])
    return System(name, [python, str(HERE / "worker.py"), system, shape, *more], environment)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of a few steps with a large vocabulary and batch."""
    name = "gpt2-124m-256x16"
    checkout = ("--checkout", str(args.nanogpt))
    systems = [
        worker(sys.executable, "firstlight", name),
        worker(sys.executable, "firstlight", name, "--recompute"),
        *(worker(args.python, "nanogpt", name, *checkout, *more) for more in ((), ("--compile",)) if args.nanogpt),
        worker(args.python, "transformers", name),
    ]
    found = {}
    for system in systems:  # one at a time, since together they do not fit into the memory of many machines
        for results in run_interleaved([system], 1, 2).values():
            found[system.name] = {
                "peak_mb": round(results["peak_bytes"] / 1e6),
                "step_seconds": round(min(results["seconds"]), 1),
            }
    return found


def generation(args: argparse.Namespace) -> dict[str, Any]:
    """Measure generation of every system with GPT-2 124M with random weights."""
    name = "gpt2-124m-1024"
    found: dict[str, Any] = {}
    shape = SHAPES[name]
    for title, workload in GENERATION_WORKLOADS.items():
        arguments = (name, "--generate", f"{workload.batch},{workload.prompt},{workload.new}")
        systems = [
            worker(sys.executable, "firstlight", *arguments),
            worker(sys.executable, "firstlight", *arguments, "--int8"),
            worker(args.python, "transformers", *arguments),
        ]
        if args.nanogpt:
            systems.append(worker(args.python, "nanogpt", *arguments, "--checkout", str(args.nanogpt)))
        results = run_interleaved(systems, 1, args.rounds)
        ours_seconds = results["firstlight"]["seconds"]
        found[title] = {
            system: {
                "tokens_per_second": round(workload.batch * workload.new / statistics.median(measured["seconds"]), 1),
                "firstlight_over_it": "1" if system == "firstlight" else speedup(ours_seconds, measured["seconds"]),
                "peak_mb": round(measured["peak_bytes"] / 1e6),
            }
            for system, measured in results.items()
        }
    found["floor"] = round(1 / weight_reading_seconds(shape), 1)
    return found


def weight_reading_seconds(shape: Shape) -> float:
    """Measure the seconds in which all cores together read a model's matrices, the best of ten."""
    import torch

    C = shape.n_embd
    sizes = [(3 * C, C), (C, C), (4 * C, C), (C, 4 * C)] * shape.n_layer
    matrices = [torch.ones(size) for size in [*sizes, (shape.vocab_size, C)]]
    times = []
    for _ in range(10):
        began = time.perf_counter()
        for matrix in matrices:
            matrix.sum()
        times.append(time.perf_counter() - began)
    return min(times)


def preparing(args: argparse.Namespace) -> dict[str, Any]:
    """Time ``data prepare`` as a whole process, on a repeated text, with an existing tokenizer."""
    if args.text is None:
        return {}
    command, rates = [sys.executable, "-m", "firstlight"], []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(Path(folder) / "bpe")
        subprocess.run(
            [*command, "tokenizer", "train", str(args.text), "--out", tokenizer, "tokenizer.vocab_size=16384"],
            capture_output=True,
            check=True,
        )
        whole = Path(folder) / "text.txt"
        piece = args.text.read_bytes()
        whole.write_bytes(piece * max(1, 100_000_000 // len(piece)))
        for number in range(args.rounds):
            began = time.perf_counter()
            subprocess.run(
                [*command, "data", "prepare", str(whole), "--tokenizer", tokenizer, "--out", f"{folder}/s{number}"],
                capture_output=True,
                check=True,
            )
            rates.append(whole.stat().st_size / 1e6 / (time.perf_counter() - began))
    return {"data prepare, MB/s": spread(rates, 0)}


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what a run of a small model spends outside its steps: data, checkpoints, evaluation, sampling."""
    del args
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text("to be or not to be that is the question\n" * 20_000, encoding="ascii")
        done = subprocess.run(
            [sys.executable, str(HERE / "overhead.py"), str(Path(folder) / "text.txt"), str(Path(folder) / "run")],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def startup(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the time from a command's start to its first step, and of --help."""
    text = "to be or not to be that is the question\n" * 20_000
    found: dict[str, list[float]] = {"first step": [], "--help": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text(text, encoding="ascii")
        for number in range(args.rounds):
            out = Path(folder) / f"run{number}"
            arguments = [
                "pretrain",
                "text.txt",
                "--preset",
                "shakespeare-char-cpu",
                "--out",
                str(out),
                "train.stop_after=1",
            ]
            subprocess.run(
                [sys.executable, "-m", "firstlight", *arguments], cwd=folder, capture_output=True, check=True
            )
            first = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
            found["first step"].append(json.loads(first)["seconds"])
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "firstlight", "--help"], capture_output=True, check=True)
            found["--help"].append(time.perf_counter() - began)
    return {name: spread(seconds) for name, seconds in found.items()}


def tokenizing(args: argparse.Namespace) -> dict[str, Any]:
    """Measure encoding of the same text by Firstlight, tokenizers and tiktoken, and check that the ids are equal."""
    if args.text is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "encode.py"), str(args.text), folder, str(args.rounds)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def peak_flops() -> float:
    """Measure the GFLOP/s of a product of two 4096 x 4096 matrices in fp32, the best of ten."""
    import torch

    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return round(2 * 4096**3 / min(times) / 1e9)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format a median and its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def machine() -> dict[str, Any]:
    """Describe the machine."""
    import torch

    from firstlight.parallel import HardwareSettings, environment, resolve_hardware

    name = environment(resolve_hardware(HardwareSettings(device="cpu")))["device_name"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": name,
        "cores": cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "ceiling_gflops": peak_flops(),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "training": training,
    "memory": memory,
    "generation": generation,
    "startup": startup,
    "overhead": overhead,
    "tokenizing": tokenizing,
    "preparing": preparing,
}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Build the tables of docs/benchmarks.md, by name."""
    made = {}
    for shape, systems in results.get("training", {}).items():
        made[f"training-{shape}"] = markdown(
            ["system", "tokens/s", "Firstlight speed-up", "GFLOP/s", "peak MB", "warm-up s"],
            [
                [
                    n,
                    f"{f['tokens_per_second']:,}",
                    f["firstlight_over_it"],
                    str(f["gflops"]),
                    f"{f['peak_mb']:,}",
                    str(f["warm_seconds"]),
                ]
                for n, f in sorted(systems.items(), key=lambda item: -item[1]["tokens_per_second"])
            ],
        )
    if results.get("memory"):
        made["memory"] = markdown(
            ["system", "peak MB", "seconds a step"],
            [[n, f"{f['peak_mb']:,}", str(f["step_seconds"])] for n, f in results["memory"].items()],
        )
    if results.get("generation"):
        rows = [
            [title, n, str(f["tokens_per_second"]), f["firstlight_over_it"], f"{f['peak_mb']:,}"]
            for title, systems in results["generation"].items()
            if title in GENERATION_WORKLOADS
            for n, f in systems.items()
        ]
        rows.append(["batch 1", "floor: weights read once a token", str(results["generation"]["floor"]), "", ""])
        made["generation"] = markdown(["what", "system", "tokens/s", "Firstlight speed-up", "peak MB"], rows)
    for part in ("startup", "overhead", "tokenizing", "preparing"):
        if results.get(part):
            made[part] = markdown(["what", "figure"], [[k, str(v)] for k, v in results[part].items()])
    if "machine" in results:
        m = results["machine"]
        made["machine"] = (
            f"{m['processor']}, {m['cores']} cores, Python {m['python']}, torch {m['torch']}, {m['date']}; "
            f"a 4096³ product in fp32 reaches {m['ceiling_gflops']} GFLOP/s."
        )
    return made


def markdown(head: Sequence[str], rows: Table) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_docs(made: dict[str, str]) -> None:
    """Write tables between the markers of their names in docs/benchmarks.md."""
    page = DOCS / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise SystemExit(f"{page} has no marker {end if begun else begin}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure the selected parts; keep the results of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="parts to measure; all by default")
    parser.add_argument("--python", default=sys.executable, help="interpreter in which the peers are installed")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--llmc", type=Path, help="a checkout of llm.c")
    parser.add_argument("--text", type=Path, help="text file for tokenizing and preparing")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement")
    parser.add_argument("--shapes", nargs="*", choices=CPU_SHAPES, default=CPU_SHAPES, help="of training")
    parser.add_argument("--compiled", action="store_true", help="also measure Firstlight with torch.compile")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for part in args.parts or PARTS:
        found = PARTS[part](args)
        results[part] = {**results.get(part, {}), **found}
        results["machine"] = machine()
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_docs(tables(results))


if __name__ == "__main__":
    main()
