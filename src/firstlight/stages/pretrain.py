"""``pretrain``: train a GPT on a corpus, a token store or a RUN.toml, into a run directory."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.config import Settings, flatten, merge, resolve
from firstlight.corpus import same_files
from firstlight.parallel import DeviceContext, is_main_process
from firstlight.planning import Plan
from firstlight.runs import Recipe, RunDirectory, RunResult, run_recipe
from firstlight.stages import pretrain_setup
from firstlight.stages.artifacts import PretrainArtifacts, prepare_artifacts
from firstlight.stages.continued_lr import scale_default_lr
from firstlight.stages.dry_run import plan_dry_run
from firstlight.stages.finalize import evaluate_run, write_report
from firstlight.stages.init_model import drop_base
from firstlight.stages.process_clock import process_start
from firstlight.stages.request import pretrain_request
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.unknown_text import unknown_counts
from firstlight.stages.vocab_settings import kind_of, state_vocab, unused_of_kind
from firstlight.tokenizer import PixelCodec
from firstlight.train import FitResult, TrainContext, ValidationResult
from firstlight.types import Paths, as_list


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainResult(RunResult):
    """The result of a pre-training run.

    Attributes:
        tokens: target tokens trained on.
        valid_loss: in nats per target; None if there was no evaluation.
        train_unk_tokens, train_unk_fraction, valid_unk_tokens, valid_unk_fraction: unknown tokens of the splits.
        bits_per_byte, bits_per_character: of text; other sequences have bits_per_token, images bits_per_dim.
    """

    tokens: int
    valid_loss: float | None
    train_unk_tokens: int = 0
    train_unk_fraction: float = 0.0
    valid_unk_tokens: int = 0
    valid_unk_fraction: float = 0.0
    bits_per_byte: float | None = None
    bits_per_character: float | None = None
    bits_per_token: float | None = None
    bits_per_dim: float | None = None


class PretrainRecipe(Recipe[PretrainSettings, PretrainArtifacts, PretrainResult]):
    """Pre-training: next-token prediction on a token store."""

    kind = "pretrain"
    settings_class = PretrainSettings
    result_class = PretrainResult
    source_keys = (
        "run.corpus",
        "corpus.valid",
        "run.store",
        "run.init_from",
        "tokenizer.path",
        "tokenizer.vocab_source",
        "model.embeddings",
        "image.labels",
    )
    verified_keys = ("run.store", "run.init_from")
    packages = ("stages.artifacts", "stages.embedding_init", "stages.pretrain_setup")
    hashed_artifacts = {
        "tokenizer": "another tokenizer",
        "store": "another token store",
        "embeddings": "other word vectors",
    }

    def of_this_version(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Add that characters have no byte fallback to the settings of a run from before there was one."""
        table = settings.get("tokenizer", {})
        is_older = table.get("kind") == "char" and "min_frequency" in table and "byte_fallback" not in table
        return merge(settings, {"tokenizer": {"byte_fallback": False}}) if is_older else settings

    def is_same_source(self, key: str, before: Any, now: Any, settings: Mapping[str, Any]) -> bool:
        """Return whether two values name the same inputs; of a corpus without weights, in any order and by any name."""
        if super().is_same_source(key, before, now, settings):
            return True
        table = {"corpus": settings.get("corpus", {})}
        pooled = key in ("run.corpus", "corpus.valid") and flatten(settings).get("data.weights") is None
        return pooled and same_files(before, now, resolve(PretrainSettings, base=table).corpus)

    def prepare(
        self, run: RunDirectory, settings: PretrainSettings, *, prepared: bool, restores: bool
    ) -> PretrainArtifacts:
        """Make or read the tokenizer and the token store."""
        return prepare_artifacts(run, settings, prepared=prepared, restores=restores)

    def resolve(
        self, settings: PretrainSettings, artifacts: PretrainArtifacts, device_context: DeviceContext
    ) -> PretrainSettings:
        """Complete the model's shape with the vocabulary size and, for images, the number of pixels.

        What is known of a tokenizer or codec that was not made for this run is added to its settings.
        """
        config = pretrain_setup.model_config(settings, artifacts)
        tables: dict[str, Settings] = {"model": settings.model.model_copy(update=config.model_dump())}
        if settings.uses_other_vocab:
            known = {"tokenizer": settings.tokenizer, "ids": settings.ids, "image": settings.image}
            tables |= state_vocab(known, artifacts.vocab)
        if artifacts.init_lm is not None:
            tables["optim"] = scale_default_lr(
                settings.optim, self.default_rates, artifacts.init_lm, artifacts.store, device_context
            )
        return settings.model_copy(update=tables)

    def unwritten_settings(self, settings: PretrainSettings, artifacts: PretrainArtifacts) -> Collection[str]:
        """Return the tables of other kinds of corpus, and the kind of a tokenizer that cannot be trained here."""
        unwritten = set(unused_of_kind(kind_of(artifacts.vocab)))
        if _lacks_classes(artifacts):
            unwritten.add("image.class_dropout")
        if settings.uses_other_vocab and "kind" not in settings.tokenizer.model_fields_set:
            unwritten.add("tokenizer.kind")
        return unwritten

    def build(
        self,
        run: RunDirectory,
        settings: PretrainSettings,
        artifacts: PretrainArtifacts,
        device_context: DeviceContext,
        process_start: float,
    ) -> TrainContext:
        """Build model, optimizer, batches and evaluation."""
        return pretrain_setup.train_context(run, settings, artifacts, device_context, process_start)

    def finish(
        self,
        run: RunDirectory,
        settings: PretrainSettings,
        ctx: TrainContext,
        artifacts: PretrainArtifacts,
        fit: FitResult,
    ) -> PretrainResult:
        """Compare the last evaluation with the baselines."""
        main = is_main_process(ctx.device_context)
        valid = fit.valid if isinstance(fit.valid, ValidationResult) else None
        if main:
            evaluate_run(run, ctx, artifacts, valid, finished=fit.finished, seed=settings.run.seed)
            drop_base(run)
        bits: dict[str, Any] = {} if valid is None else valid.bits
        return PretrainResult(
            run=run.path,
            stopped_by=fit.stopped_by,
            finished=fit.finished,
            step=fit.step,
            tokens=fit.tokens,
            seconds=round(fit.seconds, 2),
            valid_loss=None if valid is None else valid.loss,
            report=run.report if main else None,
            best=fit.best_evaluation,
            last=fit.last_evaluation,
            **unknown_counts(artifacts.store, artifacts.vocab),
            **bits,
        )


