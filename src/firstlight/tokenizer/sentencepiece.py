"""Read SentencePiece's tokenizer.model: BPE, unigram and character models, as SentencePiece itself encodes with them.

SentencePiece emits user-defined pieces whole and never matches control, unused or byte pieces in a text. ``tokenizers``
knows neither: here a pre-tokenizer isolates the former, and splits the text of the latter between two characters that
no other piece has side by side, where every segmentation has a border.

Where a text starts with a space, transformers 5 gives other ids than SentencePiece for ``LlamaTokenizer``, since it
leaves out the space that is put in front of every text; here SentencePiece is followed.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import iter_fields
from firstlight.tokenizer.from_vocab import score_merges
from firstlight.tokenizer.patterns import EDGE_SPACES, SPACE_RUN
from firstlight.tokenizer.tokenizer_json import is_byte_token
from firstlight.tokenizer.untrusted import library_errors

# Fields and enum values of sentencepiece_model.proto.
_PIECE, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM, _BPE, _CHAR = 1, 2, 4
_TYPE, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_NAMED = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2), "pad_token": (43, -1)}  # field and default
_CHARSMAP, _ADD_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5
_SPACE = "▁"
_ALL = 1 << 20  # more spaces than a text starts with


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The parts of a model file that decide how text is encoded.

    Attributes:
        pieces: text, score and type, by id.
        trainer, normalizer: fields of the two specs, by number.
        source: the file, for error messages.
    """

    pieces: list[tuple[str, float, int]]
    trainer: dict[int, Any]
    normalizer: dict[int, Any]
    source: Path = field(default=Path())

    def of_type(self, *types: int) -> list[str]:
        """List the pieces of these types."""
        return [text for text, _, piece_type in self.pieces if piece_type in types]

    @property
    def named(self) -> dict[str, str]:
        """The special tokens by the name that tokenizer_config.json gives them."""
        ids = {key: self.trainer.get(number, default) for key, (number, default) in _NAMED.items()}
        # A negative id, stored as 64 bits, means that there is none; so does a default one beyond the last piece.
        return {key: self.pieces[i][0] for key, i in ids.items() if 0 <= i < len(self.pieces)}

    @property
    def special(self) -> list[str]:
        """The pieces that never match text, besides bytes."""
        return list(dict.fromkeys([*self.of_type(_UNKNOWN, _CONTROL, _UNUSED), *self.named.values()]))


def read_model(path: Path) -> SentencePieceModel:
    """Read a SentencePiece model file (protocol buffer ModelProto).

    Raises:
        TokenizerError: it is damaged.
    """
    pieces: list[tuple[str, float, int]] = []
    specs: dict[int, dict[int, Any]] = {_TRAINER: {}, _NORMALIZER: {}, _DENORMALIZER: {}}
    for number, value in _fields(path.read_bytes(), path):
        if number == _PIECE:
            piece = dict(_fields(value, path))
            pieces.append((_text(piece.get(1, b""), path), _float(piece.get(2), path), piece.get(3, _NORMAL)))
        elif number in specs:
            specs[number] = dict(_fields(value, path))
    if not pieces:
        raise TokenizerError("is not a SentencePiece model, or is damaged", where=path, found="no pieces")
    counts = {text: i for i, (text, _, _) in enumerate(pieces)}
    duplicate = next((text for i, (text, _, _) in enumerate(pieces) if counts[text] != i), None)
    if duplicate is not None:
        raise TokenizerError("has a duplicate token", where=path, found=repr(duplicate[:40]))
    if specs[_DENORMALIZER].get(_CHARSMAP):
        raise TokenizerError("changes text when it decodes (denormalizer_spec), which is not supported", where=path)
    return SentencePieceModel(pieces, specs[_TRAINER], specs[_NORMALIZER], path)


def build(model: SentencePieceModel, *, legacy: bool, add_prefix: bool = True) -> Inner:
    """Build a tokenizer that gives SentencePiece's ids.

    Args:
        model: of type BPE, unigram or char.
        legacy: whether transformers puts a space in front of each part between special tokens, rather than of the
            first one only, as tokenizer_config.json's key of this name says.
        add_prefix: false to add no space in front of a text, whatever the model says.

    Raises:
        TokenizerError: another model type, or an unsupported rule.
    """
    path, kind, spec = model.source, model.trainer.get(_TYPE, _UNIGRAM), model.normalizer
    if kind not in (_UNIGRAM, _BPE, _CHAR):
        raise TokenizerError(
            "is a SentencePiece model of an unsupported type", where=path, found=kind, expected="unigram, bpe or char"
        )
    if model.trainer.get(_SUFFIX, 0) or not spec.get(_ESCAPE_SPACES, 1):
        found = "treat_whitespace_as_suffix = true" if model.trainer.get(_SUFFIX, 0) else "escape_whitespaces = false"
        raise TokenizerError("marks word boundaries in an unsupported way", where=path, found=found)
    prefix, user_defined = add_prefix and bool(spec.get(_ADD_PREFIX, 1)), model.of_type(_USER_DEFINED)
    inner = _unigram(model) if kind == _UNIGRAM else _bpe(model, merges=kind == _BPE)
    steps: list[Any] = []
    if spec.get(_CHARSMAP):
        steps += _charsmap(spec[_CHARSMAP], path)
        _check_unchanged(user_defined, normalizers.Sequence(steps), path)
    if spec.get(_REMOVE_SPACES, 1):
        steps += [normalizers.Replace(Regex(EDGE_SPACES), ""), normalizers.Replace(Regex(SPACE_RUN), " ")]
    if prefix and legacy:
        steps.append(normalizers.Prepend(_SPACE))
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    splits: list[Any] = []
    if prefix and not legacy:
        # The first adds a space to the first part alone, also to one that starts with a space, which is a ▁ by then.
        splits.append(pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False))
        splits.append(pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False))
    if user_defined:
        longest_first = sorted(user_defined, key=len, reverse=True)
        splits.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated"))
    if user_defined or kind == _UNIGRAM:
        splits += _guards(model)
    if splits:
        inner.pre_tokenizer = pre_tokenizers.Sequence(splits)
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    n_stripped = _ALL if spec.get(_REMOVE_SPACES, 1) else int(prefix)
    inner.decoder = decoders.Sequence([*decoding, *([decoders.Strip(" ", n_stripped, 0)] if n_stripped else [])])
    return inner


