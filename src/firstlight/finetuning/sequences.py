"""Token sequences of GPT-1's input transformations (Radford et al. 2018, section 3.3 and figure 1), and of chats.

A text starts with a start token and ends with an extract token; a head reads the last hidden state of that, or the mean
of all. A delimiter separates two parts. What is longer than the model's block size is truncated on the side that the
task names.
"""

from dataclasses import dataclass

import numpy as np

from firstlight.errors import UsageError
from firstlight.finetuning.spec import Truncation
from firstlight.tokenizer import Tokenizer

START, DELIMITER, EXTRACT, PAD = "<|start|>", "<|delimiter|>", "<|extract|>", "<|pad|>"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids around and between the parts of an input.

    Attributes:
        start, delimiter, extract: tokens of their own; else end-of-text, and for start the token that begins a text.
    """

    start: int
    delimiter: int
    extract: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Look the tokens up; others stand in for those that the tokenizer lacks."""
        ids = [tokenizer.token_to_id(token) for token in (START, DELIMITER, EXTRACT)]
        start = tokenizer.template_start_id
        others = (tokenizer.eot_id if start is None else start, tokenizer.eot_id, tokenizer.eot_id)
        return cls(*[other if i is None else i for i, other in zip(ids, others, strict=True)])


class SequenceBuilder:
    """Joins the encoded parts of a row into sequences that fit the model.

    Args:
        tokenizer: with or without special tokens of its own.
        block_size: tokens that the model can attend to.
        truncation: the side that is cut off, or ``error``.

    Attributes:
        n_truncated: inputs that were too long so far.
        n_lost: targets that were cut off so far: tokens of an assistant's messages, labels of words.
    """

    def __init__(self, tokenizer: Tokenizer, block_size: int, truncation: Truncation) -> None:
        self.tokenizer, self.block_size, self.truncation = tokenizer, block_size, truncation
        self.special = SpecialTokens.of(tokenizer)
        self.n_truncated = self.n_lost = 0
        self._roles: dict[str, list[int]] = {}

    def join(self, parts: list[np.ndarray], where: str) -> np.ndarray:
        """Return start, the parts with delimiters between them, extract.

        Raises:
            UsageError: the parts are too long and ``truncation`` is ``error``, or the block size has no room for them.
        """
        limit = self.block_size - len(parts) - 1
        if limit < 1:
            raise UsageError(
                "does not fit the model's block size",
                where=where,
                found=f"{len(parts)} parts with {len(parts) + 1} special tokens around them",
                expected=f"fewer than {self.block_size} tokens",
            )
        parts = self._truncate(parts, limit, where)
        ids: list[np.ndarray | list[int]] = [[self.special.start]]
        for part in parts:
            ids += [part, [self.special.delimiter]]
        ids[-1] = [self.special.extract]
        return np.concatenate(ids).astype(np.int32)

    def split_role(self, role: str, text: str, ids: np.ndarray) -> tuple[list[int], list[int]]:
        """Split the ids of a message into those of its role, after which generation starts, and of its text.

        Args:
            role: of the author.
            text: of the message.
            ids: of ``role_text`` and the text.
        """
        head, before = self._role_ids(role), role_text(self.tokenizer, role)
        if not before or ids[: len(head)].tolist() == head:
            return head, ids[len(head) if before else 0 :].tolist()
        return head, self.tokenizer.after_special.encode(text)  # the role's last token would merge with the text

    def _role_ids(self, role: str) -> list[int]:
        if role not in self._roles:
            own = self.tokenizer.token_to_id(f"<|{role}|>")
            text = role_text(self.tokenizer, role)
            self._roles[role] = self.tokenizer.after_special.encode(text) if own is None else [own]
        return self._roles[role]

    def fit(self, ids: list[int], is_target: list[bool], where: str) -> tuple[np.ndarray, tuple[bool, ...]]:
        """Truncate a sequence and its targets; its first token, which begins a text, is kept.

        Raises:
            UsageError: it is too long and ``truncation`` is ``error``.
        """
        excess = len(ids) - self.block_size
        if excess > 0:
            self.count_truncated(excess, self.block_size, where)
            n_before = sum(is_target)
            keep = np.arange(1, len(ids), dtype=np.int64)
            keep = self._shorten(keep, excess)
            ids, is_target = [ids[0], *(ids[i] for i in keep)], [is_target[0], *(is_target[i] for i in keep)]
            self.n_lost += n_before - sum(is_target)
        return np.array(ids, dtype=np.int32), tuple(is_target)

    def count_truncated(self, excess: int, limit: int, where: str) -> None:
        """Count an input that is ``excess`` tokens longer than ``limit``.

        Raises:
            UsageError: ``truncation`` is ``error``.
        """
        if self.truncation == "error":
            raise UsageError(
                "is longer than the model's block size allows",
                where=where,
                found=f"{excess + limit} tokens",
                expected=f"at most {limit}",
                fix='Set truncation = "tail", "head" or "middle" in the task to cut that part off, or use a model with '
                "a larger block size.",
            )
        self.n_truncated += 1

    def _truncate(self, parts: list[np.ndarray], limit: int, where: str) -> list[np.ndarray]:
        """Shorten the longest part until all fit, then the next longest."""
        excess = sum(map(len, parts)) - limit
        if excess <= 0:
            return parts
        self.count_truncated(excess, limit, where)
        parts = list(parts)
        while (excess := sum(map(len, parts)) - limit) > 0:
            sizes = sorted((len(part) for part in parts), reverse=True)
            longest = max(range(len(parts)), key=lambda i: len(parts[i]))
            # Down to the next longest, or by the excess, divided among those that are equally long.
            equals = sizes.count(sizes[0])
            down = sizes[0] - sizes[equals] if equals < len(sizes) else sizes[0]
            parts[longest] = self._shorten(parts[longest], max(1, min(down, -(-excess // equals))))
        return parts

    def _shorten(self, part: np.ndarray, n: int) -> np.ndarray:
        keep = len(part) - n
        if self.truncation == "head":
            return part[n:]
        if self.truncation == "middle":
            return np.concatenate([part[: keep - keep // 2], part[len(part) - keep // 2 :]])
        return part[:keep]


def role_text(tokenizer: Tokenizer, role: str) -> str:
    """Return the text that starts a message of a chat: the role and a line break, or nothing if the role is a token."""
    return f"{role}\n" if tokenizer.token_to_id(f"<|{role}|>") is None else ""


def chat_template(tokenizer: Tokenizer) -> str:
    """Build the Jinja template with which transformers formats chats as they were trained on."""
    own = not role_text(tokenizer, "assistant")
    start = tokenizer.tokens()[tokenizer.start_id].replace("\\", "\\\\").replace("'", "\\'")
    head = "{{ '<|' + message['role'] + '|>' }}" if own else "{{ message['role'] + '\n' }}"
    ask = "<|assistant|>" if own else "assistant\n"
    turn = head + "{{ message['content'] + eos_token }}"
    prompt = "{% if add_generation_prompt %}{{ '" + ask + "' }}{% endif %}"
    return "{{ '" + start + "' }}{% for message in messages %}" + turn + "{% endfor %}" + prompt
