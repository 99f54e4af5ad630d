"""Import published tokenizers: GPT-1, GPT-2, tiktoken, SentencePiece, llama2.c, llm.c, Hugging Face."""

import base64
import codecs
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner
from tokenizers import models

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer import binary_formats
from firstlight.tokenizer.added_tokens import NewToken, add_tokens
from firstlight.tokenizer.bpe import byte_level_bpe
from firstlight.tokenizer.from_vocab import prepend_token
from firstlight.tokenizer.hf_files import TOKENIZER_CONFIG, HFFiles, read_hf_files
from firstlight.tokenizer.load import EOT_TOKENS, read_tokenizer_json, resolve_special_tokens
from firstlight.tokenizer.merges import recover_merge
from firstlight.tokenizer.slow_files import (
    MERGES,
    SENTENCEPIECE,
    build_sentencepiece,
    build_slow,
    byte_level,
    is_slow,
    read_merges,
    read_vocab,
    word_end_bpe,
)
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer
from firstlight.tokenizer.tokenizer_json import bytes_to_token, prepended_token
from firstlight.tokenizer.untrusted import check_ids, is_library_error

_MAX_TOKEN_CHARACTERS = 1 << 14  # recovering the merges of a token takes time in proportion to the square of its length
_FILL_IN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
# What a .tiktoken file does not contain, by the prefix of its name: split pattern, and special tokens.
_TIKTOKEN_ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "cl100k": (
        "llama3",
        {END_OF_TEXT: 100_257, **{t: 100_258 + i for i, t in enumerate(_FILL_IN)}, "<|endofprompt|>": 100_276},
    ),
    "o200k": ("gpt4o", {END_OF_TEXT: 199_999, "<|endofprompt|>": 200_018}),
    "r50k": ("gpt2", {END_OF_TEXT: 50_256}),
    "p50k": ("gpt2", {END_OF_TEXT: 50_256}),
    "gpt2": ("gpt2", {END_OF_TEXT: 50_256}),
}


def import_tokenizer(source: str | Path) -> Tokenizer:
    """Import the tokenizer files of GPT-1, GPT-2, tiktoken, SentencePiece, llama2.c or llm.c, or a tokenizer.json.

    A tokenizer.json without an end-of-text token gets ``<|endoftext|>`` at the end of its vocabulary. Special tokens
    that it would add around a text are dropped, except a single beginning-of-text token.

    Raises:
        TokenizerError: an unrecognised format, or a damaged file.
    """
    path = Path(source)
    try:
        imported = _import_other_formats(path)
        if imported is not None:
            return imported
        inner, file, files = _read_hf(path)
    except TokenizerError:
        raise
    except BaseException as error:  # the tokenizers library raises plain Exception, and panics
        if not is_library_error(error):
            raise
        raise TokenizerError(f"cannot be read: {error}", where=path) from error
    check_ids(inner.get_vocab(with_added_tokens=True), file)  # the library writes every id up to the highest
    processor = json.loads(inner.to_str()).get("post_processor")
    if _adds_tokens(processor) and prepended_token(processor) is None:
        inner.post_processor = None
        progress.notice(f"{file} adds special tokens around each text: dropped, since texts are encoded without them")
    return resolve_special_tokens(inner, file, files, add_eot=True)


def _has_ranks(path: Path) -> bool:
    """Whether a file starts with a line of tiktoken: base64 and a rank."""
    with path.open("rb") as file:
        return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\s", file.read(1 << 10)) is not None


def has_tokenizer(folder: Path) -> bool:
    """Whether a model directory has the files of a tokenizer."""
    return (folder / "tokenizer.json").is_file() or is_slow(folder)


def _read_hf(path: Path) -> tuple[Inner, Path, HFFiles]:
    """Read a tokenizer.json, or the tokenizer of a folder without it; also return its file, and those next to it."""
    has_json = path.is_dir() and any((path / name / "tokenizer.json").is_file() for name in ("", "tokenizer"))
    is_model = path.suffix == ".model" and path.is_file()
    if has_json or not (is_model or is_slow(path)):
        inner, file = read_tokenizer_json(path)
        return inner, file, read_hf_files(file.parent)
    folder = path.parent if is_model else path
    files = read_hf_files(folder)
    ranks = path if is_model else folder / SENTENCEPIECE
    if ranks.is_file() and _has_ranks(ranks) and (is_model or not (folder / MERGES).is_file()):
        inner, named = read_ranks(ranks, files), dict[str, str]()
    else:
        inner, named = build_sentencepiece(path, files) if is_model else build_slow(path, files)
    files = files.with_defaults(named)
    if "eos_token" not in files.special:  # a vocabulary alone does not say which tokens are special
        inner.add_special_tokens([t for t in EOT_TOKENS if inner.token_to_id(t) is not None][:1])
    inner = add_tokens(inner, [token for token in files.added if token.id is not None], where=folder)
    bos = files.special.get("bos_token")
    # A model file on its own does not say; those of LLaMA begin every text so.
    is_alone = is_model and not files.config and not files.model
    if files.flag("add_bos_token", default=is_alone) and bos is not None:
        inner = add_tokens(inner, [NewToken(bos)], where=folder)
        inner.post_processor = prepend_token(bos, inner.token_to_id(bos))
    if files.flag("add_eos_token", default=False):
        progress.notice(f"{folder}: add_eos_token is dropped, since texts are encoded without an end")
    return inner, path, files


