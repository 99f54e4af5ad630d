"""Evaluate the model of a fine-tuning run: all tasks on one split."""

from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.finetuning import (
    EvalResults,
    Prediction,
    compute_metrics,
    evaluate_lm_loss,
    head_of,
    predict,
)
from firstlight.model import GPT
from firstlight.parallel import DeviceContext, interruptible
from firstlight.stages.finetune_artifacts import FinetuneArtifacts


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

    def with_intervals(self, artifacts: FinetuneArtifacts, split: str, n_bootstrap: int) -> EvalResults:
        """Compute the same metrics with bootstrap confidence intervals."""
        metrics = {
            name: compute_metrics(
                artifacts.specs[name], artifacts.rows[name].split(split), predictions, n_bootstrap=n_bootstrap
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
    with interruptible(device_context):
        for name, spec in artifacts.specs.items():
            rows = artifacts.rows[name].split(split)
            if not rows:
                continue
            if head_of(spec) is None:
                texts[name] = evaluate_lm_loss(model, spec, rows, device_context)
            else:
                predictions[name] = predict(model, spec, rows, device_context, max_rows=limit, confidence_only=True)
                metrics[name] = compute_metrics(spec, rows, predictions[name])
    return TaskEvaluation(EvalResults(metrics, texts), predictions)
