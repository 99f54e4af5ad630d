"""Tokenizers from binary files: SentencePiece's tokenizer.model, llama2.c's and llm.c's tokenizer.bin."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader, iter_fields
from firstlight.tokenizer.from_vocab import Table, byte_level, sentence_piece
from firstlight.tokenizer.merges import last_merge
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import byte_characters

LLMC = 20240328
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
_BPE = 2
_TRAINER, _NORMALIZER = 2, 3  # fields of ModelProto; 1 is a piece


def read_sentence_piece(path: Path) -> Tokenizer:
    """Read SentencePiece's model file (its protocol buffer, sentencepiece_model.proto), of kind BPE with bytes.

    Raises:
        TokenizerError: it is damaged, of another kind, or normalises text in a way that is not read.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(path.read_bytes(), path):
        if number == 1:
            piece = dict(_fields(value, path))
            pieces.append((_text(piece.get(1, b""), path), _float(piece.get(2), path), piece.get(3, _NORMAL)))
        elif number == _TRAINER:
            trainer = dict(_fields(value, path))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(value, path))
    if trainer.get(3, 1) != _BPE:
        raise TokenizerError("is no SentencePiece model of kind BPE", where=path, fix=_CONVERT)
    if normalizer.get(2) or normalizer.get(4, 1):
        raise TokenizerError("normalises text in a way that is not read", where=path, fix=_CONVERT)
    kinds = [kind for _, _, kind in pieces]
    # Ids default to 0, 1 and 2; a negative one, written as 64 bits, means that there is none.
    unknown, begin, end = (trainer.get(field, i) for field, i in ((40, 0), (41, 1), (42, 2)))
    table = Table(
        [text for text, _, _ in pieces],
        end,
        special=frozenset(i for i, kind in enumerate(kinds) if kind in (_CONTROL, _UNUSED)),
        user=frozenset(i for i, kind in enumerate(kinds) if kind == _USER),
        begin=begin if begin < len(pieces) else None,
        unknown=unknown,
        where=path,
    )
    return sentence_piece(table, [score for _, score, _ in pieces], prefix=bool(normalizer.get(3, 1)))


def read_llama2c(path: Path) -> Tokenizer:
    """Read llama2.c's tokenizer.bin: scores and pieces; a text begins with ``<s>``, which also ends the one before.

    Raises:
        TokenizerError: it is damaged.
    """
    file = BoundedReader(path, TokenizerError)
    file.unpack("I")  # the longest piece
    tokens, scores = [], []
    while file.remaining:
        score, length = file.unpack("fI")
        tokens.append(file.read_text(length).replace(" ", "▁"))
        scores.append(score)
    if len(tokens) < 3 or [token.strip() for token in tokens[:3]] != ["<unk>", "<s>", "</s>"]:
        raise TokenizerError(
            "is no tokenizer of llama2.c", where=path, found=str(tokens[:3])[:80], expected="<unk> <s> </s>"
        )
    # The program has a line break around the two, for its own printing.
    tokens[1:3] = "<s>", "</s>"
    table = Table(tokens, eot=1, special=frozenset({0, 1, 2}), begin=1, unknown=0, where=path)
    return sentence_piece(table, scores, prefix=True)


def read_llmc(path: Path) -> Tokenizer:
    """Read llm.c's gpt2_tokenizer.bin: the bytes of each token; merges follow from their order, as in tiktoken.

    Raises:
        TokenizerError: it is damaged, or of another version.
    """
    file = BoundedReader(path, TokenizerError)
    magic, version, size, eot, *_ = file.unpack("256I")
    if magic != LLMC or version not in (1, 2):
        raise TokenizerError("is no tokenizer of llm.c", where=path, found=f"{magic}, version {version}")
    file.require(2 * size)
    eot = eot if version == 2 else size - 1
    held = [file.read(*file.unpack("B")) for _ in range(size)]
    ranks = {data: i for i, data in enumerate(held) if i != eot}
    if len(ranks) != size - 1 or any(bytes([b]) not in ranks for b in range(256)):
        raise TokenizerError("has a token twice, or none for some bytes", where=path)
    pairs = (last_merge(data, rank, ranks) for data, rank in ranks.items())
    merges = [(_written(pair[0]), _written(pair[1])) for pair in pairs if pair is not None]
    tokens = [held[i].decode("utf-8", "replace") if i == eot else _written(held[i]) for i in range(size)]
    return byte_level(Table(tokens, eot, special=frozenset({eot}), where=path), merges, [PATTERNS["gpt2"]])


_CONVERT = "Make one: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)"


def _fields(data: Any, path: Path) -> Iterator[tuple[int, Any]]:
    if not isinstance(data, bytes):
        raise TokenizerError("is no SentencePiece model, or damaged", where=path)
    try:
        yield from iter_fields(data)
    except ValueError as error:
        raise TokenizerError("is no SentencePiece model, or damaged", where=path, found=error) from error


def _text(data: Any, path: Path) -> str:
    try:
        return data.decode("utf-8") if isinstance(data, bytes) else ""
    except UnicodeDecodeError as error:
        raise TokenizerError(f"has a piece that is no text: {error}", where=path) from error


def _float(data: Any, path: Path) -> float:
    if data is None:
        return 0.0
    if not isinstance(data, bytes) or len(data) != 4:
        raise TokenizerError("has a score that is no number", where=path)
    return float(struct.unpack("<f", data)[0])


def _written(data: bytes) -> str:
    return "".join(byte_characters()[b] for b in data)
