"""A run small enough for a test: eleven letters in an order that can be learnt, a GPT of two layers."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from firstlight import optim, parallel
from firstlight.model import GPT, ModelConfig, fused_splits
from firstlight.optim import AdamW, Muon
from firstlight.parallel import DeviceContext
from firstlight.store import Batches, DataSettings, TokenStore, Windows, prepare
from firstlight.tokenizer.unknown import nothing_unknown
from firstlight.train import (
    CheckpointManager,
    FitResult,
    Limits,
    LossModule,
    RunLog,
    TrainContext,
    TrainSettings,
    TrainState,
    ValidationResult,
    fit,
    restore,
    validate,
)
from firstlight.types import Document, EncodedTexts

CPU = DeviceContext(torch.device("cpu"), "fp32", False, 1, 0, 1, {})
T, ROWS = 16, 4
QUIET: dict[str, Any] = {"trackers": [], "log_every": 1, "eval_every": 0, "checkpoint_every": 0, "sample_every": 0}


class Letters:
    """An encoder: a to k are 0 to 10, end-of-text is 11."""

    vocab_size = 12
    eot_id = 11
    hash = "letters"

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int32) - ord("a")
        return ids, np.array([len(t) for t in texts], np.int64)

    unknown_id, has_unknown = None, False

    def encode_counted(self, texts: list[str]) -> EncodedTexts:
        return nothing_unknown(*self.encode_batch(texts))

    def split_point(self, text: str) -> int:
        return len(text)

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * 11 + [0], np.int32)


class Source:
    """Sixty documents of unequal length, in which each letter mostly follows from the one before."""

    name = "letters"
    n_bytes = 0

    def documents(self) -> Iterator[Document]:
        random = np.random.default_rng(0)
        for number in range(60):
            letters = [int(random.integers(11))]
            for _ in range(int(random.integers(5, 120))):
                jumps = random.random() < 0.05
                letters.append(int(random.integers(11)) if jumps else (3 * letters[-1] + 1) % 11)
            yield Document("".join(chr(97 + i) for i in letters), f"doc-{number}")

    def fingerprint(self) -> str:
        return "letters"


def make_store(folder: Path) -> TokenStore:
    return prepare(folder, [Source()], Letters(), DataSettings(), seed=0, extra={})


def make_model(dropout: float = 0.0) -> GPT:
    config = ModelConfig(
        family="gpt2", n_layer=2, n_head=2, n_embd=16, block_size=T, vocab_size=12, dropout=dropout, init_std=0.1
    )
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def make_state(settings: AdamW | Muon | None = None, *, dropout: float = 0.0, average: float = 0.0) -> TrainState:
    model = make_model(dropout)
    state = TrainState(
        model, optim.build_optimizer(model.named_parameters(), settings or AdamW(), fused_splits=fused_splits(model))
    )
    if average:
        state.ema = optim.ExponentialMovingAverage(model.named_parameters(), average)
    return state


def write_model(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))


def make_context(
    run: Path, store: TokenStore, *, settings: AdamW | Muon | None = None, dropout: float = 0.0, **kw: Any
) -> TrainContext:
    """Wire a run; ``kw`` are fields of TrainContext, and settings of training for the rest."""
    fields = {
        k: kw.pop(k)
        for k in (
            "batches",
            "sample",
            "device_context",
            "evaluate",
            "process_start",
            "checkpoints",
            "rows",
            "starts_from_model",
        )
        if k in kw
    }
    train = TrainSettings(**{**QUIET, **kw})
    settings = settings or AdamW(lr=0.01)
    device_context = fields.setdefault("device_context", CPU)
    state = make_state(settings, dropout=dropout, average=train.ema_decay)
    rows = fields.setdefault("rows", ROWS)
    state.counters.micro_batch = (
        train.micro_batch if isinstance(train.micro_batch, int) else rows // device_context.world_size
    )

    def restart() -> None:
        fresh = make_state(settings, dropout=dropout, average=train.ema_decay)
        state.model.load_state_dict(fresh.model.state_dict())
        state.optimizer = optim.build_optimizer(
            state.model.named_parameters(), settings, fused_splits=fused_splits(state.model)
        )
        if train.ema_decay:
            state.ema = optim.ExponentialMovingAverage(state.model.named_parameters(), train.ema_decay)
        parallel.seed_everything(5 + device_context.rank)

    parallel.seed_everything(5 + device_context.rank)
    batches = Batches(store, block_size=T, seed=0)
    run.mkdir(parents=True, exist_ok=True)
    limits = Limits.resolve(
        train,
        step_tokens=rows * T,
        epoch_tokens=batches.windows_per_epoch * T,
        parameters=sum(p.numel() for p in state.model.parameters()),
    )
    defaults: dict[str, Any] = {
        "batches": batches,
        "evaluate": valid_loss(state, store, device_context),
        "sample": None,
        "checkpoints": CheckpointManager(run, write_model, train.keep_last),
        "process_start": time.perf_counter(),
    }
    module = parallel.wrap_ddp(LossModule(state.model), device_context)
    return TrainContext(
        run=run,
        state=state,
        module=module,
        optim=settings,
        train=train,
        limits=limits,
        log=RunLog(run, active=device_context.rank == 0, trackers=train.trackers),
        compatibility={"tokenizer": "letters"},
        restart=restart,
        flops_per_token=1e5,
        peak_flops=1e12,
        **{**defaults, **fields},
    )


def valid_loss(
    state: TrainState, store: TokenStore, device_context: parallel.DeviceContext
) -> Callable[[int], ValidationResult]:
    windows = Windows(store.valid, block_size=T)
    return lambda rows: validate(state.model, windows, Letters().byte_lengths(), device_context, rows)


def go_on(ctx: TrainContext) -> FitResult:
    """Take up the newest checkpoint, if there is one, and train."""
    newest = ctx.checkpoints.find_latest(ctx.device_context)
    if newest is not None:
        restore(newest, ctx.state, ctx.device_context)
    ctx.log.truncate(ctx.counters.step if newest is not None else -1)
    return fit(ctx)


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    path = run / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def curve(run: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what depends on the clock or the machine."""
    timed = ("seconds", "tokens_per_second", "memory_bytes", "mfu")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(run)]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint by file and name."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{f.name}/{k}": v for f in files for k, v in load_file(f).items()}


def differing(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> list[str]:
    """Return the names under which two tables of tensors differ, by bits."""
    return sorted(k for k in one.keys() | two.keys() if k not in one or k not in two or not _same(one[k], two[k]))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def held(state: TrainState) -> dict[str, torch.Tensor]:
    """Return copies of all tensors of a training state."""
    own = {**state.model.state_dict(), **state.trainer_tensors()}
    return {k: v.detach().clone() for k, v in own.items()}
