"""Model shapes, batches and generation workloads of the benchmarks; the architecture is GPT-2's."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Shape:
    """A model shape and a batch.

    Attributes:
        name: on the command line and in tables.
        n_vocab: tokens of the vocabulary.
        steps: optimizer steps per round, which take a few seconds.
    """

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch: int
    vocab_size: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.block_size * self.batch

    @property
    def parameters(self) -> int:
        """Weights of the matrix products of one token."""
        return 12 * self.n_layer * self.n_embd**2 + self.vocab_size * self.n_embd

    @property
    def flops(self) -> float:
        """Model FLOPs per step: six per weight of a matrix product, and causal attention."""
        attention = 12 * self.n_layer * self.n_embd * (self.block_size + 1) / 2
        return self.tokens * (6 * self.parameters + attention)


@dataclass(frozen=True, slots=True)
class GenerationWorkload:
    """Greedy generation of one batch.

    Attributes:
        batch: number of texts.
        prompt: prompt tokens of each.
        new: new tokens of each.
    """

    batch: int
    prompt: int
    new: int


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a system.

    Attributes:
        checkout: folder of nanoGPT or llm.c.
        compiled: whether to use torch.compile.
        recompute: whether to use activation checkpointing (Firstlight).
        int8: whether weights are in int8 (Firstlight, generation).
        device: cpu or cuda.
        precision: fp32 or bf16, of matrix products.
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
        Shape("char-4x64", 4, 4, 64, 64, 16, 65, 60),
        Shape("char-6x192", 6, 6, 192, 128, 16, 65, 8),
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
# Shapes of the CPU's speed tables; "256x16" is for the memory table, the others are for a GPU.
CPU_SHAPES = ["char-4x128", "char-6x384", "gpt2-124m-256", "gpt2-124m-1024"]
GPU_SHAPES = ["gpu-124m-1024", "gpu-1.5b-1024", "gpu-350m-1024", "gpu-124m-8192", "gpu-1.5b-8192", "gpu-350m-8192"]
GENERATION_WORKLOADS = {
    "batch 1": GenerationWorkload(1, 64, 96),
    "batch 8": GenerationWorkload(8, 64, 96),
    "first token after 900": GenerationWorkload(1, 900, 1),
}
