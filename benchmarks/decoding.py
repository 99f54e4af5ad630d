"""Compare generation on a CPU with llama.cpp: one model, greedy decoding, in fp32, bf16 and eight bits.

    firstlight import SmolLM2-135M.gguf smollm2
    python benchmarks/decoding.py smollm2 --llama ../llama/bin/python

--llama is an interpreter with llama-cpp-python (built from source, so that it uses this processor); without it only
Firstlight is measured. The systems run interleaved, each in its own process. Every round generates --new tokens after
prompts of --prompt different tokens each, or reads one prompt; the table has medians over the rounds, and the ratio of
the rates with its range. The floor is the rate at which the weights can be read once for each token (of each batch).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleave import System, run_interleaved, speedup
from worker import StepGate

DTYPES = {"fp32": "f32", "bf16": "f16", "int8": "q8_0"}  # llama.cpp has no faster 16 bits than f16 on most processors


def firstlight_worker(
    model: str, precision: str, batch: int, prompt: int, new: int, threads: int
) -> Callable[[], None]:
    """Return a function that generates with the engine of ``firstlight generate``."""
    import torch

    from firstlight.lm import LM, GenerateSettings
    from firstlight.lm.request import Request
    from firstlight.lm.streamer import IdStreamer

    torch.set_num_threads(threads)
    lm = LM.load(model, device="cpu", precision="auto" if precision == "int8" else precision, int8=precision == "int8")
    settings, engine = GenerateSettings(temperature=0, max_new_tokens=new), lm.engine()

    def step() -> None:
        for ids in prompts(batch, prompt):
            engine.add(Request(ids, settings, IdStreamer(frozenset())))
        for _ in engine.run():
            pass

    return step


def llama_worker(model: str, precision: str, batch: int, prompt: int, new: int, threads: int) -> Callable[[], None]:  # noqa: ARG001
    """Return a function that generates with llama.cpp's own interface: a batch of sequences with a cache each."""
    import llama_cpp  # type: ignore[import-not-found]
    import numpy as np

    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_load_model_from_file(model.encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_seq_max = batch * (prompt + new), max(512, batch * prompt), batch
    options.n_threads = options.n_threads_batch = threads
    context = llama_cpp.llama_new_context_with_model(loaded, options)
    V = llama_cpp.llama_n_vocab(llama_cpp.llama_model_get_vocab(loaded))
    tokens = llama_cpp.llama_batch_init(max(512, batch * prompt), 0, batch)

    def run(rows: list[tuple[int, int, int, bool]]) -> list[int]:
        tokens.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            tokens.token[i], tokens.pos[i], tokens.logits[i] = token, position, wanted
            tokens.n_seq_id[i], tokens.seq_id[i][0] = 1, sequence
        assert llama_cpp.llama_decode(context, tokens) == 0
        return [
            int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (V,)).argmax())
            for i, (*_, wanted) in enumerate(rows)
            if wanted
        ]

    def step() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        texts = prompts(batch, prompt)
        last = run([(t, i, s, i == prompt - 1) for s, ids in enumerate(texts) for i, t in enumerate(ids)])
        for position in range(prompt, prompt + new - 1):
            last = run([(token, position, s, True) for s, token in enumerate(last)])

    return step


def prompts(batch: int, prompt: int) -> list[list[int]]:
    """Return prompts that have nothing in common."""
    return [[1000 + 37 * s + 11 * i for i in range(prompt)] for s in range(batch)]


def measure(args: argparse.Namespace, files: dict[str, str]) -> list[list[str]]:
    """Return the rows of the table."""
    rows = []
    for title, batch, prompt, new in (
        ("batch 1", 1, args.prompt, args.new),
        ("batch 8", 8, args.prompt, args.new),
        (f"prompt of {args.prompt}", 1, args.prompt, 1),
        ("prompt of 512", 1, 512, 1),
    ):
        for precision in DTYPES:
            workload = [precision, str(batch), str(prompt), str(new), str(args.threads)]
            script = str(Path(__file__).resolve())
            systems = [System("firstlight", [sys.executable, script, args.model, "--worker", "firstlight", *workload])]
            if args.llama:
                command = [args.llama, script, files[precision], "--worker", "llama", *workload]
                systems.append(System("llama.cpp", command))
            results = run_interleaved(systems, 1, args.rounds)
            tokens = batch * (new if new > 1 else prompt)
            rates = {name: tokens / statistics.median(found["seconds"]) for name, found in results.items()}
            theirs = results.get("llama.cpp")
            ratio = "" if theirs is None else speedup(results["firstlight"]["seconds"], theirs["seconds"])
            cells = [title, precision, f"{rates['firstlight']:.1f}", f"{rates.get('llama.cpp', 0):.1f}", ratio]
            rows.append([*cells, f"{results['firstlight']['peak_bytes'] / 1e6:,.0f}"])
            print("| " + " | ".join(rows[-1]) + " |", flush=True)
    return rows


def floor(n_weights: int, threads: int) -> str:
    """Return the tokens per second at which all weights are read once a token, by precision."""
    import torch

    torch.set_num_threads(threads)
    x, best = torch.ones(1 << 28), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        x.sum()
        best = min(best, time.perf_counter() - start)
    read = x.numel() * 4 / best
    rates = {name: read / (n_weights * size) for name, size in (("fp32", 4), ("bf16", 2), ("int8", 1))}
    return f"floor at {read / 1e9:.1f} GB/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


def main() -> None:
    """Export the model for llama.cpp, measure, print the table; or work for the process that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model directory or run")
    parser.add_argument("--llama", help="an interpreter with llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--worker", nargs=6, metavar=("SYSTEM", "PRECISION", "BATCH", "PROMPT", "NEW", "THREADS"))
    args = parser.parse_args()
    if args.worker:
        system, precision, *numbers = args.worker
        results = os.dup(1)
        os.dup2(2, 1)  # so that only results are on standard output
        gate = StepGate(os.fdopen(results, "w"))
        build: dict[str, Any] = {"firstlight": firstlight_worker, "llama": llama_worker}
        step = build[system](args.model, precision, *map(int, numbers))
        while True:
            step()
            gate.step()
    from firstlight.lm import LM
    from firstlight.model import count_parameters

    print(floor(count_parameters(LM.load_fp32(args.model).config).total, args.threads))
    print("| what | weights | Firstlight tokens/s | llama.cpp tokens/s | ratio | peak MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for precision, dtype in DTYPES.items() if args.llama else ():
            files[precision] = str(Path(folder) / f"{dtype}.gguf")
            command = [sys.executable, "-m", "firstlight", "--quiet", "export", args.model, files[precision]]
            subprocess.run([*command, "--to", "gguf", "--dtype", dtype], check=True, stdout=subprocess.DEVNULL)
        rows = measure(args, files)
    names = ("what", "weights", "tokens_per_second", "llama_tokens_per_second", "ratio", "peak_mb")
    print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))


if __name__ == "__main__":
    main()
