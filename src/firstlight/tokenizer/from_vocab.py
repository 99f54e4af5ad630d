"""Build tokenizers from plain vocabularies: byte-level BPE from tokens and merges, SentencePiece BPE from scores.

SentencePiece BPE repeatedly joins the two neighbours whose union has the highest score. Merges ranked by the score of
the token that they make give the same result, which is how ``tokenizers`` represents it.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner
from tokenizers.processors import TemplateProcessing

from firstlight.errors import TokenizerError
from firstlight.tokenizer.patterns import CHAR_PATTERN
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer
from firstlight.tokenizer.tokenizer_json import byte_token, is_byte_token

_SPACE = "▁"  # how SentencePiece writes a space
_MERGES_PER_PIECE, _MIN_MERGES = 8, 1 << 18  # published models have two or three per piece
_MAX_PIECE_CHARACTERS = 512  # every split of a piece is tried, so the cost grows with its length


@dataclass(frozen=True, slots=True)
class VocabTable:
    """A vocabulary as binary files store it.

    Attributes:
        tokens: by id.
        eot_id: the end-of-text token.
        special_ids: tokens that never match text.
        added_ids: tokens that are matched in a text before it is pre-tokenized.
        bos_id: the token before every text, or None.
        unk_id: the token for text outside the vocabulary, or None.
        extra_config: further keys of tokenizer_config.json.
        source: the file, for error messages.
    """

    tokens: Sequence[str]
    eot_id: int
    special_ids: frozenset[int] = frozenset()
    added_ids: frozenset[int] = frozenset()
    bos_id: int | None = None
    unk_id: int | None = None
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    source: object = None

    def token_to_id(self) -> dict[str, int]:
        """Map each token to its id.

        Raises:
            TokenizerError: a duplicate token, or a special id outside the vocabulary.
        """
        ids = {token: i for i, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            duplicate = next(token for i, token in enumerate(self.tokens) if ids[token] != i)
            raise TokenizerError("has a duplicate token", where=self.source, found=repr(duplicate[:40]))
        named = {"end-of-text": self.eot_id, "beginning-of-text": self.bos_id, "unknown": self.unk_id}
        for name, i in named.items():
            if i is not None and not 0 <= i < len(ids):
                raise TokenizerError(
                    f"the {name} id is outside the vocabulary",
                    where=self.source,
                    found=i,
                    expected=f"0 to {len(ids) - 1}",
                )
        return ids


def build_byte_level_bpe(table: VocabTable, merges: Sequence[tuple[str, str]], patterns: Sequence[str]) -> Tokenizer:
    """Build a byte-level BPE tokenizer.

    Args:
        table: tokens in GPT-2's printable characters for bytes.
        merges: by rank.
        patterns: regular expressions that split a text into words, applied in order.

    Raises:
        TokenizerError: a merge whose parts or result are not tokens, or an inconsistent table.
    """
    ids = table.token_to_id()
    bad = next((f"{a} {b}" for a, b in merges if not (a in ids and b in ids and a + b in ids)), None)
    if bad is not None:
        raise TokenizerError("has a merge that is not in the vocabulary", where=table.source, found=repr(bad[:80]))
    inner = Inner(models.BPE(vocab=ids, merges=list(merges)))
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    return _add_special_tokens(inner, table, ids)


def build_sentencepiece_bpe(table: VocabTable, scores: Sequence[float], *, add_prefix_space: bool) -> Tokenizer:
    """Build a SentencePiece BPE tokenizer with byte fallback.

    Args:
        table: pieces, with ``▁`` for a space, and the 256 byte tokens ``<0x00>`` to ``<0xFF>``.
        scores: of each piece.
        add_prefix_space: prepend a space to every text.

    Raises:
        TokenizerError: an inconsistent table, or missing byte tokens.
    """
    ids = table.token_to_id()
    unmerged = table.special_ids | table.added_ids | {i for i, token in enumerate(table.tokens) if is_byte_token(token)}
    merges = score_merges(table.tokens, scores, unmerged, table.source)
    if sum(map(is_byte_token, table.tokens)) < 256:
        raise TokenizerError("lacks tokens for the 256 bytes", where=table.source, expected="<0x00> to <0xFF>")
    inner = Inner(
        models.BPE(
            vocab=ids,
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if table.unk_id is None else table.tokens[table.unk_id],
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if add_prefix_space else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_prefix_space else steps)
    return _add_special_tokens(inner, table, ids)


def score_merges(
    tokens: Sequence[str], scores: Sequence[float], unmerged: Container[int], source: object
) -> list[tuple[str, str]]:
    """Build the merges of SentencePiece BPE from the scores of its pieces.

    Args:
        tokens: pieces, by id.
        scores: of each piece.
        unmerged: ids of pieces that are not the result of a merge.
        source: the file, for error messages.

    Raises:
        TokenizerError: a piece that is too long, or too many ways to split pieces.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    too_long = next((token for token in tokens if len(token) > _MAX_PIECE_CHARACTERS), None)
    if too_long is not None:
        raise TokenizerError(
            "has a piece that is too long",
            where=source,
            found=f"{len(too_long):,} characters",
            expected=f"at most {_MAX_PIECE_CHARACTERS}",
        )
    splits = (
        (-scores[i], i, token[:n], token[n:])
        for i, token in enumerate(tokens)
        if i not in unmerged
        for n in range(1, len(token))
        if token[:n] in ids and token[n:] in ids
    )
    limit = _MIN_MERGES + _MERGES_PER_PIECE * len(ids)
    merges = list(islice(splits, limit + 1))
    if len(merges) > limit:
        raise TokenizerError(
            "has pieces that can be split in too many ways", where=source, expected=f"at most {limit:,} splits"
        )
    merges.sort(key=lambda merge: (merge[0], merge[1], ids[merge[2]], ids[merge[3]]))
    return [(a, b) for _, _, a, b in merges]


