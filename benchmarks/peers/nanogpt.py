"""nanoGPT: its own model and optimiser from a checkout, stepped as its train.py does, with random batches."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shapes import Shape, Texts


def train(shape: Shape, step: Callable[[], None], *, checkout: Path | None, compiled: bool) -> None:
    """Take steps with gradients clipped at 1."""
    model = _model(shape, checkout)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    run = torch.compile(model) if compiled else model
    data = torch.randint(shape.n_vocab, (500_000,))
    while True:
        at = torch.randint(len(data) - shape.block_size, (shape.batch,)).tolist()
        x = torch.stack([data[i : i + shape.block_size] for i in at])
        y = torch.stack([data[i + 1 : i + 1 + shape.block_size] for i in at])
        _, loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        step()


def generate(shape: Shape, texts: Texts, step: Callable[[], None], *, checkout: Path | None, compiled: bool) -> None:
    """Write texts by its own generate, which reads the whole text anew for each token."""
    del compiled
    model = _model(shape, checkout).eval()
    while True:
        model.generate(torch.randint(shape.n_vocab, (texts.batch, texts.prompt)), texts.new, top_k=1)
        step()


def _model(shape: Shape, checkout: Path | None) -> Any:
    """Build its model with its own first weights."""
    assert checkout is not None, "--checkout names nanoGPT's folder"
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return GPT(
        GPTConfig(
            block_size=shape.block_size, vocab_size=shape.n_vocab, n_layer=shape.n_layer, n_head=shape.n_head,
            n_embd=shape.n_embd, dropout=0.0, bias=True,
        )
    )  # fmt: skip
