"""Fine-tuning by LoRA beside transformers' Trainer with peft: same model, rows, batch, steps, rate and adapters.

    python benchmarks/finetune_beside_trainer.py DIR examples/tasks/sst2.toml --data DATA --rows 1024 --rounds 3

DIR is a Hugging Face directory. Both run as whole processes in turn, one epoch from start-up to the accuracy on the
valid rows: ``firstlight finetune --preset lora``, and this file with --trainer, which has the same ids (texts between
two end-of-text tokens, the last one read by the head), dynamic padding and Trainer's own fused AdamW. The intervals are
bootstrap ones of 95 %.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.statistics import METRICS, interval
from firstlight.tasks import TaskData, read_spec, read_task

BATCH, RATE, R, ALPHA = 32, 1e-3, 16, 32
SETTINGS = [f"optim.lr={RATE}", f"finetune.batch_size={BATCH}", "train.epochs=1", "hardware.compile=off"]


def rows(task: Path, data: Path, n: int) -> TaskData:
    """Read the task's rows, as ``finetune`` does with its default seed."""
    return read_task(read_spec(task, data=data, overrides={"max_rows": n}), seed=1337)


def firstlight(model: Path, task: Path, data: Path, n: int, out: Path) -> dict[str, float]:
    """Run the command; return its figures."""
    limited = out.parent / task.name
    lines = [line for line in task.read_text(encoding="utf-8").splitlines() if not line.startswith("test =")]
    limited.write_text("\n".join([f"max_rows = {n}", *lines, ""]), encoding="utf-8")
    command = [sys.executable, "-m", "firstlight", "finetune", str(model), str(limited), "--data", str(data)]
    done = subprocess.run(
        [*command, "--preset", "lora", "--out", str(out), *SETTINGS], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, float] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["tasks"][task.stem]
    return told


def trainer(model: Path, task: Path, data: Path, n: int) -> dict[str, float]:
    """Train with transformers and peft in this process; return accuracy on the valid rows and its interval."""
    import peft
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    read = rows(task, data, n)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    body = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(read.spec.labels), dtype=torch.float32
    )
    # Trainer's head reads the last token that is no padding; the end-of-text before it is a text's own, so a pad of
    # its own is needed.
    pad = "<|pad|>"
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": pad})
        body.resize_token_embeddings(len(tokenizer))
    body.config.pad_token_id = tokenizer.pad_token_id
    adapted = peft.get_peft_model(
        body, peft.LoraConfig(task_type="SEQ_CLS", r=R, lora_alpha=ALPHA, target_modules="all-linear")
    )

    def encoded(examples: list[Any]) -> list[dict[str, Any]]:
        texts = [tokenizer(e.texts[0], add_special_tokens=False)["input_ids"] for e in examples]
        ends = tokenizer.eos_token_id
        return [{"input_ids": [ends, *ids, ends], "labels": e.label} for ids, e in zip(texts, examples, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, num_train_epochs=1,
            learning_rate=RATE, warmup_steps=0.06, lr_scheduler_type="linear", weight_decay=0.0, max_grad_norm=1.0,
            use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="epoch", eval_strategy="no", logging_steps=10,
        )  # fmt: skip
        worker = Trainer(
            model=adapted, args=arguments, train_dataset=encoded(read.train),
            data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        worker.train()
        logits = worker.predict(encoded(read.valid)).predictions
    said, true = np.asarray(logits).argmax(-1), np.asarray([e.label for e in read.valid])
    low, high = interval(METRICS["accuracy"], said, true)
    return {"value": METRICS["accuracy"](said, true), "low": low, "high": high}


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("task", type=Path, help="a task of kind classification")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1024, help="of train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainer", action="store_true", help="only Trainer, in this process; prints JSON")
    asked = parser.parse_args()
    if asked.trainer:
        print(json.dumps(trainer(asked.model, asked.task, asked.data, asked.rows)))
        return
    print("| round | system | seconds | accuracy | 95 % interval |\n|---|---|---|---|---|", flush=True)
    ratios = []
    for number in range(1, asked.rounds + 1):
        seconds = {}
        for system in ("Firstlight", "transformers + peft"):
            began = time.perf_counter()
            if system == "Firstlight":
                with tempfile.TemporaryDirectory() as folder:
                    told = firstlight(asked.model, asked.task, asked.data, asked.rows, Path(folder) / "run")
            else:
                words = [str(w) for w in (asked.model, asked.task, "--data", asked.data, "--rows", asked.rows)]
                done = subprocess.run(
                    [sys.executable, __file__, *words, "--trainer"], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                told = json.loads(done.stdout.splitlines()[-1])
            seconds[system] = time.perf_counter() - began
            print(
                f"| {number} | {system} | {seconds[system]:.0f} | {told['value']:.3f} | "
                f"{told['low']:.3f}–{told['high']:.3f} |", flush=True,
            )  # fmt: skip
        ratios.append(seconds["transformers + peft"] / seconds["Firstlight"])
    print(f"Firstlight is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
