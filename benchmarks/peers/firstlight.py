"""Firstlight: the command ``pretrain`` itself, with its data, log and checkpoints; gpt2 family and AdamW."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shapes import Shape, Texts, Ways

from firstlight.parallel.allocator import ensure_allocator


def train(shape: Shape, step: Callable[[], None], ways: Ways) -> None:
    """Pre-train on random words, as many as the vocabulary has, through the command's own way."""
    ensure_allocator()  # starts this command again, once: before torch is imported
    from firstlight.stages import pretrain
    from firstlight.train import periodic

    after = periodic.after_step

    def after_step(*about: Any) -> Any:
        valid = after(*about)
        step()
        return valid

    periodic.after_step = after_step  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        kind = _write(text, shape)
        pretrain.pretrain(
            [str(text)],
            out=Path(folder) / "run",
            overrides=[
                f"tokenizer.kind={kind}",
                f"tokenizer.vocab_size={shape.n_vocab if kind == 'word' else 'auto'}",
                "model.family=gpt2",
                f"model.n_layer={shape.n_layer}",
                f"model.n_head={shape.n_head}",
                f"model.n_embd={shape.n_embd}",
                f"model.block_size={shape.block_size}",
                f"train.batch_tokens={shape.tokens}",
                "train.steps=1000000",
                "train.log_every=10",
                "train.eval_every=0",
                "train.sample_every=0",
                "train.checkpoint_every=1000",
                "optim.name=adamw",
                f"hardware.compile={'on' if ways.compiled else 'off'}",
                f"train.activation_checkpointing={str(ways.recompute).lower()}",
                f"hardware.device={ways.device}",
                f"hardware.precision={ways.precision}",
            ],
        )


def generate(shape: Shape, texts: Texts, step: Callable[[], None], ways: Ways) -> None:
    """Write texts by the decoding of ``firstlight generate``, from random weights."""
    ensure_allocator()
    import torch

    from firstlight.lm import GenerateSettings
    from firstlight.lm.decoding import BatchDecoder
    from firstlight.lm.sampling import sample_tokens
    from firstlight.model import GPT, ModelConfig
    from firstlight.model.quantized import to_int8

    torch.manual_seed(0)
    model = GPT(
        ModelConfig(
            family="gpt2",
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            block_size=shape.block_size,
            vocab_size=shape.n_vocab,
        )
    ).eval()
    model.init_weights()
    if ways.int8:
        to_int8(model)
    model.to(ways.device)
    if ways.precision == "bf16":
        model.to(torch.bfloat16)
    settings = GenerateSettings(temperature=0)
    while True:
        prompts = torch.randint(shape.n_vocab, (texts.batch, texts.prompt)).tolist()
        decoding = BatchDecoder(model, prompts, texts.new)
        for _ in range(texts.new):
            decoding.append(sample_tokens(decoding.next_logits(), settings, None).tolist())
        step()


def _write(path: Path, shape: Shape) -> str:
    """Write a text whose tokenizer has exactly the shape's vocabulary; two of it are special."""
    source, n = random.Random(0), shape.n_vocab - 2
    if shape.n_vocab < 1000:
        letters = [chr(ord("0") + i) for i in range(n)]
        path.write_text("".join([*letters, *source.choices(letters, k=500_000)]), encoding="ascii")
        return "char"
    words = [f"w{i}" for i in range(n)]
    path.write_text(" ".join([*words, *source.choices(words, k=500_000)]), encoding="ascii")
    return "word"
