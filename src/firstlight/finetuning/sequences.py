"""Token sequences of GPT-1's input transformations (Radford et al. 2018, section 3.3 and figure 1), and of chats.

A text starts with a start token and ends with an extract token, whose last hidden state a head reads; a delimiter
separates two parts. What is longer than the model's block size is truncated on the side that the task names.
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
        start, delimiter, extract: tokens of their own, or end-of-text for all of them.
    """

    start: int
    delimiter: int
    extract: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Look the tokens up; end-of-text stands in for those that the tokenizer lacks."""
        ids = [tokenizer.token_to_id(token) for token in (START, DELIMITER, EXTRACT)]
        return cls(*[tokenizer.eot_id if i is None else i for i in ids])


class SequenceBuilder:
    """Joins the encoded parts of a row into sequences that fit the model.

    Args:
        tokenizer: with or without special tokens of its own.
        block_size: tokens that the model can attend to.
        truncation: the side that is cut off, or ``error``.

    Attributes:
        n_truncated: inputs that were too long so far.
    """

    def __init__(self, tokenizer: Tokenizer, block_size: int, truncation: Truncation) -> None:
        self.tokenizer, self.block_size, self.truncation = tokenizer, block_size, truncation
        self.special = SpecialTokens.of(tokenizer)
        self.n_truncated = 0

    def join(self, parts: list[np.ndarray], where: str) -> np.ndarray:
        """Return start, the parts with delimiters between them, extract.

        Raises:
            UsageError: the parts are too long and ``truncation`` is ``error``.
        """
        parts = self._truncate(parts, self.block_size - len(parts) - 1, where)
        ids: list[np.ndarray | list[int]] = [[self.special.start]]
        for part in parts:
            ids += [part, [self.special.delimiter]]
        ids[-1] = [self.special.extract]
        return np.concatenate(ids).astype(np.int32)

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


def role_ids(tokenizer: Tokenizer, role: str) -> list[int]:
    """Return the ids that start a message of a chat: the role's own token, else its name and a line break."""
    own = tokenizer.token_to_id(f"<|{role}|>")
    return tokenizer.encode(f"{role}\n") if own is None else [own]


def chat_template(tokenizer: Tokenizer) -> str:
    """Build the Jinja template with which transformers formats chats as they were trained on."""
    own = tokenizer.token_to_id("<|assistant|>") is not None
    head = "{{ '<|' + message['role'] + '|>' }}" if own else "{{ message['role'] + '\n' }}"
    ask = "<|assistant|>" if own else "assistant\n"
    turn = head + "{{ message['content'] + eos_token }}"
    prompt = "{% if add_generation_prompt %}{{ '" + ask + "' }}{% endif %}"
    return "{{ eos_token }}{% for message in messages %}" + turn + "{% endfor %}" + prompt
