"""Embeddings that begin as word vectors, and, where those are of another width, stay factors while a model trains.

The matrix of embeddings (V, C) is then vectors (V, D) times a projection (D to C). A head that is tied to it reads out
through the same factors: hidden states are projected back to D first, which costs less than the whole matrix would.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from firstlight.model.gpt import GPT
from firstlight.model.kernels.linear import linear


class FactorizedEmbedding(nn.Module):
    """Stands in for an Embedding, and for the head that shares its matrix: vectors (V, D) and a projection (C, D)."""

    def __init__(self, n: int, width: int, outer: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(n, width))
        self.projection = nn.Parameter(torch.zeros(outer, width))

    @property
    def weight(self) -> Float[Tensor, "V C"]:
        """The whole matrix, made anew."""
        return linear(self.vectors, self.projection)

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... C"]:
        """Return the rows of tokens."""
        return linear(F.embedding(ids, self.vectors), self.projection)

    def inward(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... D"]:
        """Return hidden states as the vectors' width has them: their products with the vectors are the logits."""
        return linear(hidden, self.projection.t())

    def times(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """Return ``hidden @ weight.T``."""
        return linear(self.inward(hidden), self.vectors)


def factorize_embedding(model: GPT, width: int) -> None:
    """Give a model embeddings of two factors where word vectors are not of its own width."""
    if width != model.config.n_embd:
        model.embed = FactorizedEmbedding(model.config.vocab_size or 0, width, model.config.n_embd)  # type: ignore[assignment]


@torch.no_grad()
def init_from_vectors(
    model: GPT, vectors: Float[Tensor, "V D"], known: Bool[Tensor, " V"], length: float, generator: torch.Generator
) -> None:
    """Put word vectors in the place of embeddings that were drawn; tokens without one keep what was drawn.

    The vectors' mean is taken off, since what all words share tells none apart (Mu and Viswanath 2018). Then they are
    scaled as one to a root mean square length; with length 1, the logits of a tied head begin with unit variance. Far
    shorter, as random embeddings are (init_std sqrt(C)), they would be unlearnt in a few steps. A projection begins as
    one that changes neither length nor angle where it widens (orthonormal columns), and is as near to that as may be
    where it narrows.

    Args:
        model: with random weights, and room for the vectors.
        vectors: of tokens.
        known: which tokens have one; one at least.
        length: root mean square of the lengths that the embeddings of known tokens have.
        generator: of the projection.
    """
    found = vectors[known]
    # One vector alone has nothing in common with others.
    found = found - found.mean(0) if len(found) > 1 else found
    found = found * (length / _length(found))
    if not isinstance(model.embed, FactorizedEmbedding):
        model.embed.weight[known.to(model.embed.weight.device)] = found.to(model.embed.weight)
        return
    factor, projection = model.embed.vectors, model.embed.projection
    C, D = projection.shape
    turned, _ = torch.linalg.qr(torch.randn(max(C, D), min(C, D), generator=generator))
    turned = turned if C >= D else turned.t()
    factor[known.to(factor.device)] = found.to(factor)
    projection.copy_(turned * (length / _length(found @ turned.t())))


def set_embedding_trainable(model: GPT, frozen: int | str, done: int | None) -> None:
    """Let the embeddings, and a tied head, stay as they are or learn; a projection learns all the same.

    Args:
        model: whose embeddings.
        frozen: how many steps they stay so; ``all`` for always.
        done: steps taken; None asks for what is so at the end.
    """
    parameter = model.factors["vectors"] if model.factors else model.embed.weight
    parameter.requires_grad_(frozen != "all" and (done is None or done >= int(frozen)))


def _length(rows: Tensor) -> float:
    """Return the root mean square of the rows' lengths."""
    return max(float(rows.double().square().sum(1).mean().sqrt()), torch.finfo(torch.float32).tiny)
