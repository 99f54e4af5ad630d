"""Prepare what a fine-tuning run is built from: the model to start from, the tokenizer, the tasks and their rows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from firstlight import parallel, progress
from firstlight import tokenizer as tokenizers
from firstlight.errors import CheckpointError, CompatibilityError, CorpusError, UsageError
from firstlight.files.run_layout import TASKS
from firstlight.finetuning import (
    PAD,
    EncodedTask,
    PreparedTask,
    SpecialTokens,
    TaskSpec,
    changed_tables,
    chat_template,
    encode_task,
    head_of,
    kind_of,
    load_task,
    read_rows,
    read_spec,
    read_tasks,
    save_rows,
    special_tokens,
    split_files,
)
from firstlight.lm import LM, Classifier, GenerationConfig
from firstlight.lm.save import CONFIG
from firstlight.model import ModelConfig
from firstlight.runs import RunDirectory
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.init_model import keep_base, load_init_model, saved_model
from firstlight.stages.parent_store import check_replay, parent_store
from firstlight.store import TokenStore
from firstlight.tokenizer import Tokenizer, describe_unknown, unknown_share


@dataclass(frozen=True, slots=True)
class InitModel:
    """The model to start from; its weights are read when a run starts, and not kept in memory.

    Attributes:
        config: its shape.
        source: its directory; None where the run goes on from a checkpoint, with the weights in that.
        generation: its special ids and settings of generation.
        n_known: one more than the highest id in use.
        heads: number of outputs of its heads, by task; empty where the run goes on from a checkpoint.
    """

    config: ModelConfig
    source: Path | None
    generation: GenerationConfig
    n_known: int
    heads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FinetuneArtifacts:
    """What a fine-tuning run is built from.

    Attributes:
        init_model: the pre-trained model.
        tokenizer: with the tokens that the tasks add.
        tasks: the tasks with their tokenized rows, by name.
        store: the token store that the model was pre-trained on, if it is there.
    """

    init_model: InitModel
    tokenizer: Tokenizer
    tasks: dict[str, PreparedTask]
    store: TokenStore | None

    @property
    def rows(self) -> dict[str, EncodedTask]:
        """The tokenized rows of each task, by name."""
        return {name: task.rows for name, task in self.tasks.items()}

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks by name."""
        return {name: data.spec for name, data in self.tasks.items()}

    @property
    def new_heads(self) -> list[str]:
        """The tasks whose head the model to start from lacks, so that it is random at first."""
        outputs = {name: head.n_outputs(spec) for name, spec in self.specs.items() if (head := head_of(spec))}
        return [name for name, n in outputs.items() if self.init_model.heads.get(name) != n]

    @property
    def classifier(self) -> Classifier | None:
        """The head, if there is exactly one task and transformers has a class for its kind."""
        if len(self.tasks) != 1:
            return None
        spec = next(iter(self.specs.values()))
        kind, head = kind_of(spec), head_of(spec)
        if not kind.sequence_classification or head is None:
            return None
        is_pair = any("text2" in columns for columns in kind.inputs.columns)
        if head.has_classes:
            return Classifier(spec.name, spec.labels, is_pair=is_pair, reads_mean=spec.pool == "mean")
        return Classifier(spec.name, (), spec.scale, is_pair, reads_mean=spec.pool == "mean")


def prepare_artifacts(
    run: RunDirectory, settings: FinetuneSettings, *, prepared: bool = False, restores: bool = False
) -> FinetuneArtifacts:
    """Read the model to start from, the tasks and their rows; what a resume needs of them is kept in the run.

    The tasks of a run that is resumed are those of its ``tasks.json``, and their rows those in the run, unless the
    original files were moved and are named anew.

    Args:
        run: the run directory.
        settings: of the run.
        prepared: use the rows that the run holds.
        restores: the run goes on from a checkpoint, which has the weights of all but adapters.

    Raises:
        UsageError: two tasks of the same name, or a model without a tokenizer.
        CorpusError: a row cannot be used, or most of the texts are unknown to the tokenizer.
        CompatibilityError: the tasks' files were changed since the run began.
    """
    specs = _read_specs(run, settings)
    keeps = settings.finetune.adapter.kind == "none" or settings.finetune.keep_base
    if restores and settings.finetune.adapter.kind == "none":
        saved, tokenizer = saved_model(run), tokenizers.load(run.tokenizer)
        init_model = InitModel(saved.config, None, saved.generation, tokenizer.vocab_size)
        store = parent_store(run, settings)
    else:
        init_model, init_lm = read_init_model(run, settings, prepared=prepared)
        assert init_lm.tokenizer is not None
        tokenizer = _extend_tokenizer(init_lm.tokenizer, init_model.n_known, specs, settings)
        store = parent_store(run, settings) if run.exists else find_token_store(init_lm, needed=False)
        check_replay(settings, store)
    specs = [_with_pool(spec, settings, init_model) for spec in specs]
    if keeps and not prepared and parallel.is_first_rank():
        assert init_model.source is not None
        keep_base(init_model.source, run.base)
    if keeps and (run.base / CONFIG).is_file():
        init_model = replace(init_model, source=run.base)
    names_anew = run.exists and _names_tasks_anew(run, settings)
    tasks = _read_kept_rows(run, settings, specs, tokenizer) if prepared and not names_anew else None
    if tasks is None:
        tasks = {spec.name: _prepare_task(spec, settings, tokenizer, init_model.config.block_size) for spec in specs}
        if not names_anew and parallel.is_first_rank():
            save_rows(run.rows, tasks.values(), tokenizer.hash)
    for name, task in tasks.items():
        for note in [*task.notes, *task.rows.notes]:
            progress.notice(f"{name}: {note}")
    return FinetuneArtifacts(init_model, tokenizer, tasks, store)


