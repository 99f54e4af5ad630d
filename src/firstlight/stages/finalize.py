"""The end of a run: averaged weights, the figures at the end beside baselines, how it stands, its report."""

import json
from collections.abc import Mapping
from typing import Any

from firstlight import progress
from firstlight.errors import FirstlightError
from firstlight.evaluation import Likelihood, baseline_likelihoods, count
from firstlight.files import write_atomic
from firstlight.lm import LM
from firstlight.model import count_parameters
from firstlight.report import write_run_report
from firstlight.stages import pretrain_setup
from firstlight.stages.artifacts import Materials
from firstlight.train import FitResult, TrainContext, ValidResult


def conclude(ctx: TrainContext, made: Materials, result: FitResult, answer: Mapping[str, Any], *, seed: int) -> None:
    """Write what stands in a run directory once its loop has ended.

    Args:
        ctx: the run.
        made: what it was made from.
        result: how the loop ended.
        answer: what the command returns.
        seed: of pictures.
    """
    run = ctx.run
    if ctx.state.ema is not None:
        pretrain_setup.write_average(run / "average", ctx.state, made)
    valid = result.valid
    if isinstance(valid, ValidResult):
        counts = {"n_tokens": valid.targets} | ({"n_bytes": valid.text_bytes} if valid.text_bytes else {})
        figures = {
            "valid": {"loss": valid.loss, "perplexity": valid.perplexity, **valid.bits, **counts},
            "baselines": {name: known.figures(valid.unit) for name, known in baselines(made).items()},
            "parameters": count_parameters(ctx.state.model.config).total,
        }
        write_atomic(run / "evaluation.json", json.dumps(figures, indent=1))
    if made.store.sequence is not None:
        _draw(ctx, made, seed)
    status = "finished" if result.finished else "stopped"
    state = {
        "status": status,
        "stopped_by": result.stopped_by,
        "step": result.step,
        "seconds": result.seconds,
        "result": answer,
    }
    write_atomic(run / "state.json", json.dumps(state, indent=1))
    write_run_report(run)


def baselines(made: Materials) -> dict[str, Likelihood]:
    """Return what models without context would score on the valid split."""
    store, codec = made.store, made.codec
    if codec is None or codec.sequence is None:
        seen = count(store.train.tokens), count(store.valid.tokens)
        return baseline_likelihoods(store.vocab_size, *seen, made.vocabulary.byte_lengths())
    from firstlight.stages.score_sequences import image_baselines, split_rows

    return image_baselines(codec, *(split_rows(split, codec.sequence) for split in (store.train, store.valid)))


def _draw(ctx: TrainContext, made: Materials, seed: int) -> None:
    """Draw what the report of images shows; a run that cannot draw has ended well all the same."""
    from firstlight.stages import images

    lm = LM(ctx.state.model, None, codec=made.codec)
    try:
        images.draw_for_report(ctx.run, lm, made.store, seed=seed)
    except FirstlightError as error:
        progress.warn(f"the pictures of the report are left out: {error}")