def build_char_level(tokens: Sequence[str], *, byte_fallback: bool = False, source: object = None) -> Tokenizer:
    """Build a character-level tokenizer; an end-of-text token is appended where ``tokens`` lacks it.

    Args:
        tokens: characters and special tokens, by id.
        byte_fallback: other characters are spelled in tokens for their UTF-8 bytes, which are appended. Without it they
            become an unknown token, which is appended where ``tokens`` lacks it.
        source: the file, for error messages.

    Raises:
        TokenizerError: a duplicate character.
    """
    special = [END_OF_TEXT] if byte_fallback else [END_OF_TEXT, UNKNOWN]
    needed = [*special, *(byte_token(b) for b in range(256) if byte_fallback)]
    all_tokens = [*tokens, *(name for name in needed if name not in set(tokens))]
    ids = VocabTable(all_tokens, all_tokens.index(END_OF_TEXT), source=source).token_to_id()
    if byte_fallback:
        # WordLevel has no byte fallback. Without merges every character is a token of BPE, or some bytes.
        inner = Inner(models.BPE(vocab=ids, merges=[], byte_fallback=True))
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        inner = Inner(models.WordLevel(vocab=ids, unk_token=UNKNOWN))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(CHAR_PATTERN), "isolated")
        inner.decoder = decoders.Fuse()
    inner.add_special_tokens(special)
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None if byte_fallback else UNKNOWN)


def _add_special_tokens(inner: Inner, table: VocabTable, ids: Mapping[str, int]) -> Tokenizer:
    named = {table.eot_id, *(i for i in (table.bos_id, table.unk_id) if i is not None)}
    inner.add_special_tokens([table.tokens[i] for i in sorted(table.special_ids | named)])
    added = sorted(table.added_ids - table.special_ids)
    inner.add_tokens([AddedToken(table.tokens[i], normalized=False) for i in added])
    if inner.get_vocab_size() != len(ids):
        raise TokenizerError("has ambiguous tokens", where=table.source)
    extra_config = dict(table.extra_config)
    if table.bos_id is not None:
        bos = table.tokens[table.bos_id]
        inner.post_processor = prepend_token(bos, table.bos_id)
        extra_config["bos_token"] = bos
    unk = None if table.unk_id is None else table.tokens[table.unk_id]
    return Tokenizer(inner, eot=table.tokens[table.eot_id], unk=unk, extra_config=extra_config)


def prepend_token(token: str, i: int | None) -> TemplateProcessing:
    """Build the post-processor with which transformers puts a token in front of every text.

    Args:
        token: such as ``<s>``.
        i: its id.
    """
    assert i is not None, "it is in the vocabulary"
    return TemplateProcessing(single=[token, "$A"], pair=[token, "$A", token, "$B"], special_tokens=[(token, i)])
