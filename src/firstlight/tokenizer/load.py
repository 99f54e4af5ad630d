"""Load the tokenizer or codec of a run, a checkpoint or a Hugging Face directory."""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files.run_names import artifact_path
from firstlight.shell import command_line, unused_path
from firstlight.tokenizer.added_tokens import FLAGS, NewToken, add_tokens
from firstlight.tokenizer.class_settings import apply_class_settings
from firstlight.tokenizer.codec import Codec, load_codec, save_codec
from firstlight.tokenizer.hf_files import HFFiles, read_hf_files
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer
from firstlight.tokenizer.tokenizer_json import TEXT_BYTES, bytes_to_token, drops_unknown, is_byte_level
from firstlight.tokenizer.untrusted import check_file, check_ids, check_loaded, library_errors

EOT_TOKENS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
_UNK_TOKENS = ("<unk>", "[UNK]")
_KEPT_KEYS = ("padding_side", "truncation_side", "clean_up_tokenization_spaces")


def load(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder (a run, a checkpoint, a Hugging Face directory) or of ``RUN@STEP``.

    Raises:
        TokenizerError: a missing or damaged file, or no end-of-text token.
    """
    inner, file = read_tokenizer_json(artifact_path(path))
    return resolve_special_tokens(inner, file, read_hf_files(file.parent))


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
            fix=f"Convert it to tokenizer.json: {_import_command(path)}"
            if is_sentencepiece
            else f"How to train one: {command_line('tokenizer', 'train', '--help')}",
        )
    check_file(file)
    with library_errors("is not a readable tokenizer.json", file):
        # Some editors write a byte order mark, which the library does not accept.
        data = file.read_bytes()
        has_bom = data.startswith(codecs.BOM_UTF8)
        inner = Inner.from_str(data.decode("utf-8-sig")) if has_bom else Inner.from_file(str(file))
    vocab = inner.get_vocab(with_added_tokens=True)
    if len(set(vocab.values())) < len(vocab):
        inner = _with_ids_of_file(file, json.loads(data.decode("utf-8-sig")))
    check_loaded(inner, file)
    return inner, file


def _import_command(path: Path) -> str:
    """Return the command that imports a tokenizer from a file or folder."""
    place = path.absolute()
    name = place.parent.name if place.is_file() else place.name
    return command_line("tokenizer", "import", path, "--out", unused_path(Path("tokenizers") / (name or "imported")))


def _with_ids_of_file(file: Path, table: dict[str, Any]) -> Inner:
    """Read a tokenizer.json whose added tokens the library gives the ids of others, since there are unused ids."""
    listed = table["added_tokens"]
    with library_errors("is not a readable tokenizer.json", file):
        inner = Inner.from_str(json.dumps({**table, "added_tokens": []}))
    tokens = [NewToken(t["content"], t["id"], **{key: t[key] for key in FLAGS}) for t in listed]
    progress.notice(f"{file}: added tokens have the ids that it lists; transformers gives some of them those of others")
    return add_tokens(inner, tokens, where=file)


def resolve_special_tokens(inner: Inner, file: Path, files: HFFiles, *, add_eot: bool = False) -> Tokenizer:
    """Add the tokens that a folder's files name, and find the end-of-text and unknown tokens among them.

    Args:
        inner: the tokenizer.
        file: that it was read from.
        files: what the files next to it say.
        add_eot: add an end-of-text token if there is none.

    Raises:
        TokenizerError: an added token with an id that it cannot have, or no end-of-text token.
    """
    apply_class_settings(inner, file, files)
    inner = _add_named(inner, file, files)
    vocab = inner.get_vocab(with_added_tokens=True)
    check_ids(vocab, file)
    configured = [files.special.get("eos_token"), *_tokens_of(files.model.get("eos_token_id"), inner)]
    eot = next((t for t in [*configured, *EOT_TOKENS] if t in vocab), None)
    unk = next((t for t in [files.special.get("unk_token"), *_UNK_TOKENS] if t in vocab), None)
    if eot is None:
        if not add_eot:
            raise TokenizerError(
                "has no end-of-text token",
                where=file,
                expected=f"one of {', '.join(EOT_TOKENS)}",
                fix=f"Name one as eos_token in tokenizer_config.json, or import it: {_import_command(file)}",
            )
        inner, eot = add_tokens(inner, [NewToken(END_OF_TEXT)], where=file), END_OF_TEXT
        progress.notice(f"{file} has no end-of-text token: added {eot} as id {inner.token_to_id(eot)}")
    tokenizer = Tokenizer(inner, eot=eot, unk=unk, extra_config=_extra_config(files, vocab))
    _check_coverage(tokenizer.definition, file)
    return tokenizer


def _check_coverage(table: Mapping[str, Any], file: Path) -> None:
    """Say that a tokenizer leaves out characters that it has no token for; transformers leaves them out in silence."""
    if not drops_unknown(table):
        return
    vocab = table["model"]["vocab"]
    if not is_byte_level(table):
        progress.warn(f"{file}: has no token for unknown characters: text with other ones loses them")
        return
    missing = [b for b in TEXT_BYTES if bytes_to_token(bytes([b])) not in vocab]
    shown = ", ".join(repr(chr(b)) for b in missing if 32 < b < 127) or "none of them in ASCII"
    progress.warn(
        f"{file}: has no token for {len(missing)} of the bytes of UTF-8 ({shown[:60]}): text with them loses them"
    )


def _tokens_of(ids: Any, inner: Inner) -> list[str | None]:
    """Look up the tokens of an id, or of several."""
    numbers = [i for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int and 0 <= i < 1 << 31]
    return [inner.id_to_token(i) for i in numbers]


def _add_named(inner: Inner, file: Path, files: HFFiles) -> Inner:
    """Add the tokens that the files name and the tokenizer lacks."""
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    ids, size = inner.get_vocab(with_added_tokens=True), files.model.get("vocab_size")
    missing = [token for token in files.added if token.content not in known]
    if isinstance(size, int) and max(ids.values(), default=-1) >= size - 1:
        # transformers adds them all the same, with ids that the model does not have.
        without = [token.content for token in missing if token.id is None and token.content not in ids]
        missing = [token for token in missing if token.content not in without]
        if without:
            folder = file if file.is_dir() else file.parent
            progress.notice(f"{folder}: the model has no embedding for {', '.join(without)}: left out")
    return add_tokens(inner, missing, where=file) if missing else inner


def _extra_config(files: HFFiles, vocab: Mapping[str, int]) -> dict[str, Any]:
    """Collect the keys of tokenizer_config.json to keep."""
    own = ("eos_token", "unk_token")
    named = {key: token for key, token in files.special.items() if key not in own and token in vocab}
    extra_special = [token for token in files.extra_special if token in vocab]
    is_llama = files.class_name == "LlamaTokenizer" and files.config.get("tokenizer_class") is not None
    side = {"padding_side": "left"} if is_llama else {}  # as its class has it
    return {
        **({"bos_token": None} if files.config else {}),
        **side,
        **named,
        **({"additional_special_tokens": extra_special} if extra_special else {}),
        **({} if files.chat_template is None else {"chat_template": files.chat_template}),
        **{key: files.config[key] for key in _KEPT_KEYS if isinstance(files.config.get(key), str | bool)},
    }
