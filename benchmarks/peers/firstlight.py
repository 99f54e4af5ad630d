"""Firstlight: the command ``pretrain`` with its data, logging and checkpoints; family gpt2 and AdamW."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shapes import GenerationWorkload, RunOptions, Shape

from firstlight.parallel import adapt_spinning, ensure_allocator


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Pre-train on random words of a vocabulary of the given size, with the command's own code."""
    ensure_allocator()  # restarts this process once, so before torch is imported
    from firstlight.stages import pretrain
    from firstlight.train import periodic

    after = periodic.on_step_end

    def on_step_end(*about: Any) -> Any:
        valid = after(*about)
        step()
        return valid

    periodic.on_step_end = on_step_end  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        kind = _write(text, shape)
        pretrain.pretrain(
            [str(text)],
            out=Path(folder) / "run",
            overrides=[
                f"tokenizer.kind={kind}",
                f"tokenizer.vocab_size={shape.vocab_size}" if kind == "word" else "tokenizer.byte_fallback=false",
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
                f"hardware.compile={'on' if options.compiled else 'off'}",
                f"train.activation_checkpointing={str(options.recompute).lower()}",
                f"hardware.device={options.device}",
                f"hardware.precision={options.precision}",
            ],
        )


def generate(shape: Shape, workload: GenerationWorkload, step: Callable[[], None], options: RunOptions) -> None:
    """Generate with the decoder of ``firstlight generate``, with random weights."""
    ensure_allocator()
    import torch

    from firstlight.lm import GenerateSettings
    from firstlight.lm.decoding import DecodingEngine
    from firstlight.lm.request import Request
    from firstlight.lm.streamer import IdStreamer
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
            vocab_size=shape.vocab_size,
        )
    ).eval()
    model.init_weights()
    if options.int8:
        to_int8(model)
    model.to(options.device)
    if options.precision == "bf16":
        model.to(torch.bfloat16)
    settings = GenerateSettings(temperature=0, max_new_tokens=workload.new)
    with adapt_spinning():
        while True:
            prompts = torch.randint(shape.vocab_size, (workload.batch, workload.prompt)).tolist()
            engine = DecodingEngine(model, max_batch=workload.batch)
            for prompt in prompts:
                engine.add(Request(prompt, settings, IdStreamer(frozenset())))
            for _ in engine.run():
                pass
            step()


def _write(path: Path, shape: Shape) -> str:
    """Write a text whose tokenizer has exactly the shape's vocabulary size, with two special tokens."""
    source, n = random.Random(0), shape.vocab_size - 2
    if shape.vocab_size < 1000:
        letters = [chr(ord("0") + i) for i in range(n)]
        path.write_text("".join([*letters, *source.choices(letters, k=500_000)]), encoding="ascii")
        return "char"
    arguments = [f"w{i}" for i in range(n)]
    path.write_text(" ".join([*arguments, *source.choices(arguments, k=500_000)]), encoding="ascii")
    return "word"
