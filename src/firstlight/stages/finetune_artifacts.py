"""Prepare what a fine-tuning run is built from: the model to start from, the tokenizer, the tasks and their rows."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight import progress
from firstlight.errors import CorpusError, UsageError
from firstlight.files import sha256
from firstlight.finetuning import (
    PAD,
    EncodedTask,
    SpecialTokens,
    TaskData,
    TaskSpec,
    chat_template,
    encode_task,
    head_of,
    kind_of,
    load_task,
    read_spec,
    read_tasks,
    special_tokens,
)
from firstlight.lm import Classifier, GenerationConfig
from firstlight.model import ModelConfig
from firstlight.runs import RunDirectory
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.init_model import load_init_model
from firstlight.store import TokenStore
from firstlight.tokenizer import Tokenizer, describe_unknown, unknown_share


@dataclass(frozen=True, slots=True)
class InitModel:
    """The model to start from; its weights are read when a run starts, and not kept in memory.

    Attributes:
        config: its shape.
        source: its directory.
        generation: its special ids and settings of generation.
        n_known: one more than the highest id in use.
    """

    config: ModelConfig
    source: Path
    generation: GenerationConfig
    n_known: int

    def hash_weights(self) -> str:
        """Compute the SHA-256 of the files of its weights."""
        files = sorted(self.source.glob("*.safetensors"))
        return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FinetuneArtifacts:
    """What a fine-tuning run is built from.

    Attributes:
        init_model: the pre-trained model.
        tokenizer: with the tokens that the tasks add.
        tasks: the examples of each task, by name.
        rows: the tokenized rows of each task, by name.
        store: the token store that the model was pre-trained on, if it is there.
    """

    init_model: InitModel
    tokenizer: Tokenizer
    tasks: dict[str, TaskData]
    rows: dict[str, EncodedTask]
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
        return Classifier(spec.name, spec.labels, None) if head.has_classes else Classifier(spec.name, (), spec.scale)


def prepare_artifacts(run: RunDirectory, settings: FinetuneSettings) -> FinetuneArtifacts:
    """Read the model to start from, the tasks and their rows.

    The tasks of a run that is resumed are those of its ``tasks.json``, not of the original files, unless these were
    moved and are named anew.

    Raises:
        UsageError: two tasks of the same name, or a model without a tokenizer.
        CorpusError: a row cannot be used, or most of the texts are unknown to the tokenizer.
    """
    assert settings.run.init_from is not None
    specs = _read_specs(run, settings)
    init_lm = load_init_model(run, settings.run.init_from)
    if init_lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it cannot read text", where=settings.run.init_from)
    assert init_lm.source is not None, "it was read from there"
    n_known = max(init_lm.tokenizer.vocab_size, *(i + 1 for i in init_lm.eos_ids))
    tokenizer = _extend_tokenizer(init_lm.tokenizer, n_known, specs, settings)
    tasks = {spec.name: load_task(spec, seed=settings.data.seed) for spec in specs}
    rows = {name: encode_task(data, tokenizer, init_lm.config.block_size) for name, data in tasks.items()}
    for name, task in rows.items():
        _check_unknown(name, task, tasks[name].spec.data.max_unk_fraction)
    init_model = InitModel(init_lm.config, init_lm.source, init_lm.generation, n_known)
    for name, data in tasks.items():
        for note in [*data.notes, *rows[name].notes]:
            progress.notice(f"{name}: {note}")
    return FinetuneArtifacts(init_model, tokenizer, tasks, rows, find_token_store(init_lm, needed=False))


def _check_unknown(name: str, task: EncodedTask, limit: float) -> None:
    """Refuse texts most of which the model does not know."""
    if unknown_share(task.unknown, task.n_tokens, task.n_bytes) > limit:
        raise CorpusError(
            "most of the texts are unknown to the model's tokenizer" if limit >= 0.5 else "too much text is unknown",
            where=f"task {name}",
            found=describe_unknown(task.unknown, task.n_tokens),
            expected=f"at most {100 * limit:g} % (data.max_unk_fraction)",
            fix="Fine-tune a model that was trained on such text, or set max_unk_fraction = 1 in [data] of the task.",
        )


def _read_specs(run: RunDirectory, settings: FinetuneSettings) -> list[TaskSpec]:
    if run.exists and run.tasks_file.is_file() and not _names_tasks_anew(run, settings):
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
