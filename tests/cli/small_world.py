"""What the tests of the command line share: a text, the settings of a run that takes a second, an answer."""

from collections.abc import Callable
from dataclasses import dataclass

CHARACTERS = ["tokenizer.kind=char", "tokenizer.byte_fallback=false"]
RUN_SETTINGS = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.steps=4",
    "train.checkpoint_every=2",
    "train.eval_every=2",
    "train.log_every=1",
    "train.sample_tokens=4",
    "train.trackers=[]",
    "hardware.threads=1",
]
_WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "bird", "there")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command line gave back."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


def some_text(n_lines: int = 300) -> str:
    """Return lines of a few words in an order that repeats only after long."""
    lines = [" ".join(_WORDS[(line * k + k * k) % len(_WORDS)] for k in range(1, 8)) for line in range(n_lines)]
    return "\n".join(lines) + "\n"
