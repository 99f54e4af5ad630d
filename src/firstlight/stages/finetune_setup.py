"""Put a fine-tuning run together: start model, tokenizer, rows, heads, optimiser, loop. Wiring only."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstlight import lm, optim, parallel, progress
from firstlight.errors import ConfigError, UsageError
from firstlight.files import code_hash, write_atomic
from firstlight.finetuning import (
    DELIMITER,
    EXTRACT,
    PAD,
    START,
    EncodedExample,
    EvalResults,
    Mixture,
    Preprocessor,
    ReplaySource,
    RowSource,
    TaskData,
    TaskLoss,
    TaskRows,
    TaskSpec,
    build_task_model,
    chat_template,
    compute_metrics,
    layer_lr_scales,
    load_task,
    new_tokens,
    predict,
    read_spec,
    unfreeze_layers,
)
from firstlight.finetuning import adapters as adapter_files
from firstlight.finetuning.loss import collate
from firstlight.lm import LM, Classifier
from firstlight.model import GPT, ModelConfig, flops_per_token, fused_splits
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.store import TokenStore, Windows
from firstlight.tokenizer import Tokenizer
from firstlight.train import Checkpoints, Limits, RunLog, TrainContext, TrainState, validate

TASKS = "tasks.json"
_TEXTS = ("text", "chat")
_FORGETTING_WINDOWS = 200


@dataclass(frozen=True, slots=True)
class Start:
    """The pre-trained model; its weights are read where a run begins, and not held beside those that learn."""

    config: ModelConfig
    source: Path


@dataclass(frozen=True, slots=True)
class Materials:
    """What a fine-tuning run is made from.

    Attributes:
        start: the pre-trained model, as it was.
        tokenizer: with the tokens that the tasks add.
        tasks: the rows of each task, by its name.
        rows: their ids: (train, valid, test) by name.
        store: the token store that the model was pre-trained on, where it is there.
    """

    start: Start
    tokenizer: Tokenizer
    tasks: dict[str, TaskData]
    rows: dict[str, tuple[list[EncodedExample], list[EncodedExample], list[EncodedExample]]]
    store: TokenStore | None

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks by name."""
        return {name: data.spec for name, data in self.tasks.items()}

    @property
    def classifier(self) -> Classifier | None:
        """The head that transformers has a class for, where there is one task, and it is of that kind."""
        if len(self.tasks) != 1:
            return None
        spec = next(iter(self.specs.values()))
        if spec.kind not in ("classification", "pair", "regression") or spec.pool != "last":
            return None
        return Classifier(spec.name, () if spec.scored else spec.labels)


def materials(settings: FinetuneSettings, *, tasks: Sequence[TaskSpec] | None = None) -> Materials:
    """Read model and tasks.

    Args:
        settings: of the run.
        tasks: those of a run that goes on, in the place of their files.

    Raises:
        UsageError: two tasks of one name, or a model without a tokenizer.
    """
    assert settings.run.start_from is not None
    data = None if settings.run.data is None else Path(settings.run.data)
    specs = list(tasks) if tasks is not None else [read_spec(Path(t), data=data) for t in settings.run.tasks]
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("two tasks of one name", where=twice, fix="Give one of them another name in its TOML.")
    odd = next((name for name in names if not re.fullmatch(r"\w[\w-]*", name)), None)
    if odd is not None:
        raise UsageError("is no name for a task", where=odd, expected="letters, digits, - and _")
    start = LM.load_fp32(settings.run.start_from)
    if start.tokenizer is None:
        raise UsageError("has no tokenizer, so it reads no text", where=settings.run.start_from)
    tokenizer = _with_marks(start.tokenizer, specs, settings)
    read = {spec.name: load_task(spec, seed=settings.run.seed) for spec in specs}
    rows = {name: _rows(data, tokenizer, start.config.block_size) for name, data in read.items()}
    assert start.source is not None, "it was read from there"
    return Materials(Start(start.config, start.source), tokenizer, read, rows, find_token_store(start, needed=False))


def _with_marks(tokenizer: Tokenizer, specs: Sequence[TaskSpec], settings: FinetuneSettings) -> Tokenizer:
    table, kinds = settings.finetune, {spec.kind for spec in specs}
    adapts = table.adapter.kind != "none"
    own = table.marks == "new" or (table.marks == "auto" and not adapts)
    added = new_tokens(kinds) if own else []
    marks = (START, DELIMITER, EXTRACT) if own else (tokenizer.eot,) * 3
    kept: dict[str, Any] = {"pad_token": PAD} if PAD in added else {}
    single = len(specs) == 1 and kinds <= {"classification", "pair", "regression"}
    made = tokenizer.extended(added, around=marks if single else None, kept=kept)
    return made.extended([], kept={"chat_template": chat_template(made)}) if "chat" in kinds else made


