"""Finish a pre-training run: compare its loss with baselines, generate images, write the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.errors import FirstlightError
from firstlight.evaluation import Likelihood, baseline_likelihoods, count_ids, loss_by_position
from firstlight.lm import LM
from firstlight.model import count_parameters
from firstlight.runs import RunDirectory, write_json
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.score_sequences import image_baselines, split_rows
from firstlight.stages.unknown_text import split_text_bytes, split_unknown
from firstlight.train import TrainContext, ValidationResult

_N_FREQUENT = 30  # tokens that are listed


def evaluate_run(
    run: RunDirectory,
    ctx: TrainContext,
    artifacts: PretrainArtifacts,
    valid: ValidationResult | None,
    *,
    finished: bool,
    seed: int,
) -> None:
    """Write ``evaluation.json``: the validation loss next to baselines, and counts of the training text; and images.

    Args:
        run: the run directory.
        ctx: of the run.
        artifacts: of the run.
        valid: the last evaluation, or None.
        finished: whether the run has reached its limit; one that a signal ended without an evaluation has no file.
        seed: of the images.
    """
    store, tokenizer = artifacts.store, artifacts.tokenizer
    if valid is not None or finished:
        evaluation: dict[str, Any] = {"parameters": count_parameters(ctx.state.model.config).total}
        with progress.task("count tokens"):
            counts = None if store.sequence_length is not None else count_ids(store.train.tokens)
        if counts is not None:
            evaluation["training_text"] = training_text(artifacts, counts)
        if valid is not None:
            n: dict[str, Any] = {"n_tokens": valid.targets}
            n |= {"n_bytes": valid.text_bytes} if valid.text_bytes else {}
            if tokenizer is not None:
                n |= split_unknown(store.valid, tokenizer).to_json(store.valid.n_tokens)
            with progress.task("compute baselines"):
                known = baselines(artifacts, counts)
            if finished:
                _warn_if_not_below_unigram(valid.loss, known)
            evaluation["valid"] = {"loss": valid.loss, "perplexity": valid.perplexity, **valid.bits, **n}
            evaluation["baselines"] = {name: found.metrics(valid.unit) for name, found in known.items()}
            if valid.position_nats is not None and valid.position_targets is not None:
                evaluation["loss_by_position"] = loss_by_position(valid.position_nats, valid.position_targets)
        write_json(run.evaluation_file, evaluation)
    if store.sequence_length is not None:
        _generate_images(run, ctx, artifacts, seed)


def _warn_if_not_below_unigram(loss: float, known: Mapping[str, Likelihood]) -> None:
    """Say that a model is no better than the frequencies of its tokens, which need no training."""
    unigram = known.get("unigram")
    if unigram is not None and not loss < unigram.loss:
        progress.warn(
            f"validation loss {loss:.4f} is not below {unigram.loss:.4f}, that of the unigram baseline "
            "(frequencies without context); train for more steps, or change optim.lr"
        )


def training_text(artifacts: PretrainArtifacts, counts: np.ndarray) -> dict[str, Any]:
    """Describe the training split: its tokens and characters, the ids in use, and the most frequent ones.

    ``characters`` is None where the tokenizer has no tokens for some of the text, or the ids do not stand for text.

    Args:
        artifacts: of the run.
        counts: how often each id occurs in the split (up to V,).
    """
    store, tokenizer = artifacts.store, artifacts.tokenizer
    texts = None if tokenizer is None else tokenizer.token_texts()
    characters = None
    if tokenizer is not None and not split_unknown(store.train, tokenizer).count:
        characters = int(counts @ tokenizer.character_lengths()[: len(counts)])
    frequent = [i for i in np.argsort(-counts, kind="stable")[:_N_FREQUENT].tolist() if counts[i]]
    return {
        "tokens": store.train.n_tokens,
        "characters": characters,
        "ids_used": int((counts > 0).sum()),
        "most_frequent": [
            {"id": i, "text": None if texts is None else texts[i], "count": int(counts[i])} for i in frequent
        ],
    }


def baselines(artifacts: PretrainArtifacts, counts: np.ndarray | None) -> dict[str, Likelihood]:
    """Compute what models without context score on the validation split.

    Args:
        artifacts: of the run.
        counts: how often each id occurs in the training split (up to V,); None for images.
    """
    store, codec = artifacts.store, artifacts.codec
    if codec is None or codec.sequence_length is None:
        found = split_text_bytes(store.valid, artifacts.vocab)
        lengths, nats, characters = (None,) * 3 if found is None else (found.lengths, found.nats, found.characters)
        target_counts = count_ids(store.valid.tokens[1:])  # the first is never predicted
        return baseline_likelihoods(
            store.vocab_size, counts, target_counts, lengths, more_nats=nats, characters=characters
        )
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
    with progress.task("write the report"):
        from firstlight.report import write_run_report  # loads Jinja, which training does not need

        write_run_report(run)