def _charsmap(charsmap: bytes, path: Path) -> list[Any]:
    """Build the normalizers of a table of rules, such as those of ``nmt_nfkc``.

    tokenizers applies the rules to what a reader takes for one character, and drops what follows a match in it.
    """
    with library_errors("has a table of normalization rules that cannot be read", path):
        rules = normalizers.Precompiled(charsmap)
        line_end = "".join(rules.normalize_str(c) for c in "\r\n")
        is_split = rules.normalize_str("\r\n") != line_end and rules.normalize_str(line_end) == line_end
    progress.notice(
        f"{path}: its normalization rules are followed as in transformers: a character that they change gets other ids "
        "than in SentencePiece where combining marks follow it"
    )
    return [normalizers.Replace("\r\n", line_end), rules] if is_split else [rules]


def _bpe(model: SentencePieceModel, *, merges: bool) -> Inner:
    ids = {text: i for i, (text, _, _) in enumerate(model.pieces)}
    special = set(model.special)
    unmerged = {i for text, i in ids.items() if text in special or model.pieces[i][2] != _NORMAL}
    scores = [score for _, score, _ in model.pieces]
    return Inner(
        models.BPE(
            vocab=ids,
            merges=score_merges(list(ids), scores, unmerged, model.source) if merges else [],
            byte_fallback=_byte_fallback(model),
            fuse_unk=True,
            unk_token=model.named.get("unk_token"),
            # A user-defined piece, which is a word of its own, has no merges.
            ignore_merges=bool(model.of_type(_USER_DEFINED)),
        )
    )


def _unigram(model: SentencePieceModel) -> Inner:
    unk = model.named.get("unk_token")
    if unk is None:
        raise TokenizerError("has no unknown token, which a unigram model needs", where=model.source)
    # Scores of 0 leave the lowest one, of which that of unknown characters is derived, to the normal pieces.
    vocab = [(text, score if piece_type == _NORMAL else 0.0) for text, score, piece_type in model.pieces]
    unk_id = next(i for i, (text, _) in enumerate(vocab) if text == unk)
    return Inner(models.Unigram(vocab, unk_id=unk_id, byte_fallback=_byte_fallback(model)))


def _byte_fallback(model: SentencePieceModel) -> bool:
    bytes_ = {text for text in model.of_type(_BYTE) if is_byte_token(text)}
    if model.trainer.get(_BYTE_FALLBACK, bool(bytes_)) and len(bytes_) < 256:
        raise TokenizerError("lacks tokens for the 256 bytes", where=model.source, expected="<0x00> to <0xFF>")
    return len(bytes_) == 256


def _check_unchanged(pieces: Iterable[str], normalizer: Any, path: Path) -> None:
    """Refuse user-defined pieces that normalization changes: SentencePiece protects them from it."""
    changed = next((piece for piece in pieces if normalizer.normalize_str(piece) != piece), None)
    if changed is not None:
        raise TokenizerError(
            "has a user-defined piece that its normalization rules change, which is not supported",
            where=path,
            found=repr(changed[:40]),
        )


def _guards(model: SentencePieceModel) -> list[Any]:
    """Build the pre-tokenizer that splits the text of pieces that never match text."""
    pairs = {text[k : k + 2] for text in model.of_type(_NORMAL) for k in range(len(text) - 1)}
    rests: dict[str, list[str]] = {}
    for text in dict.fromkeys([*model.special, *model.of_type(_BYTE)]):
        border = next((k for k in range(1, len(text)) if text[k - 1 : k + 1] not in pairs), None)
        if border is None:
            raise TokenizerError(
                "has a piece that must not match text, which is not supported",
                where=model.source,
                found=repr(text[:40]),
            )
        rests.setdefault(text[:border], []).append(text[border:])
    patterns = [f"{re.escape(start)}(?={'|'.join(map(re.escape, ends))})" for start, ends in rests.items()]
    return [pre_tokenizers.Split(Regex("|".join(patterns)), "merged_with_previous")] if patterns else []


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