def read_init_model(run: RunDirectory, settings: FinetuneSettings, *, prepared: bool) -> tuple[InitModel, LM]:
    """Load the model to start from.

    Raises:
        UsageError: it is not there, or has no tokenizer.
        CheckpointError: it is damaged.
    """
    assert settings.run.init_from is not None
    adapters = settings.finetune.adapter.kind != "none"
    init_lm = load_init_model(run, settings.run.init_from, own=prepared, adapters=adapters)
    if init_lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it cannot read text", where=settings.run.init_from)
    assert init_lm.source is not None, "it was read from there"
    n_known = max(init_lm.tokenizer.vocab_size, *(i + 1 for i in init_lm.eos_ids))
    weights = init_lm.model.state_dict()
    heads = {name: len(weights[f"heads.{name}.weight"]) for name in init_lm.model.heads}
    return InitModel(init_lm.config, init_lm.source, init_lm.generation, n_known, heads), init_lm


def _prepare_task(spec: TaskSpec, settings: FinetuneSettings, tokenizer: Tokenizer, block_size: int) -> PreparedTask:
    data = load_task(spec, seed=settings.data.seed)
    rows = encode_task(data, tokenizer, block_size)
    _check_unknown(spec.name, rows, data.spec.data.max_unk_fraction)
    return PreparedTask(data.spec, rows, data.notes, data.fingerprint)


def _read_kept_rows(
    run: RunDirectory, settings: FinetuneSettings, specs: Sequence[TaskSpec], tokenizer: Tokenizer
) -> dict[str, PreparedTask] | None:
    """Read the rows that the run holds; None where it has none, or they are damaged and can be encoded again."""
    if not run.rows.is_dir():  # of an earlier version
        return None
    try:
        kept = read_rows(run.rows, [spec.name for spec in specs], tokenizer.hash)
    except CheckpointError as error:
        try:
            for spec in specs:
                split_files(spec)
        except (CorpusError, OSError):
            raise CheckpointError(
                f"{error.problem}; the files of the tasks are not there either, so that the rows cannot be encoded "
                "again",
                where=error.where or run.rows,
                found=error.found,
                fix="Put the files back, or add their new place to the command, as --data FOLDER.",
            ) from error
        progress.warn(f"the rows in the run are not used, and encoded again from their files: {error}")
        return None
    found = {}
    for spec in specs:
        task = kept[spec.name]
        data = task.spec.data.model_copy(update={"folder": spec.data.folder})
        found[spec.name] = replace(task, spec=task.spec.model_copy(update={"data": data}))
        if run.exists:
            _compare_tables(found[spec.name], settings)
    return found


def _compare_tables(task: PreparedTask, settings: FinetuneSettings) -> None:
    """Compare the files of a task with those that the rows in the run were read from, where they are still there."""
    changed = changed_tables(task.spec, task.fingerprint, seed=settings.data.seed)
    if changed is None:
        progress.notice(
            f"{task.spec.data.folder}: files of the task {task.spec.name} are not there; the run has its rows"
        )
    elif changed and parallel.is_first_rank():
        raise CompatibilityError(
            f"the files of the task {task.spec.name} were changed since the run began",
            where=task.spec.data.folder,
            fix="Put the original ones back, or move these away, since the run has a copy of its rows. For these rows "
            "start a new run from its run.toml with another --out.",
        )


def _check_unknown(name: str, task: EncodedTask, limit: float) -> None:
    """Refuse texts most of which the model does not know."""
    if unknown_share(task.unknown, task.n_tokens, task.n_bytes) > limit:
        raise CorpusError(
            "most of the texts are unknown to the model's tokenizer" if limit >= 0.5 else "too much text is unknown",
            where=f"task {name}",
            found=describe_unknown(task.unknown, task.n_tokens, task.n_bytes),
            expected=f"at most {100 * limit:g} % (data.max_unk_fraction)",
            fix="Fine-tune a model that was trained on such text, or set max_unk_fraction = 1 in [data] of the task.",
        )


def _read_specs(run: RunDirectory, settings: FinetuneSettings) -> list[TaskSpec]:
    if run.exists and run.tasks_file.is_file() and not _names_tasks_anew(run, settings):
        return list(read_tasks(run.path).values())
    return read_specs(settings.run.tasks, settings.run.data, settings.task)


