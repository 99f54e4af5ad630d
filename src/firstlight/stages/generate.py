"""The ``generate`` command: continue prompts, a conversation, or sequences of ids that are not text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import resolve
from firstlight.errors import CheckpointError, ConfigError, CorpusError, UsageError
from firstlight.files.compression import COMPRESSED, open_compressed
from firstlight.files.json_stream import is_json_lines
from firstlight.files.text_lines import decode_text
from firstlight.lm import GENERATION, LM, GenerateSettings
from firstlight.tokenizer import IdCodec, report_unknown

_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated text: ``text`` is the continuation of ``prompt``.

    Attributes:
        prompt: the text that it continues.
        text: without unknown tokens.
        tokens: number of generated tokens.
        unk_tokens: how many of them are unknown tokens.
        prompt_unk_tokens: unknown tokens of the prompt, and characters of it that have no token.
    """

    prompt: str
    text: str
    tokens: int
    unk_tokens: int = 0
    prompt_unk_tokens: int = 0


def load(model: str | Path, *, device: str = "auto", precision: str = "auto", int8: bool = False) -> LM:
    """Load a model: a run (its best checkpoint, else its latest), a checkpoint, a Hugging Face directory, a hub name.

    With precision bf16, or with ``int8``, which quantises the matrices, generation is faster, and the numbers differ
    slightly.

    Raises:
        UsageError: it is not a model.
        CheckpointError: it is damaged, or of an unsupported model type.
    """
    return LM.load(model, device=device, precision=precision, int8=int8)


def generate(model: str | Path | LM, prompts: str | Sequence[str] = "", **settings: Any) -> list[Sample]:
    """Continue each prompt.

    Args:
        model: a path or name as of ``load``, or a loaded model.
        prompts: one or several; an empty one starts a text.
        settings: fields of GenerateSettings: max_new_tokens, temperature, top_k, top_p, min_p, seed, num_samples, stop,
            prompt_lookup_num_tokens; the model's generation_config.json has the defaults.

    Returns:
        The samples, ``num_samples`` for each prompt in turn.
    """
    loaded = model if isinstance(model, LM) else load(model)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    unknown = _report_prompts(loaded, prompts)
    generated = loaded.generate(prompts, settings_of(loaded, settings))
    loaded.report_generated([found.ids for found in generated])
    return [
        Sample(found.prompt, found.text, len(found.ids), loaded.count_unknown_ids(found.ids), unknown[found.prompt])
        for found in generated
    ]


def _report_prompts(model: LM, prompts: Sequence[str]) -> dict[str, int]:
    """Name the characters of prompts that the model does not know; return the number of unknown tokens of each."""
    if model.tokenizer is None:
        return dict.fromkeys(prompts, 0)
    encoded = model.tokenizer.encode_counted(list(prompts))
    where = "the prompt" if len(prompts) == 1 else f"the {len(prompts):,} prompts"
    report_unknown(where, encoded.unknown, len(encoded.ids))
    counts = encoded.unknown_counts(model.tokenizer.unknown_id).tolist()
    return dict(zip(prompts, counts, strict=True))


@dataclass(frozen=True, slots=True)
class IdSample:
    """A generated sequence: ``ids`` are the continuation of ``prompt``."""

    prompt: list[int]
    ids: list[int]


def generate_ids(model: str | Path | LM, prompt: str | Sequence[int] = (), **settings: Any) -> list[IdSample]:
    """Continue a sequence of ids.

    Args:
        model: a path or name as of ``load``, or a loaded model; of ids.
        prompt: ids, or text with ids; empty: start a sequence.
        settings: as of ``generate``.

    Raises:
        UsageError: the model is not a model of ids, or the prompt has something else.
    """
    loaded = model if isinstance(model, LM) else load(model)
    codec = loaded.codec
    if not isinstance(codec, IdCodec):
        raise UsageError("not a model of ids", where=loaded.source, fix="Give a prompt, or --image for images.")
    start = parse_ids(prompt, codec.n_ids)
    # A document starts after the end of the one before.
    generated = loaded.generate_ids([[codec.eot_id, *start]], settings_of(loaded, settings))
    return [IdSample(start, ids) for ids in generated]


