"""nanoGPT: its own model and optimiser from a checkout, stepped as its train.py does, with random batches."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from shapes import Shape, Texts, Ways


def train(shape: Shape, step: Callable[[], None], ways: Ways) -> None:
    """Take steps with gradients clipped at 1; bf16 by autocast, as its train.py has it."""
    model = _model(shape, ways)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), ways.device)
    run = torch.compile(model) if ways.compiled else model
    data = torch.randint(shape.n_vocab, (500_000,))
    while True:
        at = torch.randint(len(data) - shape.block_size, (shape.batch,)).tolist()
        x = torch.stack([data[i : i + shape.block_size] for i in at])
        y = torch.stack([data[i + 1 : i + 1 + shape.block_size] for i in at])
        if ways.device == "cuda":
            x, y = (ids.pin_memory().to("cuda", non_blocking=True) for ids in (x, y))
        with torch.autocast(ways.device, torch.bfloat16, enabled=ways.precision == "bf16"):
            _, loss = run(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ways.device == "cpu":
            loss.item()  # its train.py asks every tenth step, which only a GPU would feel
        step()


def generate(shape: Shape, texts: Texts, step: Callable[[], None], ways: Ways) -> None:
    """Write texts by its own generate, which reads the whole text anew for each token."""
    model = _model(shape, ways).eval()
    while True:
        ids = torch.randint(shape.n_vocab, (texts.batch, texts.prompt), device=ways.device)
        with torch.autocast(ways.device, torch.bfloat16, enabled=ways.precision == "bf16"):
            model.generate(ids, texts.new, top_k=1)
        step()


def _model(shape: Shape, ways: Ways) -> Any:
    """Build its model with its own first weights."""
    assert ways.checkout is not None, "--checkout names nanoGPT's folder"
    sys.path.insert(0, str(ways.checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    return GPT(
        GPTConfig(
            block_size=shape.block_size,
            vocab_size=shape.n_vocab,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            dropout=0.0,
            bias=True,
        )
    ).to(ways.device)
