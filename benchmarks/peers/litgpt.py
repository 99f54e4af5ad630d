"""litgpt: its model (Pythia, the closest to GPT-2) and its loss, with the steps of its pretrain."""

from collections.abc import Callable

import torch
from shapes import RunOptions, Shape


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Train with gradients clipped at 1."""
    from litgpt.model import GPT, Config  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    torch.manual_seed(0)
    config = Config(
        name="",
        block_size=shape.block_size,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        intermediate_size=4 * shape.n_embd,
        parallel_residual=False,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
        bias=True,
    )
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    run = torch.compile(model) if options.compiled else model
    while True:
        x = torch.randint(shape.vocab_size, (shape.batch, shape.block_size + 1))
        loss = chunked_cross_entropy(run(x[:, :-1]), x[:, 1:], chunk_size=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        step()
