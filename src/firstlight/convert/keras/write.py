"""Export to a .keras file of built-in layers only, which Keras 3 loads without Firstlight on every backend.

The model takes ids (B, T), T up to the block size, and returns logits (B, T, V). It has no key-value cache and no
dropout. The archive also has the config.json and the tokenizer, in a folder that Keras ignores; they are lost when
Keras saves the model again.
"""

import contextlib
import importlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.export_graph import fp32_model, suppress_warnings
from firstlight.convert.formats import Exporter
from firstlight.convert.keras.names import FOLDER, layer_name, to_keras
from firstlight.lm import LM, text_files
from firstlight.model import GPT, RotaryPositions


def write(lm: LM, path: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a .keras file.

    Raises:
        UsageError: the weights are in int8.
    """
    del dtype
    gpt = fp32_model(lm)
    with suppress_warnings(), torch.no_grad():
        model = _KerasBuilder(import_keras(), gpt).build()
        model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in text_files(lm.config, lm.tokenizer, lm.generation).items():
            archive.writestr(f"{FOLDER}/{name}", text)
    return {"model": path}


def import_keras() -> Any:
    """Import Keras with the torch backend, unless it is loaded already; the user's settings are not read or written."""
    if sys.modules.get("keras") is not None:
        return sys.modules["keras"]
    with (
        tempfile.TemporaryDirectory() as home,
        _environment(KERAS_BACKEND="torch", KERAS_HOME=home),
        suppress_warnings(),
    ):
        return importlib.import_module("keras")


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _KerasBuilder:
    """Builds the model in Keras's layers; each layer has the name of our module."""

    def __init__(self, keras: Any, gpt: GPT) -> None:
        self._keras, self._ops, self._gpt, self._config = keras, keras.ops, gpt, gpt.config

    def build(self) -> Any:
        """Build the model and set its weights."""
        c, ops = self._config, self._ops
        ids = self._keras.Input((None,), dtype="int32", name="ids")
        positions = ops.cumsum(ops.ones_like(ids), axis=1) - 1  # (B, T), since T is unknown in the graph
        embed = self._layer("ReversibleEmbedding", "embed", c.vocab_size, c.n_embd)
        x = embed(ids)
        if not c.rotary:
            x = x + self._layer("Embedding", "positions", c.block_size, c.n_embd)(positions)
        angles = self._angles(positions) if c.rotary else None
        distance = ops.expand_dims(positions, 2) - ops.expand_dims(positions, 1)  # (B, T, T)
        dense = local = ops.expand_dims(distance >= 0, 1)
        if c.family == "gpt3":
            local = ops.expand_dims(ops.logical_and(distance >= 0, distance < c.window), 1)
        for layer in range(c.n_layer):
            x = self._block(f"blocks.{layer}", x, angles, local if c.is_local(layer) else dense)
        if c.defaults.norm_position == "pre":
            x = self._norm("norm")(x)
        logits = embed(x, reverse=True) if c.tied else self._layer("Dense", "head", c.vocab_size, use_bias=False)(x)
        model = self._keras.Model(ids, logits, name="firstlight")
        for name, arrays in self._arrays().items():
            model.get_layer(name).set_weights([array.numpy() for array in arrays])
        return model

    def _arrays(self) -> dict[str, list[Tensor]]:
        arrays = to_keras(self._config, self._gpt.state_dict())
        if isinstance(self._gpt.positions, RotaryPositions):
            arrays |= {"rotary_cos": [self._gpt.positions.cos], "rotary_sin": [self._gpt.positions.sin]}
        return arrays

    def _layer(self, kind: str, module: str, *sizes: Any, **options: Any) -> Any:
        return getattr(self._keras.layers, kind)(*sizes, name=layer_name(module), dtype="float32", **options)

    def _norm(self, module: str) -> Any:
        kind = "LayerNormalization" if self._config.choice("norm") == "layernorm" else "RMSNormalization"
        return self._layer(kind, module, epsilon=self._config.eps)

    def _angles(self, positions: Any) -> tuple[Any, Any]:
        """Look up cosines and sines (B, T, 1, D) in our tables, so that they are equal bit for bit."""
        c = self._config
        tables = [
            self._layer("Embedding", f"rotary.{name}", c.block_size, c.head_dim, trainable=False)
            for name in ("cos", "sin")
        ]
        cos, sin = (self._ops.expand_dims(table(positions), 2) for table in tables)
        return cos, sin

    def _block(self, module: str, x: Any, angles: tuple[Any, Any] | None, mask: Any) -> Any:
        norm1, norm2 = self._norm(f"{module}.norm1"), self._norm(f"{module}.norm2")
        if self._config.defaults.norm_position == "post":
            x = norm1(x + self._attention(f"{module}.attention", x, angles, mask))
            return norm2(x + self._mlp(f"{module}.mlp", x))
        x = x + self._attention(f"{module}.attention", norm1(x), angles, mask)
        return x + self._mlp(f"{module}.mlp", norm2(x))

    def _attention(self, module: str, x: Any, angles: tuple[Any, Any] | None, mask: Any) -> Any:
        c, ops = self._config, self._ops
        biases = {"q": None, "out": None} if c.rotary else {"q": None if c.family == "gpt3" else "hd", "out": "c"}

        def heads(part: str, n: int) -> Any:
            shape = (None, n, c.head_dim)
            return self._layer("EinsumDense", f"{module}.{part}", "btc,chd->bthd", shape, bias_axes=biases["q"])(x)

        q, k, v = heads("q", c.n_head), heads("k", c.kv_heads), heads("v", c.kv_heads)  # (B, T, H or K, D)
        if c.defaults.qk_norm:
            q, k = self._norm(f"{module}.q_norm")(q), self._norm(f"{module}.k_norm")(k)
        if angles is not None:
            q, k = self._rotate(q, *angles), self._rotate(k, *angles)
        if c.kv_heads != c.n_head:
            k, v = (ops.repeat(part, c.n_head // c.kv_heads, axis=2) for part in (k, v))
        y = ops.dot_product_attention(q, k, v, mask=mask, scale=c.attention_scale)
        out = self._layer("EinsumDense", f"{module}.out", "bthd,hdc->btc", (None, c.n_embd), bias_axes=biases["out"])
        return out(y)

    def _rotate(self, x: Any, cos: Any, sin: Any) -> Any:
        first, second = self._ops.split(x, 2, axis=-1)
        return x * cos + self._ops.concatenate([second, first], axis=-1) * sin

    def _mlp(self, module: str, x: Any) -> Any:
        c, ops, has_bias = self._config, self._ops, not self._config.gated
        up = self._layer("Dense", f"{module}.up", c.ffn_dim, use_bias=has_bias)(x)
        if c.gated:
            hidden = ops.silu(self._layer("Dense", f"{module}.gate", c.ffn_dim, use_bias=False)(x)) * up
        else:
            hidden = ops.gelu(up, approximate=c.choice("mlp") == "gelu_tanh")
        return self._layer("Dense", f"{module}.down", c.n_embd, use_bias=has_bias)(hidden)


EXPORTER = Exporter(title="Keras", write=write, extra="keras", suffix=".keras")
