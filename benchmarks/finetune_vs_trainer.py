"""Compare LoRA fine-tuning with transformers' Trainer and peft: same model, rows, batch size, steps, rate, adapters.

    python benchmarks/finetune_vs_trainer.py DIR examples/tasks/sst2.toml --data DATA --rows 1024 --seeds 3

DIR is a Hugging Face directory. Both run as whole processes, interleaved, for one epoch, from start-up to the accuracy
on the validation rows: ``firstlight finetune --preset lora``, and this file with --trainer, which uses dynamic padding
and Trainer's fused AdamW. Trainer gets the token ids of Firstlight's rows in the same order (texts between two
end-of-text tokens, the last of which the head reads), the same initial weights of head and adapters, and the same
learning rates. The remaining differences are rounding, and that Firstlight's fused matrices share lora_A. With
--own-start Trainer uses its own order and initial weights by seed, and its own warm-up, which starts at a rate of 0
and is one step later. The last column is the mean absolute difference of the training losses per step. Intervals are
95 % bootstrap intervals over the validation rows, and do not include variation over seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.config import preset
from firstlight.finetuning import (
    EncodedExample,
    Mixture,
    Preprocessor,
    TaskRows,
    TuningSettings,
    build_task_model,
    load_task,
    read_spec,
)
from firstlight.lm import LM
from firstlight.model import GPT, hf_parameter_names
from firstlight.optim import ScheduleSettings, lr_factor
from firstlight.statistics import METRICS, bootstrap_interval

BATCH = 32
PRESET = preset("firstlight.stages.presets.finetune", "lora")
TABLE = TuningSettings.model_validate(PRESET["finetune"])
SYSTEMS = ("Firstlight", "transformers + peft")


@dataclass(frozen=True, slots=True)
class TrainContext:
    """Settings of one comparison."""

    model: Path
    task: Path
    data: Path
    rows: int
    rate: float
    seed: int
    own_start: bool

    def arguments(self) -> list[str]:
        """Return the arguments of this script for running Trainer."""
        named = {"--data": self.data, "--rows": self.rows, "--rate": self.rate, "--seed": self.seed}
        arguments = [str(word) for pair in named.items() for word in pair]
        return [str(self.model), str(self.task), *arguments, *(["--own-start"] if self.own_start else [])]


def firstlight(ctx: TrainContext, out: Path) -> dict[str, Any]:
    """Run the command; return its metrics, and the training loss of every step."""
    limited = out.parent / ctx.task.name
    lines = [line for line in ctx.task.read_text(encoding="utf-8").splitlines() if not line.startswith("test =")]
    limited.write_text("\n".join([f"max_train_rows = {ctx.rows}", *lines, ""]), encoding="utf-8")
    settings = (
        f"optim.lr={ctx.rate}",
        f"run.seed={ctx.seed}",
        f"finetune.batch_size={BATCH}",
        "train.epochs=1",
        "train.log_every=1",
        "hardware.compile=off",
    )
    command = [sys.executable, "-m", "firstlight", "finetune", str(ctx.model), str(limited), "--data", str(ctx.data)]
    done = subprocess.run(
        [*command, "--preset", "lora", "--out", str(out), *settings], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["tasks"][ctx.task.stem]
    steps = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return result | {"losses": [step["loss"] for step in steps if "lr" in step]}


@dataclass(frozen=True, slots=True)
class Start:
    """Firstlight's initial state: its model, the training rows in order, and the validation rows."""

    model: GPT
    labels: int
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]


def build_start(ctx: TrainContext) -> Start:
    """Build the same as ``firstlight finetune`` from the same settings."""
    spec = read_spec(ctx.task, data=ctx.data, overrides={"max_train_rows": ctx.rows})
    read, lm = load_task(spec, seed=ctx.seed), LM.load_fp32(ctx.model)
    assert lm.tokenizer is not None, "checked by the run before"
    transform = Preprocessor(read.spec, lm.tokenizer, lm.config.block_size)
    mixture = Mixture.plan(
        [TaskRows(read.spec, transform(read.train))], rows=BATCH, mixing="proportional", fixed={}, seed=ctx.seed
    )
    train = []
    for update in range(mixture.updates_per_epoch):
        batch: Any = mixture.batch(update * BATCH, BATCH)
        for ids, last, label in zip(batch.input_ids[:, 0], batch.positions[:, 0], batch.labels, strict=True):
            train.append({"input_ids": ids[: int(last) + 1].tolist(), "labels": int(label)})
    model = build_task_model(lm.model, {spec.name: read.spec}, lm.tokenizer.vocab_size, TABLE, ctx.seed)
    return Start(model, len(read.spec.labels), train, [_example(row) for row in transform(read.valid)])


def _example(row: EncodedExample) -> dict[str, Any]:
    return {"input_ids": row.sequences[0].tolist(), "labels": row.label}


