"""Prepare what a fine-tuning run is built from: the model to start from, the tokenizer, the tasks and their rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.errors import UsageError
from firstlight.finetuning import (
    DELIMITER,
    EXTRACT,
    PAD,
    START,
    EncodedExample,
    Preprocessor,
    TaskData,
    TaskSpec,
    chat_template,
    head_of,
    kind_of,
    load_task,
    read_spec,
    read_tasks,
    special_tokens,
)
from firstlight.lm import LM, Classifier
from firstlight.model import ModelConfig
from firstlight.runs import RunDirectory
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.store import TokenStore
from firstlight.tokenizer import Tokenizer

Splits = tuple[list[EncodedExample], list[EncodedExample], list[EncodedExample]]


@dataclass(frozen=True, slots=True)
class InitModel:
    """The model to start from; its weights are read when a run starts, and not kept in memory."""

    config: ModelConfig
    source: Path


@dataclass(frozen=True, slots=True)
class FinetuneArtifacts:
    """What a fine-tuning run is built from.

    Attributes:
        init_model: the pre-trained model.
        tokenizer: with the tokens that the tasks add.
        tasks: the examples of each task, by name.
        rows: the tokenized rows of each task: (train, valid, test), by name.
        store: the token store that the model was pre-trained on, if it is there.
    """

    init_model: InitModel
    tokenizer: Tokenizer
    tasks: dict[str, TaskData]
    rows: dict[str, Splits]
    store: TokenStore | None

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks by name."""
        return {name: data.spec for name, data in self.tasks.items()}

    @property
    def classifier(self) -> Classifier | None:
        """The head for which transformers has a class, if there is exactly one task and its kind has one."""
        if len(self.tasks) != 1:
            return None
        spec = next(iter(self.specs.values()))
        head = head_of(spec)
        if not kind_of(spec).sequence_classification or spec.pool != "last" or head is None:
            return None
        return Classifier(spec.name, spec.labels if head.has_classes else ())


def prepare_artifacts(run: RunDirectory, settings: FinetuneSettings) -> FinetuneArtifacts:
    """Read the model to start from, the tasks and their rows.

    The tasks of a run that is resumed are those of its ``tasks.json``, not of the original files.

    Raises:
        UsageError: two tasks of the same name, or a model without a tokenizer.
    """
    assert settings.run.init_from is not None
    specs = _read_specs(run, settings)
    init_lm = LM.load_fp32(settings.run.init_from)
    if init_lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it cannot read text", where=settings.run.init_from)
    assert init_lm.source is not None, "it was read from there"
    tokenizer = _extend_tokenizer(init_lm.tokenizer, specs, settings)
    tasks = {spec.name: load_task(spec, seed=settings.run.seed) for spec in specs}
    rows = {name: _tokenize(data, tokenizer, init_lm.config.block_size) for name, data in tasks.items()}
    init_model = InitModel(init_lm.config, init_lm.source)
    return FinetuneArtifacts(init_model, tokenizer, tasks, rows, find_token_store(init_lm, needed=False))


def _read_specs(run: RunDirectory, settings: FinetuneSettings) -> list[TaskSpec]:
    if run.exists and run.tasks_file.is_file():
        return list(read_tasks(run.path).values())
    data = None if settings.run.data is None else Path(settings.run.data)
    specs = [read_spec(Path(t), data=data) for t in settings.run.tasks]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("two tasks have this name", where=name, fix="Rename one of them in its TOML file.")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UsageError("is not a valid name of a task", where=name, expected="letters, digits, - and _")
    return specs


def _extend_tokenizer(tokenizer: Tokenizer, specs: Sequence[TaskSpec], settings: FinetuneSettings) -> Tokenizer:
    """Add the special tokens of the tasks, and a chat template if one of them is a chat."""
    table, kinds = settings.finetune, [kind_of(spec) for spec in specs]
    uses_adapter = table.adapter.kind != "none"
    is_new = table.special_tokens == "new" or (table.special_tokens == "auto" and not uses_adapter)
    added = special_tokens(specs) if is_new else []
    around = (START, DELIMITER, EXTRACT) if is_new else (tokenizer.eot,) * 3
    kept: dict[str, Any] = {"pad_token": PAD} if PAD in added else {}
    single = len(specs) == 1 and kinds[0].sequence_classification
    extended = tokenizer.with_special_tokens(added, template=around if single else None, extra_config=kept)
    is_chat = any(kind.inputs.is_chat for kind in kinds)
    return (
        extended.with_special_tokens([], extra_config={"chat_template": chat_template(extended)})
        if is_chat
        else extended
    )


def _tokenize(data: TaskData, tokenizer: Tokenizer, block_size: int) -> Splits:
    preprocess = Preprocessor(data.spec, tokenizer, block_size)
    splits = preprocess(data.train), preprocess(data.valid), preprocess(data.test)
    for note in data.notes:
        progress.notice(f"{data.spec.name}: {note}")
    if preprocess.n_truncated:
        progress.notice(
            f"{data.spec.name}: {preprocess.n_truncated:,} inputs longer than {block_size} tokens were truncated "
            f"(truncation = {data.spec.truncation})"
        )
    return splits
