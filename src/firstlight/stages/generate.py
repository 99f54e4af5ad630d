"""``generate``: a model writes on from a prompt, from many, through a conversation, or from ids that are no text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.config import resolve
from firstlight.errors import UsageError
from firstlight.lm import LM, GenerateSettings
from firstlight.tokenizer import Ids


@dataclass(frozen=True, slots=True)
class Sample:
    """One text that a model wrote: ``text`` is what follows ``prompt``."""

    prompt: str
    text: str
    tokens: int


def load(model: str | Path, *, device: str = "auto", precision: str = "auto", int8: bool = False) -> LM:
    """Load a model: a run (its best checkpoint, else its latest), a checkpoint, a Hugging Face directory, a hub name.

    With ``int8`` its matrices are put into eight bits: it writes faster, nearly the same.

    Raises:
        UsageError: nothing is there.
        CheckpointError: damaged, or of a family that is not supported.
    """
    return LM.load(model, device=device, precision=precision, int8=int8)


def generate(model: str | Path | LM, prompts: str | Sequence[str] = "", **settings: Any) -> list[Sample]:
    """Write on from each prompt.

    Args:
        model: where a model lies, or a loaded one.
        prompts: one or several; an empty one begins a text.
        settings: fields of GenerateSettings: max_new_tokens, temperature, top_k, top_p, min_p, seed, num_samples, stop.

    Returns:
        The samples, ``num_samples`` for each prompt in turn.
    """
    loaded = model if isinstance(model, LM) else load(model)
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    chosen = settings_of(settings)
    return [Sample(made.prompt, made.text, len(made.ids)) for made in loaded.generate(asked, chosen)]


@dataclass(frozen=True, slots=True)
class IdSample:
    """A sequence that a model wrote: ``ids`` are what follows ``prompt``."""

    prompt: list[int]
    ids: list[int]


def generate_ids(model: str | Path | LM, prompt: str | Sequence[int] = (), **settings: Any) -> list[IdSample]:
    """Write ids on from others.

    Args:
        model: where a model of ids lies, or a loaded one.
        prompt: ids, or words that are ids; none begin a sequence.
        settings: as of ``generate``.

    Raises:
        UsageError: another kind of model, or words that are none of its ids.
    """
    loaded = model if isinstance(model, LM) else load(model)
    codec = loaded.codec
    if not isinstance(codec, Ids):
        raise UsageError("is no model of ids", where=loaded.source, fix="Give a prompt, or --image for images.")
    begin = join_ids(prompt, codec.n_ids)
    # A document begins after the end of the one before.
    written = loaded.generate_ids([[codec.eot_id, *begin]], settings_of(settings))
    return [IdSample(begin, ids) for ids in written]


def join_ids(given: str | Sequence[int], n_ids: int) -> list[int]:
    """Return ids that were typed with spaces or commas between them.

    Raises:
        UsageError: a word is none of the ids.
    """
    words = given.replace(",", " ").split() if isinstance(given, str) else [str(i) for i in given]
    bad = next((word for word in words if not word.isascii() or not word.isdigit() or int(word) >= n_ids), None)
    if bad is not None:
        raise UsageError("is none of the model's ids", where="--ids", found=bad[:40], expected=f"0 to {n_ids - 1}")
    return [int(word) for word in words]


def stream(model: LM, prompt: str, **settings: Any) -> Iterator[str]:
    """Write on from ``prompt`` and yield the text piece by piece."""
    return model.stream(prompt, settings_of(settings))


class Conversation:
    """Line by line with a model that goes on with a text: what was said before is its context."""

    def __init__(self, model: LM, **settings: Any) -> None:
        self._model, self._settings = model, settings_of(settings)
        self.text = ""

    def reply(self, line: str) -> Iterator[str]:
        """Add ``line`` to the context and yield what the model writes after it."""
        if self.text and not self.text.endswith("\n"):
            self.text += "\n"
        self.text += line
        for piece in self._model.stream(self.text, self._settings):
            self.text += piece
            yield piece


def prompts_of(path: str | Path) -> list[str]:
    """Read prompts from a file, one a line; empty lines are left out.

    Raises:
        UsageError: the file is missing, is no UTF-8, or holds no prompt.
    """
    try:
        # utf-8-sig: some editors put a byte order mark; other characters than LF may stand in a prompt.
        lines = Path(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        raise UsageError(
            "no such file" if missing else f"cannot be read: {error.strerror}",
            where=path,
            expected="a text file with a prompt a line",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8", where=path, found=f"a bad byte at offset {error.start}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise UsageError("holds no prompt", where=path, expected="a prompt a line")
    return prompts


def settings_of(given: Mapping[str, Any]) -> GenerateSettings:
    """Return settings of generation; what is None keeps its default."""
    return resolve(GenerateSettings, {key: value for key, value in given.items() if value is not None})
