"""A task that tiny models learn, and tokenizers and models for it."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from firstlight.finetuning import Example, TaskSpec
from firstlight.model import GPT, ModelConfig
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

GOOD = ["fine", "lovely", "bright", "warm"]
BAD = ["dull", "grim", "cold", "flat"]


def sentence(source: random.Random, words: list[str]) -> str:
    return f"the {source.choice(['day', 'film', 'song'])} was {source.choice(words)} and {source.choice(words)}"


def examples(n: int, seed: int = 0) -> list[Example]:
    source = random.Random(seed)
    return [Example((sentence(source, (BAD, GOOD)[i % 2]),), i % 2, f"x:{i}") for i in range(n)]


def write_task(folder: Path, n: int = 80, name: str = "mood") -> Path:
    """Write a TASK.toml and its rows; return the TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, count, seed in (("train", n, 0), ("valid", 20, 1), ("test", 20, 2)):
        lines = [f"{'good' if e.label else 'bad'}\t{e.texts[0]}" for e in examples(count, seed)]
        (folder / f"{side}.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n", encoding="utf-8")
    toml = folder / f"{name}.toml"
    toml.write_text(
        'kind = "classification"\n[data]\ntrain = "train.tsv"\nvalid = "valid.tsv"\ntest = "test.tsv"\n'
        '[columns]\ntext = "text"\nlabel = "label"\n',
        encoding="utf-8",
    )
    return toml


def spec(kind: str = "classification", **more: object) -> TaskSpec:
    columns = {
        "classification": {"text": 0, "label": 1},
        "regression": {"text": 0, "label": 1},
        "pair": {"text": 0, "text2": 1, "label": 2},
        "similarity": {"text": 0, "text2": 1, "label": 2},
        "multiple_choice": {"question": 0, "choices": [1, 2], "label": 3},
        "token_classification": {"tokens": 0, "label": 1},
        "text": {"text": 0},
        "chat": {"messages": "messages"},
    }[kind]
    labels = (
        {}
        if kind in ("regression", "similarity", "multiple_choice", "text", "chat")
        else {"label_values": ["a", "b"], "labels": ["a", "b"]}
    )
    return TaskSpec.model_validate(
        {"name": "t", "kind": kind, "data": {"train": "x"}, "columns": columns, **labels, **more}
    )


def tokenizer() -> Tokenizer:
    source = random.Random(3)
    text = "\n".join(sentence(source, GOOD + BAD) for _ in range(300))
    return train([Document(text, "x")], TokenizerSettings(vocab_size=300))


def like_llama(scheme: str) -> Tokenizer:
    """A tokenizer that begins texts with a token that does not end them."""
    inner = Inner(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    inner.train_from_iterator(
        ["the day was fine and the film was dull: user\nhi, system"] * 9,
        trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False),
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(inner, eot="</s>", unk="<unk>", extra_config={"bos_token": "<s>"})


def model(vocab_size: int, family: str = "gpt2", **more: object) -> GPT:
    config = ModelConfig.model_validate(
        {
            "family": family,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "block_size": 48,
            "vocab_size": vocab_size,
            "init_std": 0.2,
            **more,
        }
    )
    made = GPT(config)
    made.init_weights(torch.Generator().manual_seed(1))
    return made
