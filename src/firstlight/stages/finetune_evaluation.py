"""Evaluate the model of a fine-tuning run: all tasks on one split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from firstlight import progress
from firstlight.finetuning import (
    BagOfWords,
    EvalResults,
    Prediction,
    compute_metrics,
    evaluate_lm_loss,
    fit_bag_of_words,
    head_of,
    predict,
)
from firstlight.model import GPT
from firstlight.parallel import DeviceContext, interruptible
from firstlight.stages.finetune_artifacts import FinetuneArtifacts
from firstlight.tokenizer import Tokenizer

_SEPARATOR = " | "  # between the texts of a row


@dataclass(frozen=True, slots=True)
class TaskEvaluation:
    """An evaluation of all tasks on one split, with the predictions that it was computed from.

    Attributes:
        result: metrics by task, and losses of tasks of text.
        predictions: by task; from them the end of a run computes confidence intervals without another pass.
    """

    result: EvalResults
    predictions: dict[str, list[Prediction]]

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return self.result.loss

    @property
    def criterion(self) -> float:
        """The value that the best checkpoint minimises."""
        return self.result.criterion

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics to log, by name."""
        return self.result.metrics()

    def with_intervals(
        self, artifacts: FinetuneArtifacts, split: str, n_bootstrap: int, baselines: Mapping[str, BagOfWords]
    ) -> EvalResults:
        """Compute the same metrics with bootstrap confidence intervals, and with what the report shows beside them."""
        decode = _decoder(artifacts.tokenizer)
        metrics = {
            name: compute_metrics(
                artifacts.specs[name],
                artifacts.rows[name].split(split),
                predictions,
                n_bootstrap=n_bootstrap,
                train=artifacts.rows[name].train,
                decode=decode,
                bag_of_words=baselines.get(name),
            )
            for name, predictions in self.predictions.items()
        }
        return EvalResults(metrics, self.result.texts)


def evaluate_tasks(
    model: GPT,
    artifacts: FinetuneArtifacts,
    device_context: DeviceContext,
    *,
    split: str = "valid",
    limit: int | None = None,
) -> TaskEvaluation:
    """Evaluate a model on one split of every task.

    Args:
        model: with the tasks' heads.
        artifacts: of the run.
        device_context: of the run.
        split: valid or test.
        limit: rows of one forward pass.

    Raises:
        Interrupted: a signal arrived while a run trains.
    """
    metrics, texts, predictions = {}, {}, {}
    total = sum(len(artifacts.rows[name].split(split)) for name in artifacts.specs)
    with interruptible(device_context), progress.task(f"evaluate the {split} rows", total, "rows") as task:
        for name, spec in artifacts.specs.items():
            rows = artifacts.rows[name].split(split)
            if not rows:
                continue
            if head_of(spec) is None:
                texts[name] = evaluate_lm_loss(model, spec, rows, device_context, on_rows=task.advance)
            else:
                predictions[name] = predict(
                    model, spec, rows, device_context, max_rows=limit, confidence_only=True, on_rows=task.advance
                )
                metrics[name] = compute_metrics(spec, rows, predictions[name])
    return TaskEvaluation(EvalResults(metrics, texts), predictions)


def fit_baselines(artifacts: FinetuneArtifacts) -> dict[str, BagOfWords]:
    """Fit a linear model on the words of the training rows of each task on whole texts, by its name."""
    found, to_texts = {}, _splitter(artifacts.tokenizer)
    heads = {name: head for name, spec in artifacts.specs.items() if (head := head_of(spec)) is not None}
    with progress.task("fit a bag of words, to compare with", len(heads), "tasks") as task:
        for name, head in heads.items():
            baseline = fit_bag_of_words(head, artifacts.rows[name].train, to_texts)
            if baseline is not None:
                found[name] = baseline
            task.advance(1)
    return found


def _decoder(tokenizer: Tokenizer) -> Callable[[np.ndarray], str]:
    """Return a function from the ids of a row to its texts, with a separator between them."""
    to_texts = _splitter(tokenizer)
    return lambda ids: _SEPARATOR.join(to_texts(ids))


def _splitter(tokenizer: Tokenizer) -> Callable[[np.ndarray], list[str]]:
    """Return a function from the ids of a row to its texts, which special tokens separate; empty ones are left out."""
    is_special = tokenizer.byte_lengths() == 0

    def to_texts(ids: np.ndarray) -> list[str]:
        parts = np.split(ids, np.flatnonzero(is_special[ids]))  # each begins with its special token
        return [text for part in parts if (text := tokenizer.decode(part).strip())]

    return to_texts
