"""Shapes that training is compared at: GPT-2's architecture, batches of equal size; and work of generation."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and a batch.

    Attributes:
        name: short.
        n_vocab: tokens of the vocabulary.
        steps: optimiser steps of one round, a few seconds' worth.
    """

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch: int
    n_vocab: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.block_size * self.batch

    @property
    def parameters(self) -> int:
        """Numbers of the matrices that a new token is multiplied with."""
        return 12 * self.n_layer * self.n_embd**2 + self.n_vocab * self.n_embd

    @property
    def flops(self) -> float:
        """Model FLOPs of one step: six a weight of a matrix product, and causal attention."""
        attention = 12 * self.n_layer * self.n_embd * (self.block_size + 1) / 2
        return self.tokens * (6 * self.parameters + attention)


@dataclass(frozen=True, slots=True)
class Texts:
    """What is written at once, greedily.

    Attributes:
        batch: texts.
        prompt: tokens that each begins with.
        new: tokens that each gets.
    """

    batch: int
    prompt: int
    new: int


@dataclass(frozen=True, slots=True)
class Ways:
    """How a system is to work.

    Attributes:
        checkout: nanoGPT's or llm.c's folder.
        compiled: through torch.compile.
        recompute: activations are computed anew in the backward pass (Firstlight).
        int8: matrices are in eight bits (Firstlight, writing).
        device: cpu or cuda.
        precision: fp32 or bf16, of the products.
    """

    checkout: Path | None = None
    compiled: bool = False
    recompute: bool = False
    int8: bool = False
    device: str = "cpu"
    precision: str = "fp32"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("char-4x128", 4, 4, 128, 64, 12, 65, 60),
        Shape("char-6x384", 6, 6, 384, 256, 16, 65, 2),
        Shape("gpt2-124m-256", 12, 12, 768, 256, 4, 50257, 1),
        Shape("gpt2-124m-1024", 12, 12, 768, 1024, 1, 50257, 1),
        Shape("gpt2-124m-256x16", 12, 12, 768, 256, 16, 50257, 1),
        Shape("gpu-tiny", 2, 2, 64, 32, 4, 65, 2),
        Shape("gpu-124m-1024", 12, 12, 768, 1024, 32, 50304, 10),
        Shape("gpu-124m-8192", 12, 12, 768, 8192, 4, 50304, 10),
        Shape("gpu-350m-1024", 24, 16, 1024, 1024, 16, 50304, 10),
        Shape("gpu-350m-8192", 24, 16, 1024, 8192, 2, 50304, 10),
        Shape("gpu-1.5b-1024", 48, 25, 1600, 1024, 8, 50304, 5),
        Shape("gpu-1.5b-8192", 48, 25, 1600, 8192, 1, 50304, 5),
    )
}
# Those of the speed tables on a CPU; "256x16" is for memory, the rest for a GPU.
TIMED = ["char-4x128", "char-6x384", "gpt2-124m-256", "gpt2-124m-1024"]
ON_A_GPU = ["gpu-124m-1024", "gpu-1.5b-1024", "gpu-350m-1024", "gpu-124m-8192", "gpu-1.5b-8192", "gpu-350m-8192"]
GENERATED = {"batch 1": Texts(1, 64, 96), "batch 8": Texts(8, 64, 96), "first token after 900": Texts(1, 900, 1)}
