"""Embeddings initialised from word vectors, which stay factorised in training where their width differs.

The embedding matrix (V, C) is then vectors (V, D) times a projection (D to C), as in ALBERT (Lan et al. 2020). A tied
head uses the same factors: hidden states are projected down to D first, which costs less than the whole matrix would.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from firstlight.model.gpt import GPT
from firstlight.model.kernels.linear import linear


class FactorizedEmbedding(nn.Module):
    """Replaces an Embedding, and the head that is tied to it, by vectors (V, D) and a projection (C, D)."""

    def __init__(self, vocab_size: int, d_vector: int, n_embd: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(vocab_size, d_vector))
        self.projection = nn.Parameter(torch.zeros(n_embd, d_vector))

    @property
    def weight(self) -> Float[Tensor, "V C"]:
        """The product of the factors, computed on each access."""
        return linear(self.vectors, self.projection)

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... C"]:
        """Look up the rows of tokens."""
        return linear(F.embedding(ids, self.vectors), self.projection)

    def project_down(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... D"]:
        """Project hidden states to the width of the vectors; their products with the vectors are the logits."""
        return linear(hidden, self.projection.t())

    def logits(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """Compute the logits of a tied head."""
        return linear(self.project_down(hidden), self.vectors)


def factorize_embedding(model: GPT, d_vector: int) -> None:
    """Replace a model's embeddings by two factors if the width of the word vectors is not the model's."""
    if d_vector != model.config.n_embd:
        model.embed = FactorizedEmbedding(model.config.vocab_size or 0, d_vector, model.config.n_embd)  # type: ignore[assignment]


@torch.no_grad()
def init_from_vectors(
    model: GPT, vectors: Float[Tensor, "V D"], known: Bool[Tensor, " V"], length: float, generator: torch.Generator
) -> None:
    """Initialise embeddings from word vectors; tokens without one keep their random initialisation.

    The mean of the vectors is subtracted, since a component common to all words distinguishes none (Mu and Viswanath
    2018). Then all are scaled to a root mean square length; with length 1, the logits of a tied head start with unit
    variance. Far shorter vectors, such as random embeddings (init_std sqrt(C)), would be forgotten in a few steps. A
    projection starts with orthonormal columns where it widens, which keeps lengths and angles, and as close to that as
    possible where it narrows.

    Args:
        model: with random weights, after ``factorize_embedding``.
        vectors: of all tokens.
        known: tokens that have a vector; at least one.
        length: root mean square length of the embeddings of known tokens.
        generator: of the projection.
    """
    rows = vectors[known]
    # A single vector is its own mean.
    rows = rows - rows.mean(0) if len(rows) > 1 else rows
    rows = rows * (length / _rms_length(rows))
    if not isinstance(model.embed, FactorizedEmbedding):
        model.embed.weight[known.to(model.embed.weight.device)] = rows.to(model.embed.weight)
        return
    factor, projection = model.embed.vectors, model.embed.projection
    C, D = projection.shape
    orthonormal, _ = torch.linalg.qr(torch.randn(max(C, D), min(C, D), generator=generator))
    orthonormal = orthonormal if C >= D else orthonormal.t()
    factor[known.to(factor.device)] = rows.to(factor)
    projection.copy_(orthonormal * (length / _rms_length(rows @ orthonormal.t())))


def set_embedding_trainable(model: GPT, frozen_steps: int | str, step: int | None) -> None:
    """Freeze or unfreeze the embeddings and a tied head; a projection is always trained.

    Args:
        model: its embeddings are frozen or unfrozen.
        frozen_steps: for how many steps they are frozen; ``all`` for always.
        step: steps done; None stands for the end of training.
    """
    parameter = model.factors["vectors"] if model.factors else model.embed.weight
    parameter.requires_grad_(frozen_steps != "all" and (step is None or step >= int(frozen_steps)))


def _rms_length(rows: Tensor) -> float:
    """Return the root mean square of the rows' lengths."""
    return max(float(rows.double().square().sum(1).mean().sqrt()), torch.finfo(torch.float32).tiny)
