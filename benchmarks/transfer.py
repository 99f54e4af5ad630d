"""Measure what pre-training gives to fine-tuning: one model, pre-trained and with random weights, on labelled tasks.

    python benchmarks/transfer.py runs/novels --tasks examples/tasks/sst2.toml … --data DIR --out runs/transfer

Every task gets --rows labelled rows, from which fine-tuning takes its validation rows, and up to --test-rows test rows:
those of the task's test file, else of its validation file, else others of its training file. Both models are fine-tuned
with the default settings and --seeds seeds, the one with random weights at the learning rates of the other. The last
columns are the paired difference with its 95 % bootstrap interval over test rows, of the means over the seeds, and the
baselines of the report: a linear model on TF-IDF of words, and the majority class. --only pretrained leaves out the
random weights. Finished jobs are kept in --out and not run again. Arguments after ``--`` are further settings of
fine-tuning.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import firstlight
from firstlight.config import read_toml
from firstlight.finetuning import Example, TaskSpec, load_task, read_spec
from firstlight.lm import LM
from firstlight.model import GPT
from firstlight.statistics import METRICS

SEED = 1  # of the rows
COLUMNS = {"pair": ("text", "text2"), "similarity": ("text", "text2")}


def subset(task: Path, data: Path, rows: int, test_rows: int, out: Path) -> Path:
    """Write a task of the same kind with few rows; return its TASK.toml."""
    folder = out / "tasks" / task.stem
    toml = folder / f"{task.stem}.toml"
    if toml.exists():
        return toml
    spec = read_spec(task, data=data)
    found = load_task(spec, seed=SEED)
    generator = np.random.default_rng(SEED)
    train = [found.train[i] for i in generator.permutation(len(found.train))]
    test = found.test or (found.valid if spec.data.valid is not None else [])
    if not test:
        train, test = train[:rows], train[rows : rows + test_rows] + found.valid
    test = [test[i] for i in generator.permutation(len(test))[:test_rows]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train[:rows]), ("test", test)):
        lines = [json.dumps(_record(found.spec, row), ensure_ascii=False) for row in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [f'name = "{task.stem}"', f'kind = "{spec.kind}"', f'truncation = "{spec.truncation}"']
    lines += [f'metric = "{spec.metric}"']
    if spec.kind == "multiple_choice":
        lines += ['answer_format = "zero_based"']
    elif found.spec.labels:
        lines += [f"labels = {json.dumps(found.spec.labels, ensure_ascii=False)}"]
    else:
        lines += ["scale = [0.0, 1.0]"]
    names = ("question", "choices") if spec.kind == "multiple_choice" else COLUMNS.get(spec.kind, ("text",))
    lines += ["[data]", 'train = "train.jsonl"', 'test = "test.jsonl"', "[columns]", 'label = "label"']
    lines += [f'{name} = "{name}"' for name in names]
    toml.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return toml


def _record(spec: TaskSpec, row: Example) -> dict[str, Any]:
    label = spec.labels[row.label] if spec.labels and isinstance(row.label, int) else row.label
    if spec.kind == "multiple_choice":
        return {"question": row.texts[0], "choices": [t for t in row.texts[1:] if t], "label": row.label}
    names = COLUMNS.get(spec.kind, ("text",))
    return {**dict(zip(names, row.texts, strict=True)), "label": label}


def control(run: Path, out: Path) -> Path:
    """Save a model of the same shape and tokenizer with random weights."""
    folder = out / f"{run.name}-random"
    if not folder.is_dir():
        read = LM.load_fp32(run)
        model = GPT(read.config)
        model.init_weights(torch.Generator().manual_seed(0))
        LM(model, read.tokenizer).save(folder)
    return folder


def fine_tune(job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune one model on one task with one seed; return its metrics, and its predictions of the test rows."""
    start, task, out = time.perf_counter(), Path(job["task"]), Path(job["out"])
    settings = [f"run.seed={job['seed']}", "hardware.threads=1", *job["settings"]]
    if job["lr"] is not None:
        settings.append(f"optim.lr={job['lr']}")
    preset = job["preset"]
    result = firstlight.finetune(
        job["model"], [str(task)], out=out, preset=preset, restart=out.exists(), overrides=settings
    )
    seconds = time.perf_counter() - start
    rows = firstlight.predict(out, task.with_name("test.jsonl"))
    values = [row.values for row in rows]
    predicted = [v.get("score", v.get("label")) for v in values]
    name = task.stem
    found = {
        "metric": result.test[name]["metric"],
        "test": result.test[name]["value"],
        "valid": result.valid[name]["value"],
        "steps": result.step,
        "seconds": round(seconds, 1),
        "bag_of_words": (result.test[name]["bag_of_words"] or {}).get("value"),
        "majority": (result.test[name]["majority"] or {}).get("value"),
        "warnings": result.warnings[name],
        "lr": read_toml(out / "run.toml")["optim"]["lr"],
        "predicted": predicted,
    }
    for weights in out.rglob("*.safetensors"):
        weights.unlink()
    return found


