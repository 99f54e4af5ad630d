"""Import published tokenizers: GPT-1, GPT-2, tiktoken, SentencePiece, llama2.c, llm.c, Hugging Face."""

import base64
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer import binary_formats
from firstlight.tokenizer.bpe import byte_level_bpe
from firstlight.tokenizer.load import read_tokenizer_json, resolve_special_tokens
from firstlight.tokenizer.merges import recover_merge
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer
from firstlight.tokenizer.tokenizer_json import bytes_to_token, prepended_token
from firstlight.tokenizer.untrusted import check_ids, is_library_error

_MAX_TOKEN_CHARACTERS = 1 << 14  # recovering the merges of a token takes time in proportion to the square of its length
# What a .tiktoken file does not contain, by the prefix of its name: split pattern, and id of end-of-text.
_TIKTOKEN_ENCODINGS = {
    "cl100k": ("llama3", 100_257),
    "o200k": ("gpt4o", 199_999),
    "r50k": ("gpt2", 50_256),
    "p50k": ("gpt2", 50_256),
    "gpt2": ("gpt2", 50_256),
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
    except TokenizerError:
        raise
    except BaseException as error:  # the tokenizers library raises plain Exception, and panics
        if not is_library_error(error):
            raise
        raise TokenizerError(f"cannot be read: {error}", where=path) from error
    if imported is not None:
        return imported
    inner, file = read_tokenizer_json(path)
    check_ids(inner.get_vocab(with_added_tokens=True), file)  # the library writes every id up to the highest
    processor = json.loads(inner.to_str()).get("post_processor")
    if _adds_tokens(processor) and prepended_token(processor) is None:
        inner.post_processor = None
        progress.notice(f"{file} adds special tokens around each text: dropped, since texts are encoded without them")
    return resolve_special_tokens(inner, file, add_eot=True)


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
    pattern, eot_id = encoding
    ranks = _read_ranks(path)
    if eot_id in ranks.values():
        raise TokenizerError("uses the id of end-of-text for another token", where=path, found=f"rank {eot_id}")
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pair = recover_merge(token, rank, ranks)
        if pair is not None:
            merges.append((bytes_to_token(pair[0]), bytes_to_token(pair[1])))
    vocab = {bytes_to_token(token): rank for token, rank in ranks.items()} | {END_OF_TEXT: eot_id}
    check_ids(vocab, path)
    # tiktoken ignores the merges of a word that is a token.
    inner = byte_level_bpe(models.BPE(vocab=vocab, merges=merges, ignore_merges=True), pattern)
    inner.add_special_tokens([END_OF_TEXT])
    return inner


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
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
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            shown = line[:40].decode("ascii", "backslashreplace")
            raise TokenizerError(
                "is not a line of a tiktoken file", where=f"{path}:{number}", found=shown, expected="base64 and a rank"
            ) from error
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise TokenizerError("is truncated: some bytes have no token", where=path, found=f"{len(missing)} missing")
    return ranks


def _import_other_formats(path: Path) -> Tokenizer | None:
    """Import a format other than tokenizer.json; None if it is none of them."""
    if (path / "encoder_bpe_40000.json").is_file():
        return _import_gpt1(path)
    for vocab_name, merges_name in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        vocab, merges = path / vocab_name, path / merges_name
        if vocab.is_file() and merges.is_file() and not (path / "tokenizer.json").is_file():
            return _import_gpt2(vocab, merges)
    if path.is_dir() and not any((path / name / "tokenizer.json").is_file() for name in ("", "tokenizer")):
        path = path / "tokenizer.model"
    if path.suffix not in (".tiktoken", ".model", ".bin") or not path.is_file():
        return None
    if path.suffix == ".tiktoken":
        return Tokenizer(read_tiktoken(path), eot=END_OF_TEXT, unk=None)
    if path.suffix == ".model":
        return binary_formats.read_sentencepiece(path)
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


def _read_merges(path: Path) -> list[tuple[str, str]]:
    # str.splitlines would also split at other characters than LF, which a merge may contain.
    lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return [(a, b) for a, b in pairs]


def _import_gpt2(vocab: Path, merges: Path) -> Tokenizer:
    inner = Inner(models.BPE(vocab=json.loads(vocab.read_text(encoding="utf-8")), merges=_read_merges(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _import_gpt1(folder: Path) -> Tokenizer:
    """GPT-1: lower case, no accents, punctuation split off, ``</w>`` at the end of a word, no end-of-text token."""
    vocab = json.loads((folder / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    merges, unk = _read_merges(folder / "vocab_40000.bpe"), "<unk>"
    inner = Inner(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=unk))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens([unk])
    inner.add_special_tokens([END_OF_TEXT])
    progress.notice(f"GPT-1 has no end-of-text token: added {END_OF_TEXT} as id {inner.token_to_id(END_OF_TEXT)}")
    return Tokenizer(inner, eot=END_OF_TEXT, unk=unk)
