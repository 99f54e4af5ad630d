"""Linear probes: a linear classifier on the hidden states of each layer (Alain and Bengio 2016).

Features are the mean over positions, as in Image GPT (Chen et al. 2020, section 4.2), or those of the last position,
the only one that attends to the whole text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstlight import parallel, progress
from firstlight.finetuning.examples import EncodedExample
from firstlight.finetuning.kinds import pool as pool_states
from firstlight.finetuning.loss import pad
from firstlight.model import GPT

Pool = Literal["mean", "last"]
_BATCH_TOKENS = 8192  # of one forward pass
# Strengths of the L2 penalty; the best one on a tenth of the training rows is used.
_L2_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_MAX_ITER = 100


@dataclass(frozen=True, slots=True)
class LayerScore:
    """Accuracy of a linear classifier on one layer (0: the embeddings), and its L2 penalty."""

    layer: int
    accuracy: float
    l2_penalty: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracy of linear probes on the validation rows, by layer.

    Attributes:
        run: the model, as the user named it.
        task: the task, or the images.
        pool: mean over positions, or the last one.
        rows: number of training rows.
        majority: accuracy of always predicting the commonest class.
        layers: of each layer.
        raw_pixels: of images, accuracy of the same classifier on the pixels.
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
    """Return the pooled hidden states of rows with one sequence each, after the embeddings and after each block."""
    was_training = model.training
    model.eval()
    held: list[Tensor] = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda _m, _i, output: held.append(output)) for block in model.blocks]
    found: list[Tensor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i].length)
    try:
        with progress.task("features", len(rows), "rows") as progress_bar:
            while order:
                n = max(1, _BATCH_TOKENS // rows[order[-1]].length)
                part, order = order[-n:], order[:-n]
                no_labels = torch.zeros(len(part), dtype=torch.int64)
                batch = pad("probe", [rows[i] for i in part], no_labels).slice_rows(slice(None), device_context.device)
                held.clear()
                with parallel.autocast(device_context):
                    model.hidden(batch.input_ids[:, 0])
                pooled = [pool_states(h.float(), batch.positions[:, 0], mean=pool == "mean") for h in held]
                for i, layers in zip(part, torch.stack(pooled, dim=1), strict=True):
                    found[i] = layers.cpu()
                progress_bar.advance(len(part))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return torch.stack([f for f in found if f is not None], dim=1)


def fit_probes(
    train: Float[Tensor, "L N C"],
    labels: Int[Tensor, " N"],
    valid: Float[Tensor, "L M C"],
    true: Int[Tensor, " M"],
    n: int,
) -> list[LayerScore]:
    """Fit a classifier on each layer, and compute its accuracy on the validation rows."""
    scores = []
    for layer, (seen, unseen) in enumerate(zip(train, valid, strict=True)):
        mean, deviation = seen.mean(0), seen.std(0) + 1e-6
        accuracy, penalty = fit_and_score((seen - mean) / deviation, labels, (unseen - mean) / deviation, true, n)
        scores.append(LayerScore(layer, accuracy, penalty))
    return scores


def fit_and_score(
    x: Float[Tensor, "N C"], labels: Int[Tensor, " N"], y: Float[Tensor, "M C"], true: Int[Tensor, " M"], n: int
) -> tuple[float, float]:
    """Fit a classifier; return its accuracy on other rows, and the L2 penalty that was best on a tenth of its own."""
    held_out = max(1, len(x) // 10)
    scores = {
        penalty: _accuracy(fit(x[held_out:], labels[held_out:], n, penalty), x[:held_out], labels[:held_out])
        for penalty in _L2_PENALTIES
    }
    best = max(scores, key=lambda penalty: scores[penalty])
    return _accuracy(fit(x, labels, n, best), y, true), best


def fit_raw_pixels(
    train: Float[Tensor, "N P"], labels: Int[Tensor, " N"], valid: Float[Tensor, "M P"], true: Int[Tensor, " M"], n: int
) -> float:
    """Return the accuracy of the same classifier on pixels, 0 to 255: the baseline of a model's layers.

    All are divided by one deviation: one per pixel would amplify pixels that hardly ever vary.
    """
    mean, deviation = train.mean(0), train.std() + 1e-6
    return fit_and_score((train - mean) / deviation, labels, (valid - mean) / deviation, true, n)[0]


def fit(x: Float[Tensor, "N C"], labels: Int[Tensor, " N"], n: int, l2_penalty: float) -> Float[Tensor, "n D"]:
    """Fit a logistic regression with an L2 penalty by L-BFGS; return its weights, the bias being the last column."""
    weights = torch.zeros(n, x.shape[1] + 1, requires_grad=True)
    optimizer: Any = torch.optim.LBFGS([weights], max_iter=_MAX_ITER, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = F.cross_entropy(F.linear(x, weights[:, :-1], weights[:, -1]), labels)
        value = value + l2_penalty * weights[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    return weights.detach()


def _accuracy(weights: Tensor, x: Tensor, labels: Tensor) -> float:
    return float((F.linear(x, weights[:, :-1], weights[:, -1]).argmax(1) == labels).float().mean())