def parse_ids(prompt: str | Sequence[int], n_ids: int) -> list[int]:
    """Parse ids separated by spaces or commas.

    Raises:
        UsageError: something is not one of the model's ids.
    """
    parts = prompt.replace(",", " ").split() if isinstance(prompt, str) else [str(i) for i in prompt]
    bad = next(
        (part for part in parts if not part.isascii() or not part.isdigit() or len(part) > 18 or int(part) >= n_ids),
        None,
    )
    if bad is not None:
        raise UsageError("not one of the model's ids", where="--ids", found=bad[:40], expected=f"0 to {n_ids - 1}")
    return [int(part) for part in parts]


def stream(model: LM, prompt: str, **settings: Any) -> Iterator[str]:
    """Continue ``prompt``, yielding text as it is generated."""
    _report_prompts(model, [prompt])
    return model.stream(prompt, settings_of(model, settings))


class Conversation:
    """A conversation, line by line, with a model that continues text; earlier lines are the context."""

    def __init__(self, model: LM, **settings: Any) -> None:
        self._model, self._settings = model, settings_of(model, settings)
        self.text = ""

    def reply(self, line: str) -> Iterator[str]:
        """Add ``line`` to the context and yield the continuation."""
        if self.text and not self.text.endswith("\n"):
            self.text += "\n"
        self.text += line
        _report_prompts(self._model, [line])
        for piece in self._model.stream(self.text, self._settings):
            self.text += piece
            yield piece


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts from a file, one per line, without empty lines.

    Raises:
        UsageError: the file is missing, is not UTF-8, or has no prompt.
    """
    try:
        text = decode_text(_read_bytes(Path(path)), str(path))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        raise UsageError(
            "no such file" if missing else f"cannot be read: {error.strerror}",
            where=path,
            expected="a text file with one prompt per line",
        ) from error
    except CorpusError as error:
        raise UsageError(error.problem, where=error.where, found=error.found, fix=error.fix) from error
    prompts = split_prompts(text, str(path))
    if not prompts:
        raise UsageError("no prompts", where=path, expected="one prompt per line")
    return prompts


def settings_of(model: LM, given: Mapping[str, Any]) -> GenerateSettings:
    """Build settings of generation; the model's generation_config.json has the defaults of those that are not given.

    Raises:
        ConfigError: an invalid setting.
        CheckpointError: an invalid one in that file.
    """
    resolve_settings(given)
    chosen = {key: value for key, value in model.generation.sampling.items() if given.get(key) is None}
    if given.get("temperature") == 0:  # greedy decoding has no use for the model's filters
        chosen = {key: value for key, value in chosen.items() if key not in ("top_k", "top_p", "min_p")}
    try:
        settings = resolve_settings({**given, **chosen})
    except ConfigError as error:
        if error.where is not None and given.get(error.where) is not None:
            fix = f"The temperature is that of the model's {GENERATION}: give one above 0 as well."
            raise ConfigError(error.problem, where=error.where, found=error.found, fix=fix) from error
        raise CheckpointError(
            error.problem,
            where=f"{model.source}: {GENERATION}: {error.where}",
            found=error.found,
            expected=error.expected,
        ) from error
    if settings.temperature == 0 and settings.num_samples > 1:
        progress.notice(f"a temperature of 0 is greedy decoding: all {settings.num_samples} samples are the same")
    if chosen:
        listed = ", ".join(f"{key} {value}" for key, value in chosen.items())
        progress.notice(f"{listed}: from the model's {GENERATION}; options override them")
    if model.tokenizer is not None and model.tokenizer.chat_template is not None:
        progress.notice(
            "the model has a chat template, which is not applied here: a prompt is continued as it stands"
            "; with transformers, apply_chat_template makes a prompt of a chat"
        )
    if model.generation.unsupported:
        listed = ", ".join(f"{key} {str(value)[:40]}" for key, value in model.generation.unsupported.items())
        progress.notice(f"the model's {GENERATION} has {listed}, which has no effect here")
    return settings


def split_prompts(text: str, name: str = "standard input") -> list[str]:
    r"""Split a text into prompts, one per line, without blank lines; ``\n`` or ``\r\n`` ends one, nothing else does.

    ``name`` is that of the text, for a warning that its lines are records, not prompts.
    """
    if is_json_lines(text):
        progress.warn(f"{name}: its lines are JSON, and each is a prompt as it stands; write one prompt per line")
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _read_bytes(path: Path) -> bytes:
    if path.suffix.lower() not in COMPRESSED:
        return path.read_bytes()  # also from a pipe
    with open_compressed(path) as file:
        return file.read()


def resolve_settings(given: Mapping[str, Any]) -> GenerateSettings:
    """Build settings of generation; values of None keep their default."""
    return resolve(GenerateSettings, {key: value for key, value in given.items() if value is not None})
