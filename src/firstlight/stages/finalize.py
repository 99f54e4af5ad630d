"""Finish a pre-training run: compare its loss with baselines, generate images, write the report."""

from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.errors import FirstlightError
from firstlight.evaluation import Likelihood, baseline_likelihoods, count_ids
from firstlight.lm import LM
from firstlight.model import count_parameters
from firstlight.runs import RunDirectory, write_json
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.score_sequences import image_baselines, split_rows
from firstlight.stages.unknown_text import split_text_bytes, split_unknown
from firstlight.train import TrainContext, ValidationResult


def evaluate_run(
    run: RunDirectory, ctx: TrainContext, artifacts: PretrainArtifacts, valid: ValidationResult | None, *, seed: int
) -> None:
    """Write ``evaluation.json``: the validation loss next to baselines; and the images that the report shows.

    Args:
        run: the run directory.
        ctx: of the run.
        artifacts: of the run.
        valid: the last evaluation, or None.
        seed: of the images.
    """
    if valid is not None:
        counts: dict[str, Any] = {"n_tokens": valid.targets}
        counts |= {"n_bytes": valid.text_bytes} if valid.text_bytes else {}
        if artifacts.tokenizer is not None:
            split = artifacts.store.valid
            counts |= split_unknown(split, artifacts.tokenizer).to_json(split.n_tokens)
        evaluation = {
            "valid": {"loss": valid.loss, "perplexity": valid.perplexity, **valid.bits, **counts},
            "baselines": {name: known.metrics(valid.unit) for name, known in baselines(artifacts).items()},
            "parameters": count_parameters(ctx.state.model.config).total,
        }
        write_json(run.evaluation_file, evaluation)
    if artifacts.store.sequence_length is not None:
        _generate_images(run, ctx, artifacts, seed)


def baselines(artifacts: PretrainArtifacts) -> dict[str, Likelihood]:
    """Compute what models without context score on the validation split."""
    store, codec = artifacts.store, artifacts.codec
    if codec is None or codec.sequence_length is None:
        seen = count_ids(store.train.tokens), count_ids(store.valid.tokens)
        found = split_text_bytes(store.valid, artifacts.vocab)
        lengths, nats = (None, None) if found is None else (found.lengths, found.nats)
        return baseline_likelihoods(store.vocab_size, *seen, lengths, more_nats=nats)
    return image_baselines(codec, *(split_rows(split, codec.sequence_length) for split in (store.train, store.valid)))


def _generate_images(run: RunDirectory, ctx: TrainContext, artifacts: PretrainArtifacts, seed: int) -> None:
    """Generate the images that the report shows; a run that cannot generate them has still ended well."""
    from firstlight.stages import images  # loads the report, which slows the start of a run

    lm = LM(ctx.state.model, None, codec=artifacts.codec)
    try:
        images.write_report_images(run.path, lm, artifacts.store, seed=seed)
    except FirstlightError as error:
        progress.warn(f"the images of the report are left out: {error}")


def write_report(run: Path) -> None:
    """Write the report of a run."""
    from firstlight.report import write_run_report  # loads Jinja, which training does not need

    write_run_report(run)
