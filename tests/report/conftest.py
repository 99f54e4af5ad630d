"""A run directory as training leaves it, without training."""

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

RUN_TOML = """\
# Firstlight run demo: every setting, resolved. The same file starts the same run again.

[run]
seed = 1337
corpus = ["python-docs", "zh-novels/红楼梦.txt"]

[tokenizer]
kind = "bpe"
vocab_size = 4096

[model]
family = "modern"
n_layer = 6
n_embd = 256

[optim]
name = "muon"
lr = 0.02
weight_decay = 0.1

[optim.schedule]
name = "wsd"

[train]
steps = 2000
batch_tokens = 8192
sample_prompt = ""

[hardware]
precision = "fp32"
"""

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}

SAMPLES = [
    "e ,t\x07he  ao\x00nrsi\n the the of\u202e abc",
    "The statement is the module of a\nfunction is the name in the same",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n\n"
    'class Stack:\n\t"""Last in, first out."""\n\n'
    "\tdef push(self, item: object) -> None:\n\t\tself.items.append(item)\n",
    "话说宝玉听了，心中暗想：“这妹妹我曾见过的。”"
    "便笑道：“今日只作远别重逢，未为不可。”贾母笑道：“更好，更好，若如此，更相和睦了。”" * 3,
    "x" * 700 + " " + "word " * 400,
    "The ``with`` statement is used to wrap the execution of a block with methods defined by a context manager. "
    "This allows common ``try``...``except``...``finally`` usage patterns to be encapsulated for convenient reuse.\n\n"
    '   with_stmt:          "with" ( "(" with_stmt_contents ","? ")" | with_stmt_contents ) ":" suite\n'
    '   with_item:          expression ["as" target]\n\nThe execution of the statement proceeds as follows:\n\n'
    '1. The context expression is evaluated to obtain a context manager.\n\n2. The context manager\'s "__enter__()" '
    "is loaded for later use.\n\n" * 4,
]


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def metrics(steps: int = 2000, log_every: int = 10, eval_every: int = 100) -> list[dict[str, Any]]:
    """Curves like those of a real run, with two losses that are not finite."""
    dice = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in [1, *range(log_every, steps + 1, log_every)]:
        share = step / steps
        loss = 2.2 + 6.1 * math.exp(-9 * share) + 0.9 * math.exp(-2 * share) + dice.gauss(0, 0.05)
        line: dict[str, Any] = {
            "step": step,
            "tokens": step * 8192,
            "seconds": round(step * 0.31, 3),
            "loss": loss,
            "lr": 0.02 * min(1, (1 - share) / 0.4),
            "grad_norm": math.exp(dice.gauss(-0.4, 0.25)),
            "tokens_per_second": round(26_000 + dice.gauss(0, 700), 1),
            "memory_bytes": 760_352_768,
            "mfu": round(0.41 + dice.gauss(0, 0.01), 4),
        }
        if step in (900, 910):
            line.update(loss="NaN", grad_norm="Infinity")
        lines.append(line)
        if step % eval_every == 0:
            valid = 2.3 + 6.0 * math.exp(-9 * share) + 0.9 * math.exp(-2 * share) + 0.35 * max(0, share - 0.75)
            lines.append(
                {
                    "step": step,
                    "tokens": step * 8192,
                    "seconds": round(step * 0.31, 3),
                    "valid_loss": valid,
                    "perplexity": math.exp(valid),
                    "bits_per_byte": valid * 0.53,
                }
            )
    return lines


EVENTS = [
    {"time": "2026-03-01T10:04:11", "step": 620, "kind": "resume", "text": "going on from step-00000620"},
    {"time": "2026-03-01T10:04:11", "step": 620, "kind": "setting", "text": "train.steps changed from 1000 to 2000"},
    {
        "time": "2026-03-01T10:06:02",
        "step": 900,
        "kind": "not-finite",
        "text": "update skipped: loss nan, gradient norm inf; documents: python-docs:12, zh-novels/红楼梦.txt:3",
    },
    {
        "time": "2026-03-01T10:09:40",
        "step": 1404,
        "kind": "rollback",
        "text": "loss spike: rolled back to checkpoint step-00001300, skipping rows 44800 to 45312: loss 9.214, "
        "gradient norm 31.2; documents: zh-novels/红楼梦.txt:88",
    },
]


