"""A text, word vectors for most of its words, and a run of six steps on them."""

from pathlib import Path

import numpy as np

from firstlight.vectors import WordVectors, write_vectors

TEXT = "The cat sat on the mat and the cat saw a bird there .\n" * 60
SETTINGS = [
    "tokenizer.kind=word",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.steps=6",
    "train.checkpoint_every=3",
    "train.eval_every=3",
    "train.log_every=1",
    "train.sample_tokens=4",
    "train.trackers=[]",
    "hardware.threads=1",
]


def make_vectors(path: Path, width: int) -> None:
    words = ["the", "cat", "sat", "mat", "on", "and", "elsewhere"]
    matrix = np.random.default_rng(1).normal(size=(len(words), width)).astype(np.float32)
    write_vectors(WordVectors(words, matrix, path), path)
