"""Load a tokenizer.json: from a run, a checkpoint, a Hugging Face directory."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.codec import Codec, read_codec, save_codec
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer

_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
_UNKNOWNS = ("<unk>", "[UNK]")
_KEPT = ("bos_token", "pad_token", "chat_template")
_SENTENCE_PIECE = "Make a tokenizer.json of it: firstlight tokenizer import"


def load(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder (a run's, a checkpoint's, a Hugging Face directory).

    Raises:
        TokenizerError: none is there, it is damaged, or it has no end-of-text token.
    """
    inner, file = opened(Path(path))
    return named(inner, file)


def load_vocab(folder: Path) -> Tokenizer | Codec:
    """Load the codec in a folder, or else its tokenizer.

    Raises:
        TokenizerError: there is neither, or it is damaged.
    """
    return read_codec(folder) or load(folder)


def save_vocab(vocab: Tokenizer | Codec, folder: Path) -> None:
    """Save a tokenizer or a codec."""
    if isinstance(vocab, Tokenizer):
        vocab.save(folder)
    else:
        save_codec(vocab, folder)


def opened(path: Path) -> tuple[Inner, Path]:
    """Return the library's object, and the file that it was in."""
    candidates = [path] if path.is_file() else [path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None or file.suffix == ".model":
        pieces = file is not None or (path / "tokenizer.model").is_file()
        raise TokenizerError(
            "no tokenizer here",
            where=path,
            expected="tokenizer.json",
            found="SentencePiece's tokenizer.model" if pieces else None,
            fix=_SENTENCE_PIECE if pieces else "Make one: firstlight tokenizer train",
        )
    try:
        return Inner.from_file(str(file)), file
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise TokenizerError(f"is no readable tokenizer.json: {error}", where=file) from error


def named(inner: Inner, file: Path, *, give_end: bool = False) -> Tokenizer:
    """Find the tokenizer's end-of-text and unknown tokens; ``give_end`` adds the first where there is none."""
    config = _config(file.parent)

    def content(key: str) -> list[str]:
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return [value] if isinstance(value, str) else []

    vocabulary = inner.get_vocab(with_added_tokens=True)
    eot = next((t for t in [*content("eos_token"), *_ENDS] if t in vocabulary), None)
    unk = next((t for t in [*content("unk_token"), *_UNKNOWNS] if t in vocabulary), None)
    if eot is None:
        if not give_end:
            raise TokenizerError(
                "has no end-of-text token",
                where=file,
                expected=f"one of {', '.join(_ENDS)}",
                fix="Name one as eos_token in tokenizer_config.json, or import it: firstlight tokenizer import",
            )
        inner, eot = _with_end(inner), END_OF_TEXT
        progress.notice(f"{file} has no end-of-text token: {eot} is added as id {inner.token_to_id(eot)}")
    kept = {key: value for key in _KEPT for value in content(key) if key == "chat_template" or value in vocabulary}
    return Tokenizer(inner, eot=eot, unk=unk, kept=kept)


def _config(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, where there is one, and the chat template that may lie beside it."""
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    table: Any = {}
    if path.is_file():
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TokenizerError(f"is no JSON: {error}", where=path) from error
        if not isinstance(table, dict):
            raise TokenizerError("holds no table", where=path)
    beside = {"chat_template": template.read_text(encoding="utf-8")} if template.is_file() else {}
    return {**table, **beside}


def _with_end(inner: Inner) -> Inner:
    """Add end-of-text behind the highest id; the library would take the number of tokens, which may be in use."""
    table = json.loads(inner.to_str())
    free = max(inner.get_vocab(with_added_tokens=True).values()) + 1
    if isinstance(table["model"]["vocab"], dict):
        table["model"]["vocab"][END_OF_TEXT] = free
        inner = Inner.from_str(json.dumps(table))
    inner.add_special_tokens([END_OF_TEXT])
    return inner
