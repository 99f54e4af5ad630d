"""A model as a Keras 3 file of built-in layers alone, so that Keras loads it without a line of ours, on any backend.

The model takes ids (B, T), T up to the block size, and returns logits (B, T, V). It has no cache, and no dropout:
who trains it on in Keras adds that. The config.json and the tokenizer lie in the same archive, where Keras does not
look; a file that Keras has saved again lacks them.
"""

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.beside import texts
from firstlight.convert.export_graph import plain, quiet
from firstlight.convert.keras_names import FOLDER, layer_name, to_keras
from firstlight.errors import MissingExtra, UsageError
from firstlight.files import apply_umask, storage_errors, temporary_path
from firstlight.lm import LM
from firstlight.model import GPT


def write(lm: LM, path: Path) -> dict[str, str]:
    """Write a .keras file.

    Args:
        lm: the model; heads of tasks are left out.
        path: the file.

    Raises:
        UsageError: the matrices are in int8, or the file's name has another ending.
        MissingExtra: Keras is not installed.
        StorageError: the disk is full or read-only.
    """
    if path.suffix != ".keras":
        raise UsageError("has an ending that Keras does not expect", where=path, expected=".keras")
    gpt = plain(lm)
    with quiet(), torch.no_grad():
        model = _Writer(keras(), gpt).model()
    temporary = temporary_path(path)
    with storage_errors(path):
        try:
            temporary.mkdir(parents=True)
            file = temporary / path.name  # in a folder, as Keras wants the ending
            with quiet():
                model.save(file)
            with zipfile.ZipFile(file, "a") as archive:
                for name, text in texts(lm).items():
                    archive.writestr(f"{FOLDER}/{name}", text)
            apply_umask(file)
            file.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return {"model": str(path)}


def keras() -> Any:
    """Import Keras, on torch unless it is loaded already, without its reading or writing the user's own settings."""
    if sys.modules.get("keras") is not None:
        return sys.modules["keras"]
    with tempfile.TemporaryDirectory() as home, _environment(KERAS_BACKEND="torch", KERAS_HOME=home), quiet():
        try:
            return importlib.import_module("keras")
        except ImportError as error:
            raise MissingExtra("writing a Keras model", "keras") from error


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Writer:
    """The model in Keras's layers, part by part; each layer has the name of our module."""

    def __init__(self, keras: Any, gpt: GPT) -> None:
        self._keras, self._ops, self._gpt, self._config = keras, keras.ops, gpt, gpt.config

    def model(self) -> Any:
        """Return the whole, with its weights."""
        c, ops = self._config, self._ops
        ids = self._keras.Input((None,), dtype="int32", name="ids")
        places = ops.cumsum(ops.ones_like(ids), axis=1) - 1  # (B, T), as T has no number yet
        embed = self._layer("ReversibleEmbedding", "embed", c.vocab_size, c.n_embd)
        x = embed(ids)
        if not c.rotary:
            x = x + self._layer("Embedding", "positions", c.block_size, c.n_embd)(places)
        angles = self._angles(places) if c.rotary else None
        ago = ops.expand_dims(places, 2) - ops.expand_dims(places, 1)  # (B, T, T)
        dense = ops.expand_dims(ago >= 0, 1)
        banded = ops.expand_dims(ops.logical_and(ago >= 0, ago < c.window), 1) if c.family == "gpt3" else dense
        for layer in range(c.n_layer):
            x = self._block(f"blocks.{layer}", x, angles, banded if c.is_local(layer) else dense)
        if c.choices["norm_position"] == "pre":
            x = self._norm("norm")(x)
        logits = embed(x, reverse=True) if c.tied else self._layer("Dense", "head", c.vocab_size, use_bias=False)(x)
        model = self._keras.Model(ids, logits, name="firstlight")
        for name, arrays in self._arrays().items():
            model.get_layer(name).set_weights([array.numpy() for array in arrays])
        return model

    def _arrays(self) -> dict[str, list[Tensor]]:
        arrays = to_keras(self._config, self._gpt.state_dict())
        if self._gpt.rotary is not None:
            arrays |= {"rotary_cos": [self._gpt.rotary.cos], "rotary_sin": [self._gpt.rotary.sin]}
        return arrays

    def _layer(self, kind: str, module: str, *sizes: Any, **choices: Any) -> Any:
        return getattr(self._keras.layers, kind)(*sizes, name=layer_name(module), dtype="float32", **choices)

    def _norm(self, module: str) -> Any:
        kind = "LayerNormalization" if self._config.choices["norm"] == "layernorm" else "RMSNormalization"
        return self._layer(kind, module, epsilon=self._config.eps)

    def _angles(self, places: Any) -> tuple[Any, Any]:
        """Return cosines and sines (B, T, 1, D), looked up as ours are: exact to the last bit for any position."""
        c = self._config
        tables = [
            self._layer("Embedding", f"rotary.{name}", c.block_size, c.head_dim, trainable=False)
            for name in ("cos", "sin")
        ]
        cos, sin = (self._ops.expand_dims(table(places), 2) for table in tables)
        return cos, sin

    def _block(self, module: str, x: Any, angles: tuple[Any, Any] | None, mask: Any) -> Any:
        first, second = self._norm(f"{module}.norm1"), self._norm(f"{module}.norm2")
        if self._config.choices["norm_position"] == "post":
            x = first(x + self._attention(f"{module}.attention", x, angles, mask))
            return second(x + self._mlp(f"{module}.mlp", x))
        x = x + self._attention(f"{module}.attention", first(x), angles, mask)
        return x + self._mlp(f"{module}.mlp", second(x))

    def _attention(self, module: str, x: Any, angles: tuple[Any, Any] | None, mask: Any) -> Any:
        c, ops = self._config, self._ops
        biases = {"q": None, "out": None} if c.rotary else {"q": None if c.family == "gpt3" else "hd", "out": "c"}

        def heads(part: str, n: int) -> Any:
            shape = (None, n, c.head_dim)
            return self._layer("EinsumDense", f"{module}.{part}", "btc,chd->bthd", shape, bias_axes=biases["q"])(x)

        q, k, v = heads("q", c.n_head), heads("k", c.kv_heads), heads("v", c.kv_heads)  # (B, T, H or K, D)
        if c.choices["qk_norm"]:
            q, k = self._norm(f"{module}.q_norm")(q), self._norm(f"{module}.k_norm")(k)
        if angles is not None:
            q, k = self._turned(q, *angles), self._turned(k, *angles)
        if c.kv_heads != c.n_head:
            k, v = (ops.repeat(part, c.n_head // c.kv_heads, axis=2) for part in (k, v))
        y = ops.dot_product_attention(q, k, v, mask=mask, scale=c.attention_scale)
        out = self._layer("EinsumDense", f"{module}.out", "bthd,hdc->btc", (None, c.n_embd), bias_axes=biases["out"])
        return out(y)

    def _turned(self, x: Any, cos: Any, sin: Any) -> Any:
        first, second = self._ops.split(x, 2, axis=-1)
        return x * cos + self._ops.concatenate([second, first], axis=-1) * sin

    def _mlp(self, module: str, x: Any) -> Any:
        c, ops, has_bias = self._config, self._ops, not self._config.gated
        up = self._layer("Dense", f"{module}.up", c.ffn_dim, use_bias=has_bias)(x)
        if c.gated:
            bent = ops.silu(self._layer("Dense", f"{module}.gate", c.ffn_dim, use_bias=False)(x)) * up
        else:
            bent = ops.gelu(up, approximate=c.gelu == "tanh")
        return self._layer("Dense", f"{module}.down", c.n_embd, use_bias=has_bias)(bent)
