"""What each layer knows of a task: a linear classifier on its hidden states (Alain and Bengio 2016).

As in Image GPT (Chen et al. 2020, section 4.2) features are the mean over positions; or those of the last one, which
alone has seen the whole text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstlight import parallel, progress
from firstlight.finetuning.loss import collate, pooled
from firstlight.finetuning.preprocess import EncodedExample
from firstlight.model import GPT

Pool = Literal["mean", "last"]
_TOKENS = 8192  # of one forward pass
# Strengths of the pull towards zero; the one that does best on a tenth of the training rows is taken.
_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
_STEPS = 100


@dataclass(frozen=True, slots=True)
class LayerScore:
    """How well a linear classifier does on one layer: 0 are the embeddings."""

    layer: int
    accuracy: float
    decay: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracy on the valid rows by layer; 0 are the embeddings.

    Attributes:
        majority: accuracy of always saying the commonest class.
        raw_pixels: of images, accuracy of the same classifier on pixels.
    """

    run: str
    task: str
    pool: str
    rows: int
    majority: float
    layers: list[LayerScore]
    raw_pixels: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@torch.no_grad()
def features(
    model: GPT, rows: Sequence[EncodedExample], device_context: parallel.DeviceContext, pool: Pool
) -> Float[Tensor, "L N C"]:
    """Return the pooled hidden states of every row, of one sequence each, after the embeddings and after each block."""
    was_training = model.training
    model.eval()
    held: list[Tensor] = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda _m, _i, output: held.append(output)) for block in model.blocks]
    found: list[Tensor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i].width)
    try:
        with progress.task("features", len(rows), "rows") as told:
            while order:
                n = max(1, _TOKENS // rows[order[-1]].width)
                part, order = order[-n:], order[:-n]
                batch = collate("probe", [rows[i] for i in part], scored=False).slice_rows(
                    slice(None), device_context.device
                )
                held.clear()
                with parallel.autocast(device_context):
                    model.hidden(batch.ids[:, 0])
                read = [pooled(h.float(), batch.reads[:, 0], mean=pool == "mean") for h in held]
                for i, layers in zip(part, torch.stack(read, dim=1), strict=True):
                    found[i] = layers.cpu()
                told.advance(len(part))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return torch.stack([f for f in found if f is not None], dim=1)


def probe(
    train: Float[Tensor, "L N C"],
    labels: Int[Tensor, " N"],
    valid: Float[Tensor, "L M C"],
    true: Int[Tensor, " M"],
    n: int,
) -> list[LayerScore]:
    """Fit a classifier on each layer and score it on the valid rows."""
    scores = []
    for layer, (seen, unseen) in enumerate(zip(train, valid, strict=True)):
        mean, deviation = seen.mean(0), seen.std(0) + 1e-6
        accuracy, decay = classify((seen - mean) / deviation, labels, (unseen - mean) / deviation, true, n)
        scores.append(LayerScore(layer, accuracy, decay))
    return scores


def classify(
    x: Float[Tensor, "N C"], labels: Int[Tensor, " N"], y: Float[Tensor, "M C"], true: Int[Tensor, " M"], n: int
) -> tuple[float, float]:
    """Fit a classifier and return its accuracy on other rows, and the decay that did best on a tenth of its own."""
    held_out = max(1, len(x) // 10)
    tried = {
        decay: _right(fit(x[held_out:], labels[held_out:], n, decay), x[:held_out], labels[:held_out])
        for decay in _DECAYS
    }
    decay = max(tried, key=lambda d: tried[d])
    return _right(fit(x, labels, n, decay), y, true), decay


def raw_pixels(
    train: Float[Tensor, "N P"], labels: Int[Tensor, " N"], valid: Float[Tensor, "M P"], true: Int[Tensor, " M"], n: int
) -> float:
    """Return the accuracy of the same classifier on pixels, 0 to 255: what layers of a model must be better than.

    All are divided by one deviation: one a pixel would make much of those that hardly ever differ.
    """
    mean, deviation = train.mean(0), train.std() + 1e-6
    return classify((train - mean) / deviation, labels, (valid - mean) / deviation, true, n)[0]


def fit(x: Float[Tensor, "N C"], labels: Int[Tensor, " N"], n: int, decay: float) -> Float[Tensor, "n D"]:
    """Return the weights, with the bias as last column, of a logistic regression with an L2 penalty, by L-BFGS."""
    weights = torch.zeros(n, x.shape[1] + 1, requires_grad=True)
    optimizer: Any = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = F.cross_entropy(F.linear(x, weights[:, :-1], weights[:, -1]), labels)
        value = value + decay * weights[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    return weights.detach()


def _right(weights: Tensor, x: Tensor, labels: Tensor) -> float:
    return float((F.linear(x, weights[:, :-1], weights[:, -1]).argmax(1) == labels).float().mean())
