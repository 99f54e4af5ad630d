"""Load the tokenizer or codec of a run, a checkpoint or a Hugging Face directory."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import read_json_object
from firstlight.files.limits import read_bounded
from firstlight.tokenizer.codec import Codec, load_codec, save_codec
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer
from firstlight.tokenizer.untrusted import check_file, check_ids, check_loaded, library_errors

_EOT_TOKENS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
_UNK_TOKENS = ("<unk>", "[UNK]")
_EXTRA_KEYS = ("bos_token", "pad_token", "chat_template")
_IMPORT = "Convert it to tokenizer.json: firstlight tokenizer import"


def load(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder (a run, a checkpoint, a Hugging Face directory).

    Raises:
        TokenizerError: a missing or damaged file, or no end-of-text token.
    """
    inner, file = read_tokenizer_json(Path(path))
    return resolve_special_tokens(inner, file)


def load_vocab(folder: Path) -> Tokenizer | Codec:
    """Load the codec in a folder, or else its tokenizer.

    Raises:
        TokenizerError: there is neither, or it is damaged.
    """
    return load_codec(folder) or load(folder)


def save_vocab(vocab: Tokenizer | Codec, folder: Path) -> None:
    """Save a tokenizer or a codec."""
    if isinstance(vocab, Tokenizer):
        vocab.save(folder)
    else:
        save_codec(vocab, folder)


def read_tokenizer_json(path: Path) -> tuple[Inner, Path]:
    """Read a tokenizer.json, or the one in a folder, with the tokenizers library; also return the file's path."""
    candidates = [path] if path.is_file() else [path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None or file.suffix == ".model":
        is_sentencepiece = file is not None or (path / "tokenizer.model").is_file()
        raise TokenizerError(
            "no tokenizer here",
            where=path,
            expected="tokenizer.json",
            found="SentencePiece's tokenizer.model" if is_sentencepiece else None,
            fix=_IMPORT if is_sentencepiece else "Train one: firstlight tokenizer train",
        )
    check_file(file)
    with library_errors("is not a readable tokenizer.json", file):
        inner = Inner.from_file(str(file))
    check_loaded(inner, file)
    return inner, file


def resolve_special_tokens(inner: Inner, file: Path, *, add_eot: bool = False) -> Tokenizer:
    """Find a tokenizer's end-of-text and unknown tokens; ``add_eot`` adds an end-of-text token if there is none."""
    config = _read_config(file.parent)

    def configured(key: str) -> list[str]:
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return [value] if isinstance(value, str) else []

    vocab = inner.get_vocab(with_added_tokens=True)
    check_ids(vocab, file)
    eot = next((t for t in [*configured("eos_token"), *_EOT_TOKENS] if t in vocab), None)
    unk = next((t for t in [*configured("unk_token"), *_UNK_TOKENS] if t in vocab), None)
    if eot is None:
        if not add_eot:
            raise TokenizerError(
                "has no end-of-text token",
                where=file,
                expected=f"one of {', '.join(_EOT_TOKENS)}",
                fix="Name one as eos_token in tokenizer_config.json, or import it: firstlight tokenizer import",
            )
        inner, eot = _add_eot(inner), END_OF_TEXT
        progress.notice(f"{file} has no end-of-text token: added {eot} as id {inner.token_to_id(eot)}")
    extra_config = {
        key: value for key in _EXTRA_KEYS for value in configured(key) if key == "chat_template" or value in vocab
    }
    return Tokenizer(inner, eot=eot, unk=unk, extra_config=extra_config)


def _read_config(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json and chat_template.jinja, each where it exists."""
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    table: Any = {}
    if path.is_file():
        table = read_json_object(path, TokenizerError)
    return {**table, **({"chat_template": _read_template(template)} if template.is_file() else {})}


def _read_template(path: Path) -> str:
    data = read_bounded(path, error=TokenizerError)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"is not UTF-8: {error.reason} at byte {error.start:,}", where=path, fix="Save it as UTF-8, or remove it."
        ) from error


def _add_eot(inner: Inner) -> Inner:
    """Add end-of-text after the highest id; the library would use the number of tokens, which may be taken."""
    table = json.loads(inner.to_str())
    next_id = max(inner.get_vocab(with_added_tokens=True).values()) + 1
    if isinstance(table["model"]["vocab"], dict):
        table["model"]["vocab"][END_OF_TEXT] = next_id
        inner = Inner.from_str(json.dumps(table))
    inner.add_special_tokens([END_OF_TEXT])
    return inner