def _rows(
    data: TaskData, tokenizer: Tokenizer, block_size: int
) -> tuple[list[EncodedExample], list[EncodedExample], list[EncodedExample]]:
    transform = Preprocessor(data.spec, tokenizer, block_size)
    made = transform(data.train), transform(data.valid), transform(data.test)
    for note in data.notes:
        progress.notice(f"{data.spec.name}: {note}")
    if transform.cut:
        where = "at their end" if data.spec.long == "tail" else f"by their {data.spec.long}"
        progress.notice(f"{data.spec.name}: {transform.cut:,} rows are longer than {block_size} tokens: cut {where}")
    return made


def _body(settings: FinetuneSettings, made: Materials) -> GPT:
    start = LM.load_fp32(made.start.source).model
    return build_task_model(start, made.specs, made.tokenizer.vocab_size, settings.finetune, settings.run.seed)


def start_over(
    state: TrainState, settings: FinetuneSettings, made: Materials, device_context: parallel.DeviceContext
) -> None:
    """Put weights, optimiser and random numbers back to the start of the run."""
    fresh = _body(settings, made)
    state.model.load_state_dict(fresh.state_dict())
    for name, parameter in fresh.named_parameters():
        state.model.get_parameter(name).requires_grad_(parameter.requires_grad)
    _begin(state, settings, device_context)


def _begin(state: TrainState, settings: FinetuneSettings, device_context: parallel.DeviceContext) -> None:
    state.model.to(device_context.device)
    state.optimizer = _optimizer(state.model, settings)
    if settings.train.ema_decay:
        state.ema = optim.ExponentialMovingAverage(state.model.named_parameters(), settings.train.ema_decay)
    state.scaler = parallel.scaler(device_context)
    parallel.seed_everything(settings.run.seed + device_context.rank)


def _optimizer(model: GPT, settings: FinetuneSettings) -> optim.Optimizer:
    decay = settings.finetune.layer_decay
    if decay < 1 and not settings.optim.supports_lr_scales:
        raise ConfigError(
            f"is not supported by optim.name={settings.optim.name}",
            where="finetune.layer_decay",
            fix="Set optim.name=adamw.",
        )
    scales = layer_lr_scales(model, decay) if decay < 1 else None
    return optim.build_optimizer(
        model.named_parameters(), settings.optim, fused_splits=fused_splits(model), lr_scales=scales
    )