def _reads_texts(spec: TaskSpec) -> bool:
    """Whether a task has a head for whole texts."""
    head = head_of(spec)
    return head is not None and not head.is_per_token


def _with_pool(spec: TaskSpec, settings: FinetuneSettings, init_model: InitModel) -> TaskSpec:
    """Return a task with what its head reads: a head that the model has already reads what it has learned to."""
    if spec.pool != "auto" or not _reads_texts(spec):
        return spec
    pool, source = settings.finetune.pool, init_model.source
    if source is not None and (source / TASKS).is_file() and spec.name in init_model.heads:
        before = read_tasks(source).get(spec.name)
        if before is not None and _reads_texts(before) and before.pool != pool:
            progress.notice(f"{spec.name}: the head of the starting model reads the {before.pool} (finetune.pool)")
            return spec.model_copy(update={"pool": before.pool})
    return spec.model_copy(update={"pool": pool})


def read_specs(
    tasks: Sequence[str | Path], data: str | Path | None, overrides: Mapping[str, Any] | None = None
) -> list[TaskSpec]:
    """Read TASK.toml files, whose tasks must have different names.

    Args:
        tasks: the files.
        data: folder that holds the tasks' data folders, or None for that of each file.
        overrides: tables merged over those of each file.

    Raises:
        UsageError: two tasks of the same name, a name that is not valid, or a file that cannot be read.
    """
    for name in tasks:
        if Path(name).is_absolute() and not Path(name).exists():  # as in a run.toml
            fix = "If it was moved, add the new places of all tasks to the command, as 'run.tasks=[\"TASK.toml\"]'."
            raise UsageError("no such file", where=name, fix=fix)
    specs = [read_spec(Path(t), data=None if data is None else Path(data), overrides=overrides) for t in tasks]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("two tasks have this name", where=name, fix="Rename one of them in its TOML file.")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UsageError("is not a valid name of a task", where=name, expected="letters, digits, - and _")
    return specs


def unused_of_tasks(specs: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the settings of fine-tuning that have no effect on these tasks, and why."""
    unused: dict[str, str] = {}
    if specs and all(head_of(spec) is None for spec in specs):
        why = "applies to tasks with a head, but these are of kind " + " and ".join({spec.kind: "" for spec in specs})
        unused |= dict.fromkeys(("finetune.lm_weight", "finetune.head_dropout", "finetune.max_restarts"), why)
    if specs and not any(map(_reads_texts, specs)):
        unused["finetune.pool"] = "applies to tasks with a head for whole texts"
    if len(specs) == 1:
        unused["finetune.mixing"] = "applies to several tasks"
    return unused


def _names_tasks_anew(run: RunDirectory, settings: FinetuneSettings) -> bool:
    before = run.read_settings().get("run", {})
    return bool(before.get("tasks", []) != settings.run.tasks or before.get("data") != settings.run.data)


def _side(spec: TaskSpec) -> str:
    """Return the side of a text on which transformers cuts off what is too long."""
    return "left" if spec.truncation == "head" else "right"


def _extend_tokenizer(
    tokenizer: Tokenizer, n_known: int, specs: Sequence[TaskSpec], settings: FinetuneSettings
) -> Tokenizer:
    """Add the special tokens of the tasks, what transformers needs to encode as they do, and a chat template."""
    table, kinds, needed = settings.finetune, [kind_of(spec) for spec in specs], special_tokens(specs)
    uses_adapter = table.adapter.kind != "none"
    is_new = table.special_tokens == "new" or (table.special_tokens == "auto" and not uses_adapter)
    extended = tokenizer.with_special_tokens(needed, above=n_known - 1) if is_new else tokenizer
    special = SpecialTokens.of(extended)
    # transformers finds where a text ends by its padding, which must not be the last token of a row.
    lacks_pad = PAD in needed and (is_new or extended.pad_id in (None, special.extract))
    tokens = extended.tokens()
    single = len(specs) == 1 and kinds[0].sequence_classification
    # Rows of texts and chats begin with end-of-text where the tokenizer adds nothing; then prompts must, too.
    adds_bos = any(head_of(spec) is None for spec in specs) and tokenizer.bos_id is None
    extended = extended.with_special_tokens(
        [PAD] if lacks_pad else [],
        above=n_known - 1,
        template=(tokens[special.start], tokens[special.delimiter], tokens[special.extract]) if single else None,
        bos=tokenizer.eot if adds_bos else None,
        extra_config={
            **({"pad_token": PAD} if lacks_pad else {}),
            # As predict reads rows, whatever the model's own tokenizer does; transformers cannot cut the middle.
            **({"padding_side": "right", "truncation_side": _side(specs[0])} if single else {}),
        },
    )
    if single and specs[0].truncation == "middle":
        progress.notice("transformers cuts off the end of a text that is too long, not its middle as predict does")
    if not any(kind.inputs.is_chat for kind in kinds):
        return extended
    template = chat_template(extended)
    if tokenizer.chat_template not in (None, template):
        progress.notice("the chat template of the model is replaced by that of the format that it is fine-tuned on")
    return extended.with_special_tokens([], extra_config={"chat_template": template})