def read_tiktoken(path: Path) -> Inner:
    """Read a published ``.tiktoken`` file: lines of a base64 byte string and its rank, which is its id.

    Raises:
        TokenizerError: a damaged line, a byte without a rank, or a file name that is not a published encoding.
    """
    encoding = next((facts for prefix, facts in _TIKTOKEN_ENCODINGS.items() if path.name.startswith(prefix)), None)
    if encoding is None:
        raise TokenizerError(
            "the split pattern is unknown for a file of this name",
            where=path,
            expected=f"a name that starts with {', '.join(_TIKTOKEN_ENCODINGS)}",
        )
    pattern, special = encoding
    ranks = _read_ranks(path)
    used = next((i for i in special.values() if i in ranks.values()), None)
    if used is not None:
        raise TokenizerError("uses the id of a special token for another one", where=path, found=f"rank {used}")
    return _rank_bpe(ranks, pattern, special, path)


def read_ranks(path: Path, files: HFFiles) -> Inner:
    """Read a tokenizer.model in tiktoken's form, as that of Llama 3, whose pattern transformers takes for all of them.

    Raises:
        TokenizerError: a damaged line, or no list of its special tokens, which the file does not contain.
    """
    ranks = _read_ranks(path)
    special = {token.content: token.id for token in files.added if token.id is not None and token.special}
    if not special:
        raise TokenizerError(
            "is a file of tiktoken, which does not contain its special tokens",
            where=path,
            expected=f"added_tokens_decoder in {TOKENIZER_CONFIG}",
            fix="Use a folder with tokenizer.json.",
        )
    return _rank_bpe(ranks, "llama3", {}, path)


def _rank_bpe(ranks: dict[bytes, int], pattern: str, special: Mapping[str, int], path: Path) -> Inner:
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pair = recover_merge(token, rank, ranks)
        if pair is not None:
            merges.append((bytes_to_token(pair[0]), bytes_to_token(pair[1])))
    vocab = {bytes_to_token(token): rank for token, rank in ranks.items()} | dict(special)
    check_ids(vocab, path)
    # tiktoken ignores the merges of a word that is a token.
    inner = byte_level_bpe(models.BPE(vocab=vocab, merges=merges, ignore_merges=True), pattern)
    inner.add_special_tokens(list(special))
    return inner


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks, used = dict[bytes, int](), set[int]()
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        token, _, rank = line.partition(b" ")
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise TokenizerError(
                "has a token that is too long",
                where=f"{path}:{number}",
                found=f"{len(token):,} characters of base64",
                expected=f"at most {_MAX_TOKEN_CHARACTERS:,}",
            )
        shown = line[:40].decode("ascii", "backslashreplace")
        try:
            content, i = base64.b64decode(token, validate=True), int(rank)
        except ValueError:
            content, i = b"", -1
        if not content or i < 0:
            raise TokenizerError(
                "is not a line of a tiktoken file", where=f"{path}:{number}", found=shown, expected="base64 and a rank"
            )
        if content in ranks or i in used:
            raise TokenizerError("has a token or a rank twice", where=f"{path}:{number}", found=shown)
        ranks[content] = i
        used.add(i)
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise TokenizerError("is truncated: some bytes have no token", where=path, found=f"{len(missing)} missing")
    return ranks


def _import_other_formats(path: Path) -> Tokenizer | None:
    """Import a format other than tokenizer.json; None if it is none of them."""
    if (path / "encoder_bpe_40000.json").is_file():
        return _import_gpt1(path)
    vocab, merges = path / "encoder.json", path / "vocab.bpe"
    if vocab.is_file() and merges.is_file() and not (path / "tokenizer.json").is_file():
        inner = byte_level(read_vocab(vocab), read_merges(merges))
        inner.add_special_tokens([END_OF_TEXT])
        return Tokenizer(inner, eot=END_OF_TEXT, unk=None)
    if path.suffix not in (".tiktoken", ".bin") or not path.is_file():
        return None
    if path.suffix == ".tiktoken":
        return Tokenizer(read_tiktoken(path), eot=END_OF_TEXT, unk=None)
    with path.open("rb") as file:
        is_llmc = int.from_bytes(file.read(4), "little") == binary_formats.LLMC_MAGIC
    return binary_formats.read_llmc(path) if is_llmc else binary_formats.read_llama2c(path)


def _adds_tokens(processor: dict[str, Any] | None) -> bool:
    """Whether a post-processor adds tokens; byte-level ones only change offsets."""
    if processor is None:
        return False
    if processor["type"] == "Sequence":
        return any(_adds_tokens(member) for member in processor["processors"])
    return str(processor["type"]) != "ByteLevel"


def _import_gpt1(folder: Path) -> Tokenizer:
    """GPT-1 as OpenAI published it, which has no end-of-text token."""
    inner = word_end_bpe(read_vocab(folder / "encoder_bpe_40000.json"), read_merges(folder / "vocab_40000.bpe"))
    inner.add_special_tokens([END_OF_TEXT])
    progress.notice(f"GPT-1 has no end-of-text token: added {END_OF_TEXT} as id {inner.token_to_id(END_OF_TEXT)}")
    return Tokenizer(inner, eot=END_OF_TEXT, unk="<unk>")
