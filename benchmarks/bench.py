"""Firstlight beside its peers, in turn on the same machine; writes docs/benchmarks.json and the tables of the docs.

    make bench NANOGPT=../nanoGPT PEERS=../peers/bin/python

Peers that pip installs (litgpt, transformers, keras, keras-hub, jax, tiktoken) run in the interpreter that --python
names, since they pin each other's versions apart; nanoGPT is a checkout. What is not there is left out, and said.
Every figure is the median over the rounds, with the range in brackets; speed is quoted as a ratio, since machines
differ and are shared.
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

from interleave import HERE, System, in_turn, ratio
from shapes import GENERATED, SHAPES, TIMED, Shape

DOCS = HERE.parent / "docs"
RESULTS = DOCS / "benchmarks.json"
Table = list[list[str]]


def training(asked: argparse.Namespace) -> dict[str, Any]:
    """Let every system train at every shape; two or three at a time, so that all models fit into memory."""
    found: dict[str, Any] = {}
    for name in asked.shapes:
        print(f"training, {name}", file=sys.stderr, flush=True)
        shape = SHAPES[name]
        ours = [worker(sys.executable, "firstlight", name)]
        if asked.compiled:
            ours.append(worker(sys.executable, "firstlight", name, "--compile"))
        checkout = ("--checkout", str(asked.nanogpt))
        nanogpt = [worker(asked.python, "nanogpt", name, *checkout, *more) for more in ((), ("--compile",))]
        if asked.nanogpt is None:
            print("left out: nanoGPT, since no checkout was named", file=sys.stderr)
        peers = [
            *(nanogpt if asked.nanogpt else ()),
            worker(asked.python, "litgpt", name),
            worker(asked.python, "litgpt", name, "--compile"),
            worker(asked.python, "transformers", name),
            worker(asked.python, "keras", name, KERAS_BACKEND="jax"),
            *((worker(asked.python, "llmc", name, "--checkout", str(asked.llmc)),) if asked.llmc else ()),
        ]
        at_once = 2 if shape.n_vocab > 1000 else len(peers)
        for first in range(0, len(peers), at_once):
            told = in_turn([*ours, *peers[first : first + at_once]], shape.steps, asked.rounds)
            beside = told["firstlight"]["seconds"]
            for system, figures in told.items():
                if system in found.get(name, {}):
                    continue
                steps_per_second = shape.steps / statistics.median(figures["seconds"])
                found.setdefault(name, {})[system] = {
                    "tokens_per_second": round(steps_per_second * shape.tokens),
                    "gflops": round(steps_per_second * shape.flops / 1e9),
                    "peak_mb": round(figures["peak_bytes"] / 1e6),
                    "warm_seconds": round(figures["warm_seconds"], 1),
                    "firstlight_over_it": "1" if system == "firstlight" else ratio(beside, figures["seconds"]),
                }
    return found


def worker(python: str, system: str, shape: str, *more: str, **environment: str) -> System:
    """Return a system that trains or writes."""
    names = {"--compile": "compiled", "--recompute": "recomputing", "--int8": "int8"}
    name = ", ".join([system, *(said for flag, said in names.items() if flag in more)])
    return System(name, [python, str(HERE / "worker.py"), system, shape, *more], environment)


def memory(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of a few steps with a large vocabulary and batch."""
    name = "gpt2-124m-256x16"
    checkout = ("--checkout", str(asked.nanogpt))
    systems = [
        worker(sys.executable, "firstlight", name),
        worker(sys.executable, "firstlight", name, "--recompute"),
        *(worker(asked.python, "nanogpt", name, *checkout, *more) for more in ((), ("--compile",)) if asked.nanogpt),
        worker(asked.python, "transformers", name),
    ]
    found = {}
    for system in systems:  # one at a time: together they would not fit into many machines
        for told in in_turn([system], 1, 2).values():
            found[system.name] = {
                "peak_mb": round(told["peak_bytes"] / 1e6),
                "step_seconds": round(min(told["seconds"]), 1),
            }
    return found


def generation(asked: argparse.Namespace) -> dict[str, Any]:
    """Let every system write the same amount of text with GPT-2 124M from random weights."""
    name = "gpt2-124m-1024"
    found: dict[str, Any] = {}
    shape = SHAPES[name]
    for title, texts in GENERATED.items():
        words = (name, "--texts", f"{texts.batch},{texts.prompt},{texts.new}")
        systems = [
            worker(sys.executable, "firstlight", *words),
            worker(sys.executable, "firstlight", *words, "--int8"),
            worker(asked.python, "transformers", *words),
        ]
        if asked.nanogpt:
            systems.append(worker(asked.python, "nanogpt", *words, "--checkout", str(asked.nanogpt)))
        told = in_turn(systems, 1, asked.rounds)
        beside = told["firstlight"]["seconds"]
        found[title] = {
            system: {
                "tokens_per_second": round(texts.batch * texts.new / statistics.median(figures["seconds"]), 1),
                "firstlight_over_it": "1" if system == "firstlight" else ratio(beside, figures["seconds"]),
                "peak_mb": round(figures["peak_bytes"] / 1e6),
            }
            for system, figures in told.items()
        }
    found["floor"] = round(1 / reading(shape), 1)
    return found


