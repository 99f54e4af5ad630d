"""Tokenizers from bare tables: byte-level BPE from tokens and merges, SentencePiece's BPE from pieces and scores.

SentencePiece's BPE joins, at each turn, the two neighbours whose union has the highest score. The same comes of merges
that are ranked by the score of what they make, which is how ``tokenizers`` has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner
from tokenizers.processors import TemplateProcessing

from firstlight.errors import TokenizerError
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer
from firstlight.tokenizer.tokenizer_json import CHARACTERS, is_byte_token

_MARK = "▁"  # a space, in SentencePiece
_LONGEST = 512  # characters of a piece; splitting one into all pairs takes as many steps


@dataclass(frozen=True, slots=True)
class Table:
    """A vocabulary as binary files have it.

    Attributes:
        tokens: by id.
        special: ids of tokens that no text can contain.
        user: ids of tokens that are found in a text before it is cut.
        eot: id of the token that ends a text.
        begin: id of the token before every text, or None.
        unknown: id of the token for what the vocabulary lacks, or None.
        kept: further keys of tokenizer_config.json.
        where: the file, for messages.
    """

    tokens: Sequence[str]
    eot: int
    special: frozenset[int] = frozenset()
    user: frozenset[int] = frozenset()
    begin: int | None = None
    unknown: int | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    where: object = None

    def vocabulary(self) -> dict[str, int]:
        """Return ids by token.

        Raises:
            TokenizerError: a token stands there twice, or a special one lies outside.
        """
        ids = {token: i for i, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if ids[token] != i)
            raise TokenizerError("has a token twice", where=self.where, found=repr(twice[:40]))
        named = {"end of text": self.eot, "begin of text": self.begin, "unknown": self.unknown}
        for what, i in named.items():
            if i is not None and not 0 <= i < len(ids):
                raise TokenizerError(
                    f"has no such token for {what}", where=self.where, found=i, expected=f"0 to {len(ids) - 1}"
                )
        return ids


def byte_level(table: Table, merges: Sequence[tuple[str, str]], patterns: Sequence[str]) -> Tokenizer:
    """Make byte-level BPE.

    Args:
        table: tokens in the printable characters that GPT-2 writes bytes in.
        merges: by rank.
        patterns: that cut a text into words, one after the other.

    Raises:
        TokenizerError: a merge makes no token, or the table contradicts itself.
    """
    ids = table.vocabulary()
    wrong = next((f"{a} {b}" for a, b in merges if not (a in ids and b in ids and a + b in ids)), None)
    if wrong is not None:
        raise TokenizerError("merges what is no token", where=table.where, found=repr(wrong[:80]))
    inner = Inner(models.BPE(vocab=ids, merges=list(merges)))
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    return _finish(inner, table, ids)


def sentence_piece(table: Table, scores: Sequence[float], *, prefix: bool) -> Tokenizer:
    """Make SentencePiece's BPE, with bytes for what the vocabulary lacks.

    Args:
        table: pieces, in which ``▁`` is a space, and the 256 byte tokens ``<0x00>`` to ``<0xFF>``.
        scores: of each piece.
        prefix: a text begins with a space that is not there.

    Raises:
        TokenizerError: the table contradicts itself, or has no byte tokens.
    """
    ids = table.vocabulary()
    long = next((token for token in table.tokens if len(token) > _LONGEST), None)
    if long is not None:
        raise TokenizerError(
            "has a piece of absurd length",
            where=table.where,
            found=f"{len(long):,} characters",
            expected=f"at most {_LONGEST}",
        )
    if sum(map(is_byte_token, table.tokens)) < 256:
        raise TokenizerError("has no tokens for the 256 bytes", where=table.where, expected="<0x00> to <0xFF>")
    apart = table.special | table.user | {i for i, token in enumerate(table.tokens) if is_byte_token(token)}
    merges = [
        (-scores[i], i, token[:n], token[n:])
        for i, token in enumerate(table.tokens)
        if i not in apart
        for n in range(1, len(token))
        if token[:n] in ids and token[n:] in ids
    ]
    merges.sort(key=lambda merge: (merge[0], merge[1], ids[merge[2]], ids[merge[3]]))
    inner = Inner(
        models.BPE(
            vocab=ids,
            merges=[(a, b) for _, _, a, b in merges],
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if table.unknown is None else table.tokens[table.unknown],
        )
    )
    spaces = normalizers.Replace(" ", _MARK)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(_MARK), spaces]) if prefix else spaces
    steps = [decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _finish(inner, table, ids)


def characters(tokens: Sequence[str], *, where: object = None) -> Tokenizer:
    """Make a tokenizer of characters; end-of-text and unknown follow where ``tokens`` lacks them.

    Raises:
        TokenizerError: a character stands there twice.
    """
    all_tokens = [*tokens, *(name for name in (END_OF_TEXT, UNKNOWN) if name not in tokens)]
    ids = Table(all_tokens, all_tokens.index(END_OF_TEXT), where=where).vocabulary()
    inner = Inner(models.WordLevel(vocab=ids, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTERS), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=UNKNOWN)


def _finish(inner: Inner, table: Table, ids: Mapping[str, int]) -> Tokenizer:
    named = {table.eot, *(i for i in (table.begin, table.unknown) if i is not None)}
    inner.add_special_tokens([table.tokens[i] for i in sorted(table.special | named)])
    inner.add_tokens([AddedToken(table.tokens[i], normalized=False) for i in sorted(table.user - table.special)])
    if inner.get_vocab_size() != len(ids):
        raise TokenizerError("has tokens that cannot be told apart", where=table.where)
    kept = dict(table.kept)
    if table.begin is not None:
        begin = table.tokens[table.begin]
        inner.post_processor = TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", begin, "$B"], special_tokens=[(begin, table.begin)]
        )
        kept["bos_token"] = begin
    unk = None if table.unknown is None else table.tokens[table.unknown]
    return Tokenizer(inner, eot=table.tokens[table.eot], unk=unk, kept=kept)
