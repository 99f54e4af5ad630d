"""Rows become sequences of ids: the input transformations of GPT-1 (Radford et al. 2018, section 3.3 and figure 1).

A text begins with a start token and ends with an extract token, whose last hidden state a head reads; a delimiter
stands between two parts. Comparing texts that have no order takes both orders; each answer of a choice is a sequence
of its own. Chats and plain texts have no head: they are learnt as text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from firstlight.errors import UsageError
from firstlight.finetuning.dataset import Example
from firstlight.finetuning.spec import TaskSpec
from firstlight.tokenizer import Tokenizer

START, DELIMITER, EXTRACT, PAD = "<|start|>", "<|delimiter|>", "<|extract|>", "<|pad|>"
ROLES = ("system", "user", "assistant")


def new_tokens(kinds: Iterable[str]) -> list[str]:
    """Return the tokens that tasks of these kinds add to a vocabulary."""
    asked = set(kinds)
    marks = [START, DELIMITER, EXTRACT, PAD] if asked - {"text", "chat"} else []
    return [*marks, *(f"<|{role}|>" for role in ROLES if "chat" in asked)]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids that stand around and between the parts of a row.

    Attributes:
        start, delimiter, extract: tokens of their own, or end-of-text for all of them.
    """

    start: int
    delimiter: int
    extract: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Return the tokens of a tokenizer that has them, else its end-of-text."""
        ids = {token: tokenizer.id_of(token) for token in (START, DELIMITER, EXTRACT)}
        found = [tokenizer.eot_id if i is None else i for i in ids.values()]
        return cls(*found)


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One row as ids.

    Attributes:
        sequences: one, or as many as there are orders or answers.
        reads: positions whose hidden states the head reads: the last of each sequence, or of each word.
        label: as in Example.
        learnt: for chats and plain texts, which targets count, one mark a position of the only sequence; else empty.
        where: as in Example.
    """

    sequences: tuple[np.ndarray, ...]
    reads: tuple[int, ...]
    label: int | float | tuple[int, ...] | None
    where: str
    learnt: tuple[bool, ...] = ()

    @property
    def width(self) -> int:
        """The longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


class Preprocessor:
    """Turns the rows of one task into ids.

    Args:
        spec: the task.
        tokenizer: with or without tokens of its own for the marks.
        block_size: what the model sees at once.
    """

    def __init__(self, spec: TaskSpec, tokenizer: Tokenizer, block_size: int) -> None:
        self._spec, self._tokenizer, self._T = spec, tokenizer, block_size
        self._marks = SpecialTokens.of(tokenizer)
        self.cut = 0

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Return the rows of examples; ``cut`` counts those that were too long.

        Raises:
            UsageError: a row is too long and the task says ``long = "error"``.
        """
        flat, counts = self._tokenizer.encode_batch([text for e in examples for text in e.texts])
        ends = np.cumsum(counts)
        pieces = iter(np.split(flat.astype(np.int32), ends[:-1])) if len(counts) else iter(())
        return [self._row(example, [next(pieces) for _ in example.texts]) for example in examples]

    def _row(self, example: Example, parts: list[np.ndarray]) -> EncodedExample:
        kind = self._spec.kind
        if kind == "tokens":
            return self._words(example, parts)
        if kind in ("text", "chat"):
            return self._text(example, parts)
        if kind == "similarity":
            orders = [[parts[0], parts[1]], [parts[1], parts[0]]]
        elif kind == "choice":
            orders = [[parts[0], answer] for answer in parts[1:]]
        else:
            orders = [parts]
        sequences = tuple(self._joined(order, example.where) for order in orders)
        label = example.label
        if self._spec.scored and isinstance(label, int | float):
            label = self._spec.scaled(label)
        return EncodedExample(sequences, tuple(len(s) - 1 for s in sequences), label, example.where)

    def _joined(self, parts: list[np.ndarray], where: str) -> np.ndarray:
        marks = self._marks
        parts = self._fitted(parts, self._T - len(parts) - 1, where)
        ids: list[np.ndarray | list[int]] = [[marks.start]]
        for part in parts:
            ids += [part, [marks.delimiter]]
        ids[-1] = [marks.extract]
        return np.concatenate(ids).astype(np.int32)

    def _fitted(self, parts: list[np.ndarray], room: int, where: str) -> list[np.ndarray]:
        """Shorten the longest part until all fit, then the next longest."""
        over = sum(map(len, parts)) - room
        if over <= 0:
            return parts
        self._count(over, room, where)
        parts = list(parts)
        while (over := sum(map(len, parts)) - room) > 0:
            sizes = sorted((len(part) for part in parts), reverse=True)
            longest = max(range(len(parts)), key=lambda i: len(parts[i]))
            # Down to the next longest, or by what is too much, shared by those that are equally long.
            equals = sizes.count(sizes[0])
            down = sizes[0] - sizes[equals] if equals < len(sizes) else sizes[0]
            parts[longest] = self._shortened(parts[longest], max(1, min(down, -(-over // equals))))
        return parts

    def _count(self, over: int, room: int, where: str) -> None:
        if self._spec.long == "error":
            raise UsageError(
                "is longer than the model sees",
                where=where,
                found=f"{over + room} tokens",
                expected=f"at most {room}",
                fix='Set long = "tail", "head" or "middle" in the task to say what is cut away, or take a model with a '
                "larger block size.",
            )
        self.cut += 1

    def _shortened(self, part: np.ndarray, n: int) -> np.ndarray:
        keep = len(part) - n
        if self._spec.long == "head":
            return part[n:]
        if self._spec.long == "middle":
            return np.concatenate([part[: keep - keep // 2], part[len(part) - keep // 2 :]])
        return part[:keep]

    def _words(self, example: Example, words: list[np.ndarray]) -> EncodedExample:
        """Label each word at its last token, which has seen all of it; what does not fit has no label."""
        marks, labels = self._marks, example.label
        room = self._T - 2
        sizes = np.cumsum([len(word) for word in words])
        fits = int(np.searchsorted(sizes, room, side="right"))
        if fits < len(words):
            self._count(int(sizes[-1]) - room, room, example.where)
        ids = np.concatenate([[marks.start], *words[:fits], [marks.extract]]).astype(np.int32)
        kept = labels[:fits] if isinstance(labels, tuple) else labels
        return EncodedExample((ids,), tuple(int(end) for end in sizes[:fits]), kept, example.where)

    def _text(self, example: Example, parts: list[np.ndarray]) -> EncodedExample:
        """A text between ends of text; of a chat only what the assistant says is learnt, and that it then ends."""
        end = self._tokenizer.eot_id
        ids, learnt = [end], [False]
        for role, part in zip(example.roles or ("",) * len(parts), parts, strict=True):
            head = role_ids(self._tokenizer, role) if role else []
            ids += [*head, *part.tolist(), end]
            learnt += [False] * len(head) + [role in ("", "assistant")] * (len(part) + 1)
        n = self._T
        if len(ids) > n:
            self._count(len(ids) - n, n, example.where)
        return EncodedExample((np.array(ids[:n], dtype=np.int32),), (), None, example.where, tuple(learnt[:n]))


def role_ids(tokenizer: Tokenizer, role: str) -> list[int]:
    """Return what begins a turn of a chat: the role's own token, else its name and a line break."""
    own = tokenizer.id_of(f"<|{role}|>")
    return tokenizer.encode(f"{role}\n") if own is None else [own]


def chat_template(tokenizer: Tokenizer) -> str:
    """Return the Jinja template by which transformers builds the chats that were trained on."""
    own = tokenizer.id_of("<|assistant|>") is not None
    head = "{{ '<|' + message['role'] + '|>' }}" if own else "{{ message['role'] + '\n' }}"
    ask = "<|assistant|>" if own else "assistant\n"
    turn = head + "{{ message['content'] + eos_token }}"
    prompt = "{% if add_generation_prompt %}{{ '" + ask + "' }}{% endif %}"
    return "{{ eos_token }}{% for message in messages %}" + turn + "{% endfor %}" + prompt
