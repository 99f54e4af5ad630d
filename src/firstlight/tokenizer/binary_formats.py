"""Read tokenizers from binary files: SentencePiece's tokenizer.model, llama2.c's and llm.c's tokenizer.bin."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader, iter_fields
from firstlight.tokenizer.from_vocab import VocabTable, build_byte_level_bpe, build_sentencepiece_bpe
from firstlight.tokenizer.merges import recover_merge
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import bytes_to_token

LLMC_MAGIC = 20240328
# Fields and enum values of sentencepiece_model.proto.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_BPE = 2
_CONVERT = "Make a tokenizer.json: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)"


def read_sentencepiece(path: Path) -> Tokenizer:
    """Read a SentencePiece model file (protocol buffer ModelProto) of type BPE with byte tokens.

    Raises:
        TokenizerError: a damaged file, another model type, or unsupported normalization.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(path.read_bytes(), path):
        if number == _PIECE:
            piece = dict(_fields(value, path))
            pieces.append((_text(piece.get(1, b""), path), _float(piece.get(2), path), piece.get(3, _NORMAL)))
        elif number == _TRAINER:
            trainer = dict(_fields(value, path))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(value, path))
    if trainer.get(3, 1) != _BPE:
        raise TokenizerError("is not a SentencePiece model of type BPE", where=path, fix=_CONVERT)
    if normalizer.get(2) or normalizer.get(4, 1):
        raise TokenizerError("uses unsupported text normalization", where=path, fix=_CONVERT)
    types = [piece_type for _, _, piece_type in pieces]
    # The ids default to 0, 1 and 2; a negative one, stored as 64 bits, means that there is none.
    unk_id, bos_id, eot_id = (trainer.get(field, i) for field, i in ((40, 0), (41, 1), (42, 2)))
    table = VocabTable(
        [text for text, _, _ in pieces],
        eot_id,
        special_ids=frozenset(i for i, piece_type in enumerate(types) if piece_type in (_CONTROL, _UNUSED)),
        added_ids=frozenset(i for i, piece_type in enumerate(types) if piece_type == _USER_DEFINED),
        bos_id=bos_id if bos_id < len(pieces) else None,
        unk_id=unk_id,
        source=path,
    )
    scores = [score for _, score, _ in pieces]
    return build_sentencepiece_bpe(table, scores, add_prefix_space=bool(normalizer.get(3, 1)))


def read_llama2c(path: Path) -> Tokenizer:
    """Read llama2.c's tokenizer.bin: scores and pieces; ``<s>`` both starts a text and ends the previous one.

    Raises:
        TokenizerError: a damaged file.
    """
    file = BoundedReader(path, TokenizerError)
    file.unpack("I")  # length of the longest piece
    tokens, scores = [], []
    while file.remaining:
        score, length = file.unpack("fI")
        tokens.append(file.read_text(length).replace(" ", "▁"))
        scores.append(score)
    if len(tokens) < 3 or [token.strip() for token in tokens[:3]] != ["<unk>", "<s>", "</s>"]:
        raise TokenizerError(
            "is not a llama2.c tokenizer", where=path, found=str(tokens[:3])[:80], expected="<unk> <s> </s>"
        )
    # llama2.c stores these two with line breaks around them, for its own output.
    tokens[1:3] = "<s>", "</s>"
    table = VocabTable(tokens, eot_id=1, special_ids=frozenset({0, 1, 2}), bos_id=1, unk_id=0, source=path)
    return build_sentencepiece_bpe(table, scores, add_prefix_space=True)


def read_llmc(path: Path) -> Tokenizer:
    """Read llm.c's gpt2_tokenizer.bin: the bytes of each token, in rank order, from which merges are recovered.

    Raises:
        TokenizerError: a damaged file, or an unsupported version.
    """
    file = BoundedReader(path, TokenizerError)
    magic, version, size, eot_id, *_ = file.unpack("256I")
    if magic != LLMC_MAGIC or version not in (1, 2):
        raise TokenizerError("is not an llm.c tokenizer", where=path, found=f"magic {magic}, version {version}")
    file.require(2 * size)
    eot_id = eot_id if version == 2 else size - 1
    token_bytes = [file.read(*file.unpack("B")) for _ in range(size)]
    ranks = {data: i for i, data in enumerate(token_bytes) if i != eot_id}
    if len(ranks) != size - 1 or any(bytes([b]) not in ranks for b in range(256)):
        raise TokenizerError("has a duplicate token, or lacks tokens for some bytes", where=path)
    pairs = (recover_merge(data, rank, ranks) for data, rank in ranks.items())
    merges = [(bytes_to_token(pair[0]), bytes_to_token(pair[1])) for pair in pairs if pair is not None]
    tokens = [
        data.decode("utf-8", "replace") if i == eot_id else bytes_to_token(data) for i, data in enumerate(token_bytes)
    ]
    table = VocabTable(tokens, eot_id, special_ids=frozenset({eot_id}), source=path)
    return build_byte_level_bpe(table, merges, [PATTERNS["gpt2"]])


def _fields(data: Any, path: Path) -> Iterator[tuple[int, Any]]:
    if not isinstance(data, bytes):
        raise TokenizerError("is not a SentencePiece model, or is damaged", where=path)
    try:
        yield from iter_fields(data)
    except ValueError as error:
        raise TokenizerError("is not a SentencePiece model, or is damaged", where=path, found=error) from error


def _text(data: Any, path: Path) -> str:
    try:
        return data.decode("utf-8") if isinstance(data, bytes) else ""
    except UnicodeDecodeError as error:
        raise TokenizerError(f"has a piece that is not UTF-8: {error}", where=path) from error


def _float(data: Any, path: Path) -> float:
    if data is None:
        return 0.0
    if not isinstance(data, bytes) or len(data) != 4:
        raise TokenizerError("has a score that is not a number", where=path)
    return float(struct.unpack("<f", data)[0])
