"""Tokenization of a task's rows into sequences of ids, without the rows that have nothing to learn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from firstlight.errors import CorpusError
from firstlight.finetuning.dataset import TaskData, split
from firstlight.finetuning.examples import EncodedExample, Example
from firstlight.finetuning.kinds import kind_of
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, ROLES, START, SequenceBuilder
from firstlight.finetuning.spec import TaskSpec
from firstlight.tokenizer import Tokenizer

# The order in which tokens are added to a vocabulary, whatever the order of the tasks.
_ORDER = (START, DELIMITER, EXTRACT, PAD, *(f"<|{role}|>" for role in ROLES))
_MAX_LISTED = 3


def special_tokens(specs: Iterable[TaskSpec]) -> list[str]:
    """Return the tokens that tasks add to a vocabulary."""
    needed = dict.fromkeys(token for spec in specs for token in kind_of(spec).inputs.special_tokens)
    return [*(t for t in _ORDER if t in needed), *(t for t in needed if t not in _ORDER)]


class Preprocessor:
    """Turns the rows of one task into token ids.

    Args:
        spec: the task.
        tokenizer: with or without special tokens of its own.
        block_size: tokens that the model can attend to.
    """

    def __init__(self, spec: TaskSpec, tokenizer: Tokenizer, block_size: int) -> None:
        self._spec, self._inputs = spec, kind_of(spec).inputs
        # Each message of a chat follows a special token.
        self._tokenizer = tokenizer.after_special if self._inputs.is_chat else tokenizer
        self._builder = SequenceBuilder(tokenizer, block_size, spec.truncation)
        self._n_split = self._n_windows = 0

    @property
    def n_truncated(self) -> int:
        """Sequences that were too long so far."""
        return self._builder.n_truncated

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode examples: one row each, unless the kind of the task splits long ones.

        Raises:
            UsageError: a row is too long and the task says ``truncation = "error"``.
        """
        texts = [self._inputs.texts_to_encode(example, self._tokenizer) for example in examples]
        flat, counts = self._tokenizer.encode_batch([text for row in texts for text in row])
        ends = np.cumsum(counts)
        parts = iter(np.split(flat.astype(np.int32), ends[:-1])) if len(counts) else iter(())
        rows = [
            self._inputs.encode(example, [next(parts) for _ in row], self._builder)
            for example, row in zip(examples, texts, strict=True)
        ]
        return [window for row in rows for window in self._split(row)] if self._inputs.splits_long_rows else rows

    def describe_long_rows(self) -> list[str]:
        """Report how many rows so far were longer than the block size, and what was done with them."""
        T, notes = self._builder.block_size, []
        if self._n_split:
            notes.append(f"{self._n_split:,} texts longer than {T} tokens were split into {self._n_windows:,} rows")
        if self.n_truncated:
            note = f"{self.n_truncated:,} inputs longer than {T} tokens were truncated"
            note += f" (truncation = {self._spec.truncation})"
            notes.append(note + (f"; {self._builder.n_lost:,} targets were lost" if self._builder.n_lost else ""))
        return notes

    def _split(self, row: EncodedExample) -> list[EncodedExample]:
        """Split a row into windows that each begin as the row does; every token is a target once."""
        (ids,), T = row.sequences, self._builder.block_size - 1
        if len(ids) <= T + 1 or T < 1:
            return [row]
        windows = [
            replace(
                row,
                sequences=(np.concatenate([ids[:1], ids[first : first + T]]),),
                loss_mask=(False, *row.loss_mask[first : first + T]),
            )
            for first in range(1, len(ids), T)
        ]
        self._n_split, self._n_windows = self._n_split + 1, self._n_windows + len(windows)
        return windows


@dataclass(frozen=True, slots=True)
class EncodedTask:
    """The tokenized rows of a task that have something to learn.

    Attributes:
        train, valid, test: rows; test may be empty.
        notes: remarks about rows that were left out, truncated or split, for people.
    """

    train: list[EncodedExample]
    valid: list[EncodedExample]
    test: list[EncodedExample]
    notes: list[str]

    def split(self, name: str) -> list[EncodedExample]:
        """Return the rows of train, valid or test."""
        rows: list[EncodedExample] = getattr(self, name)
        return rows


def encode_task(data: TaskData, tokenizer: Tokenizer, block_size: int) -> EncodedTask:
    """Encode the rows of a task, and drop those without a target.

    Raises:
        CorpusError: no row of a split has a target.
        UsageError: a row is too long and the task says ``truncation = "error"``.
    """
    preprocess, notes = Preprocessor(data.spec, tokenizer, block_size), list[str]()
    train, no_target = _encode_split("training", data.train, preprocess, notes)
    if not train:
        raise _nothing_to_learn(data.spec, "training", no_target, preprocess)
    valid, no_target = _encode_split("validation", data.valid, preprocess, notes)
    if not valid and data.valid_seed is not None and len(train) > 1:
        train, valid = split(train, data.spec.valid_ratio, data.valid_seed)
        notes.append(f"{len(valid):,} other training rows became validation rows")
    if not valid:
        raise _nothing_to_learn(data.spec, "validation", no_target, preprocess)
    test, no_target = _encode_split("test", data.test, preprocess, notes)
    if no_target and not test:
        raise _nothing_to_learn(data.spec, "test", no_target, preprocess)
    return EncodedTask(train, valid, test, [*notes, *preprocess.describe_long_rows()])


def _encode_split(
    title: str, examples: Sequence[Example], preprocess: Preprocessor, notes: list[str]
) -> tuple[list[EncodedExample], list[str]]:
    """Return the rows of a split that have a target, and where the others are."""
    rows = preprocess(examples)
    no_target = [row.where for row in rows if not row.n_targets]
    if no_target:
        listed = ", ".join(no_target[:_MAX_LISTED]) + (" …" if len(no_target) > _MAX_LISTED else "")
        notes.append(
            f"{len(no_target):,} of {len(rows):,} {title} rows have nothing to learn and are left out: {listed}"
        )
    return [row for row in rows if row.n_targets], no_target


def _nothing_to_learn(spec: TaskSpec, title: str, no_target: list[str], preprocess: Preprocessor) -> CorpusError:
    fix = "Give it rows with something to learn: a chat needs a message of the assistant that is not empty."
    if preprocess.n_truncated:
        can_keep_end = spec.truncation == "tail" and "head" in kind_of(spec).inputs.truncations
        other = 'set truncation = "head" in the task' if can_keep_end else "shorten the rows"
        fix = f"What is to be learned is beyond the model's block size: {other}, or use a model with a larger one."
    return CorpusError(
        f"task {spec.name}: none of the {title} rows has anything to learn",
        where=no_target[0],
        found=f"{len(no_target):,} rows",
        fix=fix,
    )
