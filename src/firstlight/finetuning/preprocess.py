"""Tokenization of a task's rows into sequences of ids, without the rows that have nothing to learn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from firstlight.errors import CorpusError
from firstlight.finetuning.dataset import TaskData, split
from firstlight.finetuning.examples import EncodedExample, Example
from firstlight.finetuning.kinds import head_of, kind_of
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, ROLES, START, SequenceBuilder
from firstlight.finetuning.spec import TaskSpec
from firstlight.tokenizer import Tokenizer, describe_unknown
from firstlight.types import UnknownText

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
        head = head_of(spec)
        self._compares_texts = head is not None and not head.is_per_token
        self._n_alike = 0
        self.unknown, self.n_tokens, self.n_bytes = UnknownText(), 0, 0

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
        flat = [text for row in texts for text in row]
        encoded = self._tokenizer.encode_counted(flat)
        ends = np.cumsum(encoded.counts)
        split_ids = iter(np.split(encoded.ids.astype(np.int32), ends[:-1])) if len(ends) else iter(())
        parts = [[next(split_ids) for _ in row] for row in texts]
        rows = [self._inputs.encode(example, row, self._builder) for example, row in zip(examples, parts, strict=True)]
        self.n_tokens += len(encoded.ids)
        if encoded.unknown.count:
            self.unknown += encoded.unknown
            counts = iter(encoded.unknown_counts(self._tokenizer.unknown_id).tolist())
            rows = [replace(row, unk_tokens=sum(next(counts) for _ in p)) for row, p in zip(rows, parts, strict=True)]
            self._n_alike += sum(map(_are_alike, texts, parts)) if self._compares_texts else 0
        if self._tokenizer.has_unknown:
            self.n_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in flat)
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

    def describe_unknown(self) -> list[str]:
        """Report how much of the texts so far is unknown to the tokenizer."""
        notes = [describe_unknown(self.unknown, self.n_tokens, self.n_bytes)] if self.unknown.count else []
        if self._n_alike:
            notes.append(
                f"{self._n_alike:,} rows have texts that differ only in what is unknown, so the model cannot tell them "
                "apart"
            )
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
        notes: remarks about rows that were left out, truncated or split, and unknown text, for people.
        unknown: what is unknown to the tokenizer in the texts of all rows.
        n_tokens, n_bytes: of these texts; no bytes are counted where nothing can be unknown.
    """

    train: list[EncodedExample]
    valid: list[EncodedExample]
    test: list[EncodedExample]
    notes: list[str]
    unknown: UnknownText = UnknownText()
    n_tokens: int = 0
    n_bytes: int = 0

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
    notes += [*preprocess.describe_long_rows(), *preprocess.describe_unknown()]
    return EncodedTask(train, valid, test, notes, preprocess.unknown, preprocess.n_tokens, preprocess.n_bytes)


def _are_alike(texts: Sequence[str], parts: Sequence[np.ndarray]) -> bool:
    """Whether two different texts of a row have the same ids."""
    return len({part.tobytes() for part in parts}) < len(set(texts))


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
