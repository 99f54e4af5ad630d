"""nanoGPT: model and optimizer of a checkout, with the steps of its train.py and random batches."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from shapes import GenerationWorkload, RunOptions, Shape


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Train with gradients clipped at 1, and bf16 by autocast, as in its train.py."""
    model = _model(shape, options)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), options.device)
    run = torch.compile(model) if options.compiled else model
    data = torch.randint(shape.vocab_size, (500_000,))
    while True:
        at = torch.randint(len(data) - shape.block_size, (shape.batch,)).tolist()
        x = torch.stack([data[i : i + shape.block_size] for i in at])
        y = torch.stack([data[i + 1 : i + 1 + shape.block_size] for i in at])
        if options.device == "cuda":
            x, y = (ids.pin_memory().to("cuda", non_blocking=True) for ids in (x, y))
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            _, loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if options.device == "cpu":
            loss.item()  # train.py does this every tenth step, which only matters on a GPU
        step()


def generate(shape: Shape, workload: GenerationWorkload, step: Callable[[], None], options: RunOptions) -> None:
    """Generate with its own method, which has no key-value cache."""
    model = _model(shape, options).eval()
    while True:
        ids = torch.randint(shape.vocab_size, (workload.batch, workload.prompt), device=options.device)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            model.generate(ids, workload.new, top_k=1)
        step()


def _model(shape: Shape, options: RunOptions) -> Any:
    """Build the model with its own initialization."""
    assert options.checkout is not None, "pass nanoGPT's folder as --checkout"
    sys.path.insert(0, str(options.checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    return GPT(
        GPTConfig(
            block_size=shape.block_size,
            vocab_size=shape.vocab_size,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            dropout=0.0,
            bias=True,
        )
    ).to(options.device)
