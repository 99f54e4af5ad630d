"""The input formats: texts, pairs, questions with answers, words; and texts and chats for the language model's loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from firstlight.errors import CorpusError
from firstlight.finetuning.columns import read_column
from firstlight.finetuning.examples import EncodedExample, Example
from firstlight.finetuning.kinds.choices import read_choices
from firstlight.finetuning.kinds.column_text import read_text, split_words, to_text
from firstlight.finetuning.kinds.interface import InputFormat
from firstlight.finetuning.kinds.messages import (
    chat_messages,
    detect_chat_columns,
    read_chat,
    read_turns,
    unused_chat_keys,
    unused_message_keys,
)
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, ROLES, START, SequenceBuilder, role_text
from firstlight.finetuning.spec import Columns
from firstlight.tokenizer import Tokenizer

_HEAD_TOKENS = (START, DELIMITER, EXTRACT, PAD)


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
        """Return the question, then the answers; those that are missing are empty."""
        question = read_text(record, columns.question, where)
        return (question, *read_choices(record, columns, where).texts), ()

    def read_choice_labels(self, record: Any, columns: Columns, where: str) -> tuple[str, ...]:
        """Return the names of the answers."""
        return read_choices(record, columns, where).labels

    def identifying_texts(self, example: Example) -> Sequence[str]:
        """Return the question: rows with different questions may have the same answer, such as yes."""
        return example.texts[:1]

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return start, question, delimiter, answer, extract of every answer that is not missing."""
        kept = tuple(i for i, text in enumerate(example.texts[1:]) if text)
        encoded = encode_orders([[parts[0], parts[i + 1]] for i in kept], example, builder)
        return replace(encoded, choices=kept)


@dataclass(frozen=True, slots=True)
class TokensInput(InputFormat):
    """A list of words, each of which has a label."""

    columns: ClassVar = (("tokens",),)
    special_tokens: ClassVar = _HEAD_TOKENS
    truncations: ClassVar = ("tail", "error")

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the words, all but the first with a space before them, as byte-level BPE has them within a text."""
        found = read_column(record, columns.tokens, where)
        found = split_words(found, f"{where}: column {columns.tokens}") if isinstance(found, str) else found
        words = [to_text(word, columns.tokens, where) for word in found] if isinstance(found, list) else []
        if not words or not all(words):
            raise CorpusError("has no words, or an empty one", where=where, found=repr(found)[:80])
        return tuple(w if i == 0 else f" {w}" for i, w in enumerate(words)), ()

    def identifying_texts(self, example: Example) -> Sequence[str]:
        """Return the sentence."""
        return ("".join(example.texts),)

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return one sequence, read at each word's last token; words that do not fit lose their labels."""
        special, labels = builder.special, example.label
        limit = builder.block_size - 2
        ends = np.cumsum([len(word) for word in parts])
        n = int(np.searchsorted(ends, limit, side="right"))
        if n < len(parts):
            builder.count_truncated(int(ends[-1]) - limit, limit, example.where)
            builder.n_lost += len(parts) - n
        ids = np.concatenate([[special.start], *parts[:n], [special.extract]]).astype(np.int32)
        kept = labels[:n] if isinstance(labels, tuple) else labels
        return EncodedExample((ids,), tuple(int(end) for end in ends[:n]), kept, example.where)


@dataclass(frozen=True, slots=True)
class PlainTextInput(InputFormat):
    """A text for the language model's loss, from the token that begins a text to end-of-text."""

    columns: ClassVar = (("text",),)
    splits_long_rows: ClassVar = True
    truncations: ClassVar = ("tail", "error")

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the text."""
        return (read_text(record, columns.text, where),), ()

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return the whole text and end-of-text; every token after the first, which begins the text, is a target."""
        ids = [builder.tokenizer.start_id, *parts[0].tolist(), builder.tokenizer.eot_id]
        if builder.truncation == "error":
            builder.fit(ids, [True] * len(ids), example.where)
        loss_mask = (False, *[True] * (len(ids) - 1))
        return EncodedExample((np.array(ids, dtype=np.int32),), (), None, example.where, loss_mask)


@dataclass(frozen=True, slots=True)
class ChatInput(InputFormat):
    """A chat for the language model's loss: a list of messages, or a prompt and its answer."""

    columns: ClassVar = (("messages",), ("text", "text2"), ())
    optional_columns: ClassVar = ("system", "history")
    special_tokens: ClassVar = tuple(f"<|{role}|>" for role in ROLES)
    is_chat: ClassVar = True

    def detect_columns(self, record: Any) -> Columns | None:
        """Return the columns of OpenAI's, ShareGPT's and Alpaca's files, and of TRL's prompts and completions."""
        return detect_chat_columns(record)

    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the messages and their roles."""
        return (read_turns if columns.messages is None else read_chat)(record, columns, where)

    def unused_keys(self, record: Any, columns: Columns) -> list[str]:
        """Return the keys of messages besides role and text, such as ``reasoning_content``, and columns about chats."""
        found = unused_chat_keys(record, columns)
        return found if columns.messages is None else found + unused_message_keys(chat_messages(record, columns, ""))

    def texts_to_encode(self, example: Example, tokenizer: Tokenizer) -> list[str]:
        """Return each message with its role before it, where the tokenizer has no tokens for roles."""
        return [f"{role_text(tokenizer, role)}{text}" for role, text in zip(example.roles, example.texts, strict=True)]

    def identifying_texts(self, example: Example) -> Sequence[str]:
        """Return the whole chat: chats of one prompt may go on in different ways."""
        return ("\n".join(example.texts),)

    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return the chat; targets are the assistant's messages that are not empty, with the end-of-text after each."""
        return encode_messages(example, parts, builder)


def encode_orders(orders: Sequence[list[np.ndarray]], example: Example, builder: SequenceBuilder) -> EncodedExample:
    """Return one sequence per list of parts, each read at its last token."""
    sequences = tuple(builder.join(parts, example.where) for parts in orders)
    return EncodedExample(sequences, tuple(len(s) - 1 for s in sequences), example.label, example.where)


def encode_messages(example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
    """Return messages, each with end-of-text after it; targets are the assistant's messages that are not empty."""
    tokenizer = builder.tokenizer
    ids, is_target = [tokenizer.start_id], [False]
    for role, text, part in zip(example.roles, example.texts, parts, strict=True):
        head, message = builder.split_role(role, text, part)
        ids += [*head, *message, tokenizer.eot_id]
        # An empty message, as next to tool calls, would teach the assistant to say nothing.
        learned = role == "assistant" and bool(text.strip())
        is_target += [False] * len(head) + [learned] * (len(message) + 1)
    sequence, loss_mask = builder.fit(ids, is_target, example.where)
    return EncodedExample((sequence,), (), None, example.where, loss_mask)