def trainer(ctx: TrainContext) -> dict[str, Any]:
    """Train with transformers and peft in this process; return accuracy, its interval and the loss of every step.

    ``setup_seconds`` is the time to build Firstlight's initial state, which is not Trainer's.
    """
    import peft
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    began = time.perf_counter()
    start = build_start(ctx)
    setup_seconds = time.perf_counter() - began
    set_seed(ctx.seed)
    tokenizer = AutoTokenizer.from_pretrained(ctx.model)
    body = AutoModelForSequenceClassification.from_pretrained(ctx.model, num_labels=start.labels, dtype=torch.float32)
    # Trainer's head reads the last token that is not padding. Texts end with end-of-text, so padding needs another
    # token.
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        body.resize_token_embeddings(len(tokenizer))
    body.config.pad_token_id = tokenizer.pad_token_id
    peft_model = peft.get_peft_model(
        body,
        peft.LoraConfig(
            task_type="SEQ_CLS", r=TABLE.adapter.r, lora_alpha=TABLE.adapter.alpha, target_modules="all-linear"
        ),
    )
    optimizer = scheduler = None
    if not ctx.own_start:
        _copy_initial_weights(start.model, peft_model)
        trainable = [p for p in peft_model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=ctx.rate, betas=PRESET["optim"]["betas"], weight_decay=0.0, fused=True
        )
        n, plan = len(start.train) // BATCH, ScheduleSettings.model_validate(PRESET["optim"]["schedule"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(min(step, n - 1), n, plan))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=ctx.rate,
            warmup_steps=0.06,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            max_grad_norm=1.0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="epoch",
            eval_strategy="no",
            logging_steps=1,
            seed=ctx.seed,
            train_sampling_strategy="random" if ctx.own_start else "sequential",
        )
        worker = Trainer(
            model=peft_model,
            args=arguments,
            train_dataset=start.train,
            data_collator=DataCollatorWithPadding(tokenizer),
            optimizers=(optimizer, scheduler),
        )
        worker.train()
        logits = worker.predict(start.valid).predictions
    predicted, labels = np.asarray(logits).argmax(-1), np.asarray([row["labels"] for row in start.valid])
    low, high = bootstrap_interval(METRICS["accuracy"], predicted, labels)
    losses = [entry["loss"] for entry in worker.state.log_history if "loss" in entry]
    return {
        "value": METRICS["accuracy"](predicted, labels),
        "low": low,
        "high": high,
        "losses": losses,
        "setup_seconds": setup_seconds,
    }


def _copy_initial_weights(ours: GPT, theirs: Any) -> None:
    """Copy the initial weights of head and adapters; a fused matrix's lora_A is copied to each of its parts."""
    parameters = dict(theirs.named_parameters())
    head = next(iter(ours.heads.values()))
    parameters["base_model.model.score.modules_to_save.default.weight"].data.copy_(head.weight)
    for module, layer in ours.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        names, _, _ = hf_parameter_names(ours.config, f"{module}.weight")
        for name in names:
            parameter = f"base_model.model.{name.removesuffix('.weight')}.lora_A.default.weight"
            parameters[parameter].data.copy_(layer.lora_A["default"].weight)


def timed(system: str, ctx: TrainContext) -> tuple[float, dict[str, Any]]:
    """Run one system as a process; return its seconds and metrics."""
    began = time.perf_counter()
    if system == SYSTEMS[0]:
        with tempfile.TemporaryDirectory() as folder:
            result = firstlight(ctx, Path(folder) / "run")
    else:
        command = [sys.executable, __file__, *ctx.arguments(), "--trainer"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began - result.get("setup_seconds", 0.0), result


def main() -> None:
    """Run the seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("task", type=Path, help="a task of kind classification")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1024, help="number of training rows")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--own-start", action="store_true", help="Trainer uses its own order, initial weights and warm-up"
    )
    parser.add_argument("--trainer", action="store_true", help="only Trainer, in this process; prints JSON")
    parser.add_argument("--seed", type=int, default=1, help="of --trainer")
    args = parser.parse_args()
    given = (args.model, args.task, args.data, args.rows, args.rate)
    if args.trainer:
        print(json.dumps(trainer(TrainContext(*given, args.seed, args.own_start))))
        return
    print(
        "| seed | system | seconds | accuracy | 95 % interval | difference of losses |\n|---|---|---|---|---|---|",
        flush=True,
    )
    ratios = []
    for seed in range(1, args.seeds + 1):
        seconds, losses = {}, {}
        for system in SYSTEMS:
            seconds[system], result = timed(system, TrainContext(*given, seed, args.own_start))
            losses[system] = result["losses"]
            difference = ""
            if system != SYSTEMS[0]:
                both = [losses[name] for name in SYSTEMS]
                difference = f"{statistics.mean(abs(a - b) for a, b in zip(*both, strict=True)):.4f}"
            print(
                f"| {seed} | {system} | {seconds[system]:.0f} | {result['value']:.3f} | "
                f"{result['low']:.3f}–{result['high']:.3f} | {difference} |",
                flush=True,
            )
        ratios.append(seconds[SYSTEMS[1]] / seconds[SYSTEMS[0]])
    print(f"Firstlight is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