def hash_of(letter: str) -> str:
    return letter * 64


def write_run(run: Path, *, samples: list[str] | None = None, lines: list[dict[str, Any]] | None = None) -> Path:
    """Write every file of a finished run."""
    for name in ("data", "tokenizer", "checkpoints/step-00001700", "checkpoints/step-00002000"):
        (run / name).mkdir(parents=True)
    texts = SAMPLES if samples is None else samples
    split = {"first_token": 0, "first_document": 0}
    manifest = {
        "format": 1,
        "fingerprint": hash_of("b"),
        "tokenizer": hash_of("a"),
        "vocab_size": 4096,
        "valid_ratio": 0.1,
        "train_documents": 573,
        "train_tokens": 4_153_993,
        "train_bytes": 14_453_360,
        "valid_documents": 60,
        "valid_tokens": 460_800,
        "valid_bytes": 1_612_757,
        "sources": [
            {
                "name": "python-docs",
                "train": {**split, "tokens": 153_993, "documents": 73, "bytes": 453_360},
                "valid": {**split, "tokens": 10_800, "documents": 6, "bytes": 32_757},
            },
            {
                "name": "zh-novels/红楼梦.txt",
                "train": {**split, "tokens": 4_000_000, "documents": 500, "bytes": 14_000_000},
                "valid": {**split, "tokens": 450_000, "documents": 54, "bytes": 1_580_000},
            },
        ],
    }
    tokenizer = {
        "added_tokens": [{"content": "<|endoftext|>"}],
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
    }
    environment = {
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "platform": "Linux-6.1-x86_64",
        "device": "cpu",
        "device_name": "AMD EPYC 9554",
        "precision": "fp32",
        "compile": False,
        "threads": 2,
        "cores": 2,
        "processes": 1,
        "allocator": "tuned by Firstlight",
        "reasons": {"precision": "auto: cpu is exact in fp32"},
    }
    tables = {
        "data/manifest.json": manifest,
        "tokenizer/tokenizer.json": tokenizer,
        "environment.json": environment,
        "contract.json": {
            "tokenizer": hash_of("a"),
            "store": hash_of("b"),
            "settings": hash_of("c"),
            "code": hash_of("d"),
        },
        "evaluation.json": {
            "valid": {
                "loss": 2.5,
                "perplexity": 12.18,
                "bits_per_byte": 1.325,
                "n_tokens": 460_800,
                "n_bytes": 1_612_757,
            },
            "baselines": {
                "uniform": {"loss": 8.3178, "perplexity": 4096.0, "bits_per_byte": 3.43},
                "unigram": {"loss": 6.41, "perplexity": 607.9, "bits_per_byte": 2.64},
            },
            "parameters": 6_885_120,
        },
        "state.json": {
            "status": "finished",
            "stopped_by": "steps",
            "step": 2000,
            "seconds": 641.2,
            "result": {"tokens": 16_384_000},
        },
    }
    for name, table in tables.items():
        (run / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    for name in ("step-00001700", "step-00002000"):
        (run / "checkpoints" / name / "config.json").write_text(json.dumps(CONFIG))
    (run / "run.toml").write_text(RUN_TOML, encoding="utf-8")
    (run / "best").write_text("step-00001700\n")
    (run / "latest").write_text("step-00002000\n")
    write_lines(run / "metrics.jsonl", metrics() if lines is None else lines)
    write_lines(run / "events.jsonl", EVENTS)
    write_lines(
        run / "samples.jsonl",
        [
            {"step": 2000 * (i + 1) // len(texts), "prompt": "The " if i % 2 else "", "text": t}
            for i, t in enumerate(texts)
        ],
    )
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, two not-finite steps and a rollback behind it."""
    return write_run(tmp_path / "demo")


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """``write_run``: run directories with samples or metrics of one's own."""
    return write_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run once, to be copied and left as it is."""
    return write_run(tmp_path_factory.mktemp("whole") / "run")
