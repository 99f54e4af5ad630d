"""Tokenization of a task's rows into sequences of ids."""

from collections.abc import Iterable, Sequence

import numpy as np

from firstlight.finetuning.examples import EncodedExample, Example
from firstlight.finetuning.kinds import kind_of
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, ROLES, START, SequenceBuilder
from firstlight.finetuning.spec import TaskSpec
from firstlight.tokenizer import Tokenizer

# The order in which tokens are added to a vocabulary, whatever the order of the tasks.
_ORDER = (START, DELIMITER, EXTRACT, PAD, *(f"<|{role}|>" for role in ROLES))


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
        self._inputs, self._tokenizer = kind_of(spec).inputs, tokenizer
        self._builder = SequenceBuilder(tokenizer, block_size, spec.truncation)

    @property
    def n_truncated(self) -> int:
        """Sequences that were too long so far."""
        return self._builder.n_truncated

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode examples.

        Raises:
            UsageError: a row is too long and the task says ``truncation = "error"``.
        """
        flat, counts = self._tokenizer.encode_batch([text for e in examples for text in e.texts])
        ends = np.cumsum(counts)
        parts = iter(np.split(flat.astype(np.int32), ends[:-1])) if len(counts) else iter(())
        return [self._inputs.encode(e, [next(parts) for _ in e.texts], self._builder) for e in examples]