def reading(shape: Shape) -> float:
    """Return the seconds in which all cores together read a model's matrices, the best of ten."""
    import torch

    C = shape.n_embd
    sizes = [(3 * C, C), (C, C), (4 * C, C), (C, 4 * C)] * shape.n_layer
    matrices = [torch.ones(size) for size in [*sizes, (shape.n_vocab, C)]]
    times = []
    for _ in range(10):
        began = time.perf_counter()
        for matrix in matrices:
            matrix.sum()
        times.append(time.perf_counter() - began)
    return min(times)


def preparing(asked: argparse.Namespace) -> dict[str, Any]:
    """Time ``data prepare`` as a whole process, on a text many times over, with a tokenizer made before."""
    if asked.text is None:
        return {}
    command, rates = [sys.executable, "-m", "firstlight"], []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(Path(folder) / "bpe")
        subprocess.run(
            [*command, "tokenizer", "train", str(asked.text), "--out", tokenizer, "tokenizer.vocab_size=16384"],
            capture_output=True,
            check=True,
        )
        whole = Path(folder) / "text.txt"
        piece = asked.text.read_bytes()
        whole.write_bytes(piece * max(1, 100_000_000 // len(piece)))
        for number in range(asked.rounds):
            began = time.perf_counter()
            subprocess.run(
                [*command, "data", "prepare", str(whole), "--tokenizer", tokenizer, "--out", f"{folder}/s{number}"],
                capture_output=True,
                check=True,
            )
            rates.append(whole.stat().st_size / 1e6 / (time.perf_counter() - began))
    return {"data prepare, MB/s": spread(rates, 0)}


def overhead(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what a run of a small model spends beside its steps: waiting for data, and at checkpoints."""
    del asked
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
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def startup(asked: argparse.Namespace) -> dict[str, Any]:
    """Time from a command's start to its first step, and of --help."""
    text = "to be or not to be that is the question\n" * 20_000
    found: dict[str, list[float]] = {"first step": [], "--help": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text(text, encoding="ascii")
        for number in range(asked.rounds):
            out = Path(folder) / f"run{number}"
            words = [
                "pretrain",
                "text.txt",
                "--preset",
                "shakespeare-char-cpu",
                "--out",
                str(out),
                "train.stop_after=1",
            ]
            subprocess.run([sys.executable, "-m", "firstlight", *words], cwd=folder, capture_output=True, check=True)
            first = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
            found["first step"].append(json.loads(first)["seconds"])
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "firstlight", "--help"], capture_output=True, check=True)
            found["--help"].append(time.perf_counter() - began)
    return {name: spread(seconds) for name, seconds in found.items()}


def tokenizing(asked: argparse.Namespace) -> dict[str, Any]:
    """Encode the same text by Firstlight, tokenizers and tiktoken, one after the other, with equal ids."""
    if asked.text is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "encode.py"), str(asked.text), folder, str(asked.rounds)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def peak_flops() -> float:
    """Return the GFLOP/s of a product of two 4096 x 4096 matrices in fp32, the best of ten."""
    import torch

    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return round(2 * 4096**3 / min(times) / 1e9)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return a median and its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
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
    """Return the tables of the docs, by name."""
    made = {}
    for shape, systems in results.get("training", {}).items():
        made[f"training-{shape}"] = markdown(
            ["system", "tokens/s", "Firstlight over it", "GFLOP/s", "peak MB", "warm-up s"],
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
            if title in GENERATED
            for n, f in systems.items()
        ]
        rows.append(["batch 1", "floor: weights read once a token", str(results["generation"]["floor"]), "", ""])
        made["generation"] = markdown(["what", "system", "tokens/s", "Firstlight over it", "peak MB"], rows)
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
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_docs(made: dict[str, str]) -> None:
    """Put tables, by name, between their marks in docs/benchmarks.md."""
    page = DOCS / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise SystemExit(f"{page} has no mark {end if begun else begin}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure the parts asked for; keep the figures of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="all by default")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--llmc", type=Path, help="a checkout of llm.c")
    parser.add_argument("--text", type=Path, help="a text file for tokenizing and preparing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="*", choices=TIMED, default=TIMED)
    parser.add_argument("--compiled", action="store_true", help="Firstlight compiled, too")
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for part in asked.parts or PARTS:
        found = PARTS[part](asked)
        results[part] = {**results.get(part, {}), **found}
        results["machine"] = machine()
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_docs(tables(results))


if __name__ == "__main__":
    main()
