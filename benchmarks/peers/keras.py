"""Keras: KerasHub's GPT-2 on the backend of KERAS_BACKEND, trained with train_on_batch."""

from collections.abc import Callable

import numpy as np
from shapes import RunOptions, Shape


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Train with AdamW and gradients clipped at 1; on JAX and TensorFlow Keras compiles by default."""
    del options
    import keras
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=shape.vocab_size,
        num_layers=shape.n_layer,
        num_heads=shape.n_head,
        hidden_dim=shape.n_embd,
        intermediate_dim=4 * shape.n_embd,
        dropout=0.0,
        max_sequence_length=shape.block_size,
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    source = np.random.default_rng(0)
    while True:
        ids = source.integers(shape.vocab_size, size=(shape.batch, shape.block_size + 1))
        inputs = {"token_ids": ids[:, :-1], "padding_mask": np.ones_like(ids[:, :-1])}
        float(np.asarray(model.train_on_batch(inputs, ids[:, 1:])).ravel()[0])
        step()