def paired(
    metric: Callable[..., float], ours: np.ndarray, theirs: np.ndarray, true: np.ndarray
) -> tuple[float, float, float]:
    """Return the difference of the means over seeds (S, n), and its 95 % bootstrap interval over rows."""

    def gain(rows: np.ndarray) -> float:
        values = [np.mean([metric(p[rows], true[rows]) for p in side]) for side in (ours, theirs)]
        return float(values[0] - values[1])

    generator = np.random.default_rng(SEED)
    n = len(true)
    drawn = [gain(generator.integers(0, n, n)) for _ in range(1000)]
    return gain(np.arange(n)), *np.percentile(drawn, [2.5, 97.5]).tolist()


def table(jobs: list[dict[str, Any]], results: dict[str, dict[str, Any]]) -> str:
    """Return the table of all tasks that are finished."""
    head = "| task | metric | test rows | pre-trained | random weights | gain | helps | TF-IDF, linear | majority |"
    lines, gains = [head, "|---|---|---|---|---|---|---|---|---|"], []
    for task in dict.fromkeys(job["task"] for job in jobs):
        sides: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            if job["task"] == task and job["key"] in results:
                sides.setdefault(job["side"], []).append(results[job["key"]])
        if not sides:
            continue
        toml = Path(task)
        rows = [json.loads(x) for x in toml.with_name("test.jsonl").read_text(encoding="utf-8").splitlines()]
        labels = read_toml(toml).get("labels")
        true = np.array([labels.index(r["label"]) if labels else r["label"] for r in rows])
        name = next(iter(sides.values()))[0]["metric"]
        metric = METRICS[name]
        code = (lambda found: [labels.index(x) for x in found]) if labels else list  # noqa: B023
        predicted = {side: np.array([code(r["predicted"]) for r in found]) for side, found in sides.items()}
        cells = []
        for side in ("pretrained", "random"):
            found = [r["test"] for r in sides.get(side, [])]
            mean = f"**{statistics.mean(found):.3f}** " if found else ""
            cells.append(mean + "(" + " ".join(f"{v:.3f}" for v in found) + ")")
        verdict = ["", ""]
        if {"pretrained", "random"} <= sides.keys():
            gain, low, high = paired(metric, predicted["pretrained"], predicted["random"], true)
            gains.append(gain)
            verdict = [f"{gain:+.3f} ({low:+.3f} to {high:+.3f})", "yes" if low > 0 else "no" if high >= 0 else "loses"]
        one = next(iter(sides.values()))[0]
        simple = ["" if one[key] is None else f"{one[key]:.3f}" for key in ("bag_of_words", "majority")]
        lines.append(f"| {' | '.join([toml.stem, name, str(len(rows)), *cells, *verdict, *simple])} |")
    if gains:
        lines.append(f"\nMean gain: {statistics.mean(gains):+.3f} on {len(gains)} tasks.")
    return "\n".join(lines)


def main() -> None:
    """Run the jobs that are not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a pre-trained run")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True, help="parent folder of the tasks' data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--name", default="default", help="of these settings, in --out")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=["pretrained", "random"])
    ours, settings = sys.argv[1:], []
    if "--" in ours:
        ours, settings = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    args = parser.parse_args(ours)
    tasks = [subset(task, args.data, args.rows, args.test_rows, args.out) for task in args.tasks]
    models = {"pretrained": args.model} | ({"random": control(args.model, args.out)} if args.only is None else {})
    file = args.out / f"{args.name}.jsonl"
    results = {}
    if file.exists():
        results = {r["key"]: r for r in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    jobs = []
    for seed in range(1, args.seeds + 1):
        for task in tasks:
            for side, model in models.items():
                key = f"{args.model.name}-{side}-{task.stem}-{seed}"
                job = {"key": key, "side": side, "task": str(task), "model": str(model), "seed": seed}
                out = str(args.out / args.name / key)
                jobs.append(job | {"out": out, "settings": settings, "preset": args.preset})
    for side in models:  # the learning rates of the random weights are those of the others
        open_jobs = [job for job in jobs if job["side"] == side and job["key"] not in results]
        for job in open_jobs:
            twin = results.get(str(job["key"]).replace("-random-", "-pretrained-")) if side == "random" else None
            job["lr"] = None if twin is None else twin["lr"]
        context = multiprocessing.get_context("spawn")
        with context.Pool(args.jobs) as pool, file.open("a", encoding="utf-8") as log:
            for job, found in pool.imap_unordered(_numbered, open_jobs):
                results[job["key"]] = {"key": job["key"], **found}
                log.write(json.dumps(results[job["key"]], ensure_ascii=False) + "\n")
                log.flush()
                shown = f"{found['metric']} {found['test']:.3f} (valid {found['valid']:.3f}), {found['seconds']} s"
                print(f"{job['key']}: {shown}, {found['steps']} steps at {found['lr']:.3g}", flush=True)
    print(table(jobs, results))


def _numbered(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return job, fine_tune(job)


if __name__ == "__main__":
    main()
