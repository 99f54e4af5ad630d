"""Trace the model as a graph of plain operations by ``torch.export``, for the ONNX and .pt2 exporters.

Batch size, sequence length and cached length are dynamic; keys and values are inputs and outputs. The blocks are the
model's own. ``ExportableGPT`` replaces ``GPT.hidden`` without branches on a size, which ``torch.export`` would fix to
the branch that the example takes.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes_config
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from firstlight.errors import UsageError
from firstlight.lm import LM, build_model
from firstlight.model import GPT, ModelConfig

KeyValue = tuple[Float[Tensor, "B K P D"], Float[Tensor, "B K P D"]]


class ExportableGPT(nn.Module):
    """A GPT with keys and values as inputs and outputs, with the names of Hugging Face's exporter.

    Args:
        gpt: in fp32, on the CPU, in evaluation mode; its query and key norms are replaced.
    """

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt
        for block in gpt.blocks:
            for name in ("q_norm", "k_norm"):
                if (norm := getattr(block.attention, name)) is not None:
                    setattr(block.attention, name, _DecomposedRMSNorm(norm.weight, norm.eps))

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        past_key_values: Sequence[KeyValue],
    ) -> tuple[Float[Tensor, "B T V"], list[KeyValue]]:
        """Compute the logits of the next token at each position, and the keys and values of all S = P + T positions.

        Args:
            input_ids: T tokens of each row.
            attention_mask: 0 where one of the S positions is padding.
            position_ids: of the T tokens, from 0 in each row, without padding.
            past_key_values: of each layer, for the P previous positions; P may be 0.
        """
        gpt = self.gpt
        x = gpt.positions.embed(gpt.embed(input_ids), position_ids)
        rotation = gpt.positions.rotation(position_ids)
        T = input_ids.shape[1]
        dense = causal_mask(attention_mask, T, None)
        local = causal_mask(attention_mask, T, gpt.config.window) if gpt.config.family == "gpt3" else dense
        cache = _FunctionalCache(past_key_values)
        for layer, block in enumerate(gpt.blocks):
            x = block(x, rotation, [local if gpt.config.is_local(layer) else dense], cache)
        return gpt.logits(gpt.norm(x)), cache.present


class _DecomposedRMSNorm(nn.Module):
    """RMSNorm in plain operations: torch's own branches on T being 1 if its input is not contiguous, as heads are."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Float[Tensor, "B T H D"]) -> Float[Tensor, "B T H D"]:
        """Divide by the root mean square, then scale."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


class _FunctionalCache:
    """A key-value cache that concatenates instead of writing in place."""

    def __init__(self, past: Sequence[KeyValue]) -> None:
        self._past = past
        self.present: list[KeyValue] = []

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, masks: Sequence[Tensor | None], scale: float
    ) -> Tensor:
        """Append keys and values of one layer; attend to those of all positions."""
        past_k, past_v = self._past[layer]
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        self.present.append((k, v))
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=masks[0], scale=scale, enable_gqa=k.shape[1] != q.shape[1]
        )


def causal_mask(attention_mask: Int[Tensor, "B S"], T: int, window: int | None) -> Bool[Tensor, "B 1 T S"]:
    """Build the mask of the positions that each of the last T positions attends to: itself, and earlier ones.

    Args:
        attention_mask: 0 for padding.
        T: query positions.
        window: size of the window in a banded layer, including the current position.
    """
    S = attention_mask.shape[1]
    keys = torch.arange(S)
    queries = torch.arange(S - T, S)[:, None]
    earlier = keys < queries
    if window is not None:
        earlier = earlier & (keys > queries - window)
    # A padding position attends to itself: softmax over nothing would be NaN, and spread.
    return (attention_mask[:, None, None, :] != 0) & earlier | (keys == queries)


def export_program(lm: LM) -> ExportedProgram:
    """Trace a model in fp32, for any B, T and P.

    Raises:
        UsageError: the weights are in int8.
    """
    # Otherwise sizes of 0 and 1 in the example are specialised, and cannot be dynamic.
    with torch.no_grad(), suppress_warnings(), symbolic_shapes_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        gpt = fp32_model(lm)
        return torch.export.export(
            ExportableGPT(gpt),
            (),
            example_inputs(gpt.config),
            dynamic_shapes=dynamic_axes(gpt.config, Dim.AUTO),
        )


def example_inputs(config: ModelConfig) -> dict[str, Any]:
    """Build inputs of the graph for tracing."""
    B, T, P = 2, 3, 4
    # All tensors are distinct: one that occurs twice would be taken for a single input.
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


def dynamic_axes(config: ModelConfig, size: Any = None) -> dict[str, Any]:
    """Return the dynamic axes of each input, each with its name, or with ``size`` if given."""
    tokens = {0: "batch_size", 1: "sequence_length"}
    past = {0: "batch_size", 2: "past_sequence_length"}
    axes: dict[str, Any] = {
        "input_ids": tokens,
        "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        "position_ids": tokens,
        "past_key_values": [(past, past)] * config.n_layer,
    }
    return axes if size is None else torch.utils._pytree.tree_map_only(str, lambda _: size, axes)


def fp32_model(lm: LM) -> GPT:
    """Return the model in fp32 on the CPU, in evaluation mode; it shares weights that are so already.

    Raises:
        UsageError: the weights are in int8, from which fp32 cannot be restored.
    """
    if not isinstance(lm.model.embed, nn.Embedding):
        raise UsageError("a model in int8 cannot be exported", where=lm.source, fix="Load it without int8.")
    weights = {name: tensor.detach().float().cpu() for name, tensor in lm.model.state_dict().items()}
    return build_model(lm.config, weights).eval()


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress the warnings and log messages of exporters about their internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