def _lacks_classes(artifacts: PretrainArtifacts) -> bool:
    return isinstance(artifacts.vocab, PixelCodec) and not artifacts.vocab.classes


def pretrain(
    corpus: Paths = (),
    *,
    out: str | Path | None = None,
    valid: Paths = (),
    preset: str | None = None,
    init_from: str | None = None,
    resume: bool = False,
    restart: bool = False,
    overrides: str | Sequence[str] = (),
) -> PretrainResult:
    """Train a GPT on a corpus, a token store or a RUN.toml, into a run directory.

    Args:
        corpus: files, folders, globs, named corpora; or one token store; or one RUN.toml; or a run directory to resume.
        out: the run directory; by default ``runs/`` and the name of the first input.
        valid: files, folders, globs or named corpora of validation text; by default a part of the corpus.
        preset: name of a preset.
        init_from: a model whose weights the run starts from.
        resume: continue the run in ``out``; start it if there is none; do nothing if it has finished.
        restart: train the run in ``out`` again from step 0; its checkpoints and logs are moved aside.
        overrides: settings as ``key=value``.

    Raises:
        FirstlightError: bad input, or a run that cannot continue.
    """
    started = process_start()
    recipe = PretrainRecipe()
    request = pretrain_request(
        recipe,
        as_list(corpus),
        out=None if out is None else Path(out),
        valid=as_list(valid),
        preset_name=preset,
        init_from=init_from,
        resume=resume,
        restart=restart,
        overrides=as_list(overrides),
    )
    return run_recipe(recipe, request, process_start=started, write_report=write_report)


def dry_run(
    corpus: Paths = (),
    *,
    out: str | Path | None = None,
    valid: Paths = (),
    preset: str | None = None,
    init_from: str | None = None,
    overrides: str | Sequence[str] = (),
    on_estimate: Callable[[Plan], object] = lambda _: None,
) -> Plan:
    """Check everything that ``pretrain`` checks, time a part of a step in memory, and return the plan; write nothing.

    ``on_estimate`` is called with the plan before anything is timed; the other arguments are those of ``pretrain``.

    Raises:
        FirstlightError: bad input.
    """
    recipe = PretrainRecipe()
    request = pretrain_request(
        recipe,
        as_list(corpus),
        out=None if out is None else Path(out),
        valid=as_list(valid),
        preset_name=preset,
        init_from=init_from,
        resume=False,
        overrides=as_list(overrides),
    )
    return plan_dry_run(recipe, request.settings, on_estimate)
