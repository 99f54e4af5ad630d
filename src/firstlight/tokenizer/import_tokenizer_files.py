"""Make a tokenizer from what others publish: GPT-1, GPT-2, tiktoken, SentencePiece, llama2.c, llm.c, Hugging Face."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.load import named, opened
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer
from firstlight.tokenizer.tokenizer_json import begin_of


def import_tokenizer(source: str | Path) -> Tokenizer:
    """Make a tokenizer from GPT-1's or GPT-2's files, tiktoken's, SentencePiece's, llama2.c's, llm.c's, or any .json.

    A tokenizer.json without an end-of-text token is given ``<|endoftext|>`` at the end of its vocabulary. What it
    would put around a text is left out, since a text's ids are its own here, but for a begin-of-text token alone.

    Raises:
        TokenizerError: the source is none of these, or damaged.
    """
    path = Path(source)
    try:
        made = _of_files(path)
    except TokenizerError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise TokenizerError(f"cannot be read: {error}", where=path) from error
    if made is not None:
        return made
    inner, file = opened(path)
    processor = json.loads(inner.to_str()).get("post_processor")
    if _wraps(processor) and begin_of(processor) is None:
        inner.post_processor = None
        progress.notice(f"{file} puts special tokens around each text: left out, since texts are encoded as they are")
    return named(inner, file, give_end=True)


def _of_files(path: Path) -> Tokenizer | None:
    """Return the tokenizer of one of the formats that are no tokenizer.json, or None."""
    if (path / "encoder_bpe_40000.json").is_file():
        return _gpt1(path)
    for vocabulary, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (path / vocabulary).is_file() and (path / merges).is_file() and not (path / "tokenizer.json").is_file():
            return _gpt2(path / vocabulary, path / merges)
    if path.is_dir() and not any((path / name / "tokenizer.json").is_file() for name in ("", "tokenizer")):
        path = path / "tokenizer.model"
    if path.suffix not in (".tiktoken", ".model", ".bin") or not path.is_file():
        return None
    # Loaded when such a file is met.
    from firstlight.tokenizer import binary_formats
    from firstlight.tokenizer.tiktoken import read_tiktoken

    if path.suffix == ".tiktoken":
        return Tokenizer(read_tiktoken(path), eot=END_OF_TEXT, unk=None)
    if path.suffix == ".model":
        return binary_formats.read_sentence_piece(path)
    with path.open("rb") as file:
        is_llmc = int.from_bytes(file.read(4), "little") == binary_formats.LLMC
    return binary_formats.read_llmc(path) if is_llmc else binary_formats.read_llama2c(path)


def _wraps(processor: dict[str, Any] | None) -> bool:
    """Tell whether a post-processor adds tokens; byte-level ones only move offsets."""
    if processor is None:
        return False
    if processor["type"] == "Sequence":
        return any(_wraps(member) for member in processor["processors"])
    return str(processor["type"]) != "ByteLevel"


def _merges(path: Path) -> list[tuple[str, str]]:
    # Other characters than LF end a line for splitlines, and may stand in a merge.
    lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return [(a, b) for a, b in pairs]


def _gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    inner = Inner(models.BPE(vocab=json.loads(vocabulary.read_text(encoding="utf-8")), merges=_merges(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _gpt1(folder: Path) -> Tokenizer:
    """GPT-1: lower case, no accents, words and signs apart, ``</w>`` at a word's end; no end-of-text of its own."""
    vocabulary = json.loads((folder / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    merges, unknown = _merges(folder / "vocab_40000.bpe"), "<unk>"
    inner = Inner(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=unknown))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens([unknown])
    inner.add_special_tokens([END_OF_TEXT])
    progress.notice(f"GPT-1 has no end-of-text token: {END_OF_TEXT} is added as id {inner.token_to_id(END_OF_TEXT)}")
    return Tokenizer(inner, eot=END_OF_TEXT, unk=unknown)