def ctx(
    run: Path, settings: FinetuneSettings, made: Materials, device_context: parallel.DeviceContext, started: float
) -> TrainContext:
    """Wire one run of the loop."""
    table, model = settings.finetune, _body(settings, made)
    adapts = table.adapter.kind != "none"
    state = TrainState(model, _optimizer(model, settings))
    if adapts:
        state.form = adapter_files.Adapted()
    _begin(state, settings, device_context)
    rows = max(1, round(table.batch_size / device_context.world_size)) * device_context.world_size
    mixture = _mixture(settings, made, rows)
    micro = settings.train.micro_batch
    state.counters.micro_rows = (
        _micro_rows(rows // device_context.world_size, device_context) if micro == "auto" else min(micro, rows)
    )
    limits = Limits.resolve(
        settings.train,
        step_tokens=rows,
        epoch_tokens=mixture.updates_per_epoch * rows,
        parameters=sum(p.numel() for p in model.parameters()),
    )
    module = TaskLoss(
        model, made.specs, lm_weight=table.lm_weight, dropout=table.head_dropout, class_weights=_class_weights(made)
    )
    learning = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    every = table.thaw_every * mixture.updates_per_epoch
    return TrainContext(
        run=run,
        state=state,
        module=parallel.wrap(parallel.compile_module(module, device_context), device_context),
        objective=mixture,
        rows=rows,
        measure=lambda n: measure(model, made, device_context, most=n),
        optim=settings.optim,
        train=settings.train,
        device_context=device_context,
        limits=limits,
        checkpoints=Checkpoints(run, _writer(run, settings, made, model), settings.train.keep_last),
        log=RunLog(run, active=parallel.is_main(device_context), trackers=settings.train.trackers),
        contract={
            "tokenizer": made.tokenizer.hash,
            "store": ",".join(data.fingerprint for data in made.tasks.values()),
            "code": code_hash(),
        },
        counts="rows",
        sample=None,
        restart=lambda: start_over(state, settings, made, device_context),
        flops_per_token=flops_per_token(model.config, model.config.block_size),
        peak_flops=None,
        process_start=started,
        prepare=(lambda done: unfreeze_layers(model, learning, done, every)) if every else None,
    )


def _micro_rows(rows: int, device_context: parallel.DeviceContext) -> int:
    """Return the rows of one forward pass: on a CPU about a quarter of a batch, whose rows stand by width.

    Rows of like widths need little padding, and a CPU gains nothing from many rows at once.
    """
    most = max(4, rows // 4) if device_context.device.type == "cpu" else rows
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)


def _mixture(settings: FinetuneSettings, made: Materials, rows: int) -> Mixture:
    table = settings.finetune
    members: list[RowSource] = [TaskRows(spec, made.rows[name][0]) for name, spec in made.specs.items()]
    fixed = {}
    if table.replay:
        if made.store is None:
            raise UsageError(
                "there is no pre-training text to replay",
                where="finetune.replay",
                fix="Start from a run whose data/ is there, or leave it out.",
            )
        members.append(ReplaySource(made.store.train, made.start.config.block_size))
        fixed[ReplaySource.name] = table.replay
    return Mixture.plan(members, rows=rows, mixing=table.mixing, fixed=fixed, seed=settings.run.seed)


def _class_weights(made: Materials) -> dict[str, torch.Tensor]:
    """Return, for tasks that ask for it, weights by which every class counts the same in all."""
    found = {}
    for name, spec in made.specs.items():
        if spec.class_weights == "balanced" and not spec.scored and spec.kind not in ("choice", *_TEXTS):
            labels = np.concatenate([np.atleast_1d(np.asarray(row.label)) for row in made.rows[name][0]])
            counts = np.bincount(labels.astype(np.int64), minlength=len(spec.labels))
            found[name] = torch.tensor(len(labels) / (len(spec.labels) * np.maximum(counts, 1)), dtype=torch.float32)
    return found


def measure(
    model: GPT,
    made: Materials,
    device_context: parallel.DeviceContext,
    *,
    most: int | None = None,
    side: int = 1,
    draws: int = 0,
) -> EvalResults:
    """Evaluate all tasks on one side of their data: 1 valid, 2 test."""
    figures, texts = {}, {}
    for name, spec in made.specs.items():
        rows = made.rows[name][side]
        if not rows:
            continue
        if spec.kind in _TEXTS:
            texts[name] = _text_nats(model, spec, rows, device_context)
        else:
            figures[name] = compute_metrics(
                spec, rows, predict(model, spec, rows, device_context, most=most), draws=draws
            )
    return EvalResults(figures, texts)


@torch.no_grad()
def _text_nats(
    model: GPT, spec: TaskSpec, rows: Sequence[EncodedExample], device_context: parallel.DeviceContext
) -> float:
    module, total, count = TaskLoss(model, {spec.name: spec}, lm_weight=0, dropout=0, class_weights={}), 0.0, 0.0
    was_training = model.training
    model.eval()
    for first in range(0, len(rows), 16):
        batch = collate(spec.name, rows[first : first + 16], scored=False).piece(slice(None), device_context.device)
        with parallel.autocast(device_context):
            nats, n = module(batch)
        total, count = total + float(nats), count + float(n)
    model.train(was_training)
    return total / count if count else float("nan")


def forgetting(model: GPT, made: Materials, device_context: parallel.DeviceContext) -> float | None:
    """Return the loss on the valid split that the model was pre-trained with, or None where that is not there."""
    if made.store is None:
        return None
    windows = Windows(made.store.valid, block_size=model.config.block_size, max_windows=_FORGETTING_WINDOWS)
    return validate(model, windows, None, device_context, 8).loss if windows.n_windows else None


def _writer(run: Path, settings: FinetuneSettings, made: Materials, model: GPT) -> Any:
    classifier, adapter = made.classifier, settings.finetune.adapter
    facts = {"run": run.name, "tasks": ", ".join(made.specs), "started from": settings.run.start_from}

    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        if adapter.kind != "none":
            weights = adapter_files.write(
                folder,
                model,
                weights,
                adapter,
                base=str(made.start.source),
                head=None if classifier is None else classifier.head,
            )
        lm.save_pretrained(folder, model.config, weights, made.tokenizer, facts, classifier)
        write_atomic(folder / TASKS, tasks_json(made.specs))

    return write


def tasks_json(specs: Mapping[str, TaskSpec]) -> str:
    """Return the tasks, with the labels found, as the file in run and checkpoints has them."""
    return json.dumps([spec.model_dump(mode="json") for spec in specs.values()], indent=1, ensure_ascii=False) + "\n"


def resolved(settings: FinetuneSettings, made: Materials, device_context: parallel.DeviceContext) -> FinetuneSettings:
    """Write every auto down; evaluations and checkpoints come once an epoch where no step is named."""
    rows = max(1, round(settings.finetune.batch_size / device_context.world_size)) * device_context.world_size
    once = _mixture(settings, made, rows).updates_per_epoch
    train = settings.train.model_copy(
        update={name: getattr(settings.train, name) or once for name in ("eval_every", "checkpoint_every")}
    )
    hardware = settings.hardware.model_copy(
        update={
            "device": str(device_context.device) if device_context.world_size == 1 else device_context.device.type,
            "precision": device_context.precision,
            "compile": "on" if device_context.compile else "off",
            "threads": device_context.threads,
        }
    )
    return settings.model_copy(
        update={"train": train, "hardware": hardware, "optim": settings.optim.resolve(device_context.device)}
    )
