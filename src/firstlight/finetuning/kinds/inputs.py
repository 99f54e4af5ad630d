"""The input formats: texts, pairs, questions with answers, words; and texts and chats for the language model's loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from firstlight.errors import CorpusError
from firstlight.finetuning.examples import EncodedExample, Example
from firstlight.finetuning.kinds.interface import InputFormat
from firstlight.finetuning.readers import read_column
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, ROLES, START, SequenceBuilder, role_ids
from firstlight.finetuning.spec import Columns

_HEAD_TOKENS = (START, DELIMITER, EXTRACT, PAD)


class EmptyTextError(CorpusError):
    """A row without text."""


@dataclass(frozen=True, slots=True)
class TextInput(InputFormat):
    """One text."""

    columns: ClassVar = (("text",),)
    special_tokens: ClassVar = _HEAD_TOKENS

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the text."""
        return (read_text(record, columns.text, where),), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return start, text, extract."""
        return encode_orders([parts], example, builder)


@dataclass(frozen=True, slots=True)
class TextPairInput(InputFormat):
    """Two texts with a delimiter between them.

    Attributes:
        both_orders: one sequence per order, for pairs whose order has no meaning.
    """

    both_orders: bool = False
    columns: ClassVar = (("text", "text2"),)
    special_tokens: ClassVar = _HEAD_TOKENS

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return both texts."""
        return (read_text(record, columns.text, where), read_text(record, columns.text2, where)), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return start, first, delimiter, second, extract; with ``both_orders`` also the other way round."""
        orders = [parts, parts[::-1]] if self.both_orders else [parts]
        return encode_orders(orders, example, builder)


@dataclass(frozen=True, slots=True)
class ChoicesInput(InputFormat):
    """A question and two or more answers, each of which makes a sequence with the question."""

    columns: ClassVar = (("question", "choices"),)
    special_tokens: ClassVar = _HEAD_TOKENS

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the question, then the answers."""
        question, column = read_text(record, columns.question, where), columns.choices
        if isinstance(column, list):
            found = [read_column(record, name, where) for name in column]
        else:
            found = read_column(record, column, where)
        if not isinstance(found, list) or len(found) < 2:
            raise CorpusError("has fewer than two answers", where=f"{where}: column {column}", found=repr(found)[:80])
        answers = [str(answer).strip() for answer in found]
        if not all(answers):
            raise CorpusError("has an empty answer", where=f"{where}: column {column}")
        return (question, *answers), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return start, question, delimiter, answer, extract of every answer."""
        return encode_orders([[parts[0], answer] for answer in parts[1:]], example, builder)


@dataclass(frozen=True, slots=True)
class TokensInput(InputFormat):
    """A list of words, each of which has a label."""

    columns: ClassVar = (("tokens",),)
    special_tokens: ClassVar = _HEAD_TOKENS

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the words, all but the first with a space before them, as byte-level BPE has them within a text."""
        words = read_column(record, columns.tokens, where)
        words = words.split() if isinstance(words, str) else words
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and w for w in words):
            raise CorpusError("has no words, or an empty one", where=where)
        return tuple(w if i == 0 else f" {w}" for i, w in enumerate(words)), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return one sequence, read at each word's last token; words that do not fit lose their labels."""
        special, labels = builder.special, example.label
        limit = builder.block_size - 2
        ends = np.cumsum([len(word) for word in parts])
        n = int(np.searchsorted(ends, limit, side="right"))
        if n < len(parts):
            builder.count_truncated(int(ends[-1]) - limit, limit, example.where)
        ids = np.concatenate([[special.start], *parts[:n], [special.extract]]).astype(np.int32)
        kept = labels[:n] if isinstance(labels, tuple) else labels
        return EncodedExample((ids,), tuple(int(end) for end in ends[:n]), kept, example.where)


@dataclass(frozen=True, slots=True)
class PlainTextInput(InputFormat):
    """A text for the language model's loss, between end-of-text tokens."""

    columns: ClassVar = (("text",),)

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the text."""
        return (read_text(record, columns.text, where),), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return end-of-text, text, end-of-text; every token after the first is a target."""
        return encode_messages(example, ("",), parts, builder)


@dataclass(frozen=True, slots=True)
class ChatInput(InputFormat):
    """A chat for the language model's loss: a list of messages, or a prompt and its answer."""

    columns: ClassVar = (("messages",), ("text", "text2"))
    special_tokens: ClassVar = tuple(f"<|{role}|>" for role in ROLES)
    is_chat: ClassVar = True

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the messages and their roles."""
        if columns.messages is None:
            texts = read_text(record, columns.text, where), read_text(record, columns.text2, where)
            return texts, ("user", "assistant")
        messages = read_column(record, columns.messages, where)
        try:
            pairs = [(str(m["role"]), str(m["content"])) for m in messages]
        except (TypeError, KeyError) as error:
            raise CorpusError(
                "is not a list of messages", where=where, found=repr(messages)[:80], expected="{role, content} objects"
            ) from error
        unknown = next((role for role, _ in pairs if role not in ROLES), None)
        if unknown is not None:
            raise CorpusError("has an unknown role", where=where, found=unknown, expected=", ".join(ROLES))
        if not any(role == "assistant" and text.strip() for role, text in pairs):
            raise CorpusError("has no message of the assistant, so there is nothing to learn", where=where)
        return tuple(text for _, text in pairs), tuple(role for role, _ in pairs)

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return the whole chat; targets are the assistant's messages and the end-of-text after each."""
        return encode_messages(example, example.roles, parts, builder)


def read_text(record: Any, column: Any, where: str) -> str:
    """Return the text of a column, or of several joined with line breaks.

    Raises:
        EmptyTextError: there is none.
        CorpusError: a column is missing.
    """
    columns = column if isinstance(column, list) else [column]
    parts = []
    for name in columns:
        value = read_column(record, name, where)
        parts.append("\n".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value))
    text = "\n".join(part.strip() for part in parts if part.strip())
    if not text:
        raise EmptyTextError(
            "is empty", where=f"{where}: column {column}", fix='Fill or remove that row, or set data.on_empty = "drop".'
        )
    return text


def encode_orders(orders: Sequence[list[np.ndarray]], example: Example, builder: SequenceBuilder) -> EncodedExample:
    """Return one sequence per list of parts, each read at its last token."""
    sequences = tuple(builder.join(parts, example.where) for parts in orders)
    return EncodedExample(sequences, tuple(len(s) - 1 for s in sequences), example.label, example.where)


def encode_messages(
    example: Example, roles: Sequence[str], parts: list[np.ndarray], builder: SequenceBuilder
) -> EncodedExample:
    """Return messages between end-of-text tokens; targets are those without a role, and the assistant's."""
    eot = builder.tokenizer.eot_id
    ids, mask = [eot], [False]
    for role, part in zip(roles, parts, strict=True):
        prefix = role_ids(builder.tokenizer, role) if role else []
        ids += [*prefix, *part.tolist(), eot]
        mask += [False] * len(prefix) + [role in ("", "assistant")] * (len(part) + 1)
    n = builder.block_size
    if len(ids) > n:
        builder.count_truncated(len(ids) - n, n, example.where)
    return EncodedExample((np.array(ids[:n], dtype=np.int32),), (), None, example.where, tuple(mask[:n]))
