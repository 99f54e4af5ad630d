"""The model as a graph of plain operations, for every number of rows and positions, with keys and values handed over.

The blocks are the model's own; what stands here in place of ``GPT.hidden`` asks no question whose answer depends on
a size, since ``torch.export`` would fix the answer for ever.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx.experimental._config as symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from firstlight.errors import UsageError
from firstlight.lm import LM, build_model
from firstlight.model import GPT, ModelConfig

Pair = tuple[Float[Tensor, "B K P D"], Float[Tensor, "B K P D"]]


class Traced(nn.Module):
    """A GPT whose keys and values go in and out, as transformers' own exporters have it.

    Args:
        gpt: in fp32, on the CPU, in evaluation mode; its norms of queries and keys are replaced.
    """

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt
        for block in gpt.blocks:
            for name in ("q_norm", "k_norm"):
                if (norm := getattr(block.attention, name)) is not None:
                    setattr(block.attention, name, _WrittenNorm(norm.weight, norm.eps))

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        past_key_values: Sequence[Pair],
    ) -> tuple[Float[Tensor, "B T V"], list[Pair]]:
        """Return the logits of the token after each position, and the keys and values of all S = P + T positions.

        Args:
            input_ids: T tokens of each row.
            attention_mask: 0 where one of the S positions is padding.
            position_ids: of the T tokens, from 0 on in each row, padding not counted.
            past_key_values: of each layer, for the P positions before; P may be 0.
        """
        gpt = self.gpt
        x = gpt.embed(input_ids)
        if gpt.positions is not None:
            x = x + gpt.positions(position_ids)
        angles = None if gpt.rotary is None else gpt.rotary(position_ids)
        dense = seen(attention_mask, input_ids.shape[1], None)
        banded = seen(attention_mask, input_ids.shape[1], gpt.config.window) if gpt.config.family == "gpt3" else dense
        grown = _Grown(past_key_values)
        for layer, block in enumerate(gpt.blocks):
            x = block(x, angles, banded if gpt.config.is_local(layer) else dense, grown)
        return gpt.logits(gpt.norm(x)), grown.present


class _WrittenNorm(nn.Module):
    """RMSNorm in plain operations: torch's asks whether T is 1 where numbers lie apart, as heads' do."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Float[Tensor, "B T H D"]) -> Float[Tensor, "B T H D"]:
        """Divide by the root of the mean square, then scale."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


class _Grown:
    """The cache of a graph: it changes nothing in place."""

    def __init__(self, past: Sequence[Pair]) -> None:
        self._past = past
        self.present: list[Pair] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        """Return the keys and values of all positions of one layer."""
        before = self._past[layer]
        self.present.append((torch.cat((before[0], k), 2), torch.cat((before[1], v), 2)))
        return self.present[-1]


def seen(attention_mask: Int[Tensor, "B S"], T: int, window: int | None) -> Bool[Tensor, "B 1 T S"]:
    """Return what each of the last T positions sees: itself, and of those before it the ones that are no padding.

    Args:
        attention_mask: 0 for padding.
        T: positions that ask.
        window: positions that a banded layer sees, the current one included.
    """
    S = attention_mask.shape[1]
    keys = torch.arange(S)
    queries = torch.arange(S - T, S)[:, None]
    earlier = keys < queries
    if window is not None:
        earlier = earlier & (keys > queries - window)
    # A row of padding sees itself: softmax over nothing would be NaN and spread.
    return (attention_mask[:, None, None, :] != 0) & earlier | (keys == queries)


def exported(lm: LM) -> ExportedProgram:
    """Return the graph of a model in fp32, for any B, T and P.

    Raises:
        UsageError: the matrices are in int8.
    """
    # Sizes of 0 and 1 are otherwise taken for sizes of their own, which no larger one may then become, or the reverse.
    with torch.no_grad(), quiet(), symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        gpt = plain(lm)
        return torch.export.export(Traced(gpt), (), example(gpt.config), dynamic_shapes=axes(gpt.config, Dim.AUTO))


def example(config: ModelConfig) -> dict[str, Any]:
    """Return inputs of the graph."""
    B, T, P = 2, 3, 4
    # No tensor stands there twice: it would be taken for one input.
    past = [
        tuple(torch.zeros(B, config.kv_heads, P, config.head_dim) for _ in ("key", "value"))
        for _ in range(config.n_layer)
    ]
    return {
        "input_ids": torch.zeros(B, T, dtype=torch.long),
        "attention_mask": torch.ones(B, P + T, dtype=torch.long),
        "position_ids": torch.arange(P, P + T).repeat(B, 1),
        "past_key_values": past,
    }


def axes(config: ModelConfig, size: Any = None) -> dict[str, Any]:
    """Return the axes of each input that may have any size, each with ``size`` or, without one, with a name."""
    tokens = {0: "batch_size", 1: "sequence_length"}
    past = {0: "batch_size", 2: "past_sequence_length"}
    named: dict[str, Any] = {
        "input_ids": tokens,
        "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        "position_ids": tokens,
        "past_key_values": [(past, past)] * config.n_layer,
    }
    return named if size is None else torch.utils._pytree.tree_map_only(str, lambda _: size, named)


def plain(lm: LM) -> GPT:
    """Return the model in fp32 on the CPU, ready to be read off; its weights are shared where they are so already.

    Raises:
        UsageError: the matrices are in int8, of which there is no exact way back.
    """
    if not isinstance(lm.model.embed, nn.Embedding):
        raise UsageError("is in int8, which is not exported", where=lm.source, fix="Load it without int8.")
    weights = {name: tensor.detach().float().cpu() for name, tensor in lm.model.state_dict().items()}
    return build_model(lm.config, weights).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from telling the user about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
