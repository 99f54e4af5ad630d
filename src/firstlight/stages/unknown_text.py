"""What is unknown to the tokenizer in the text of a run: said, and above a fraction training is refused."""

from typing import Any

from firstlight import progress
from firstlight.errors import StoreError
from firstlight.store import Split, TokenStore, unigram_counts
from firstlight.tokenizer import Codec, TextBytes, Tokenizer, describe_unknown, report_unknown, unknown_share
from firstlight.types import UnknownText

_SPLITS = ("training", "validation")
NOT_RECORDED = (
    "the token store does not say how many bytes its unknown tokens stand for, or what the tokenizer left out, so bits "
    "per byte are not computed"
)


def split_unknown(split: Split, vocab: Tokenizer | Codec) -> UnknownText:
    """Return what is unknown in a split; a store of an earlier version does not say, so its ids are counted."""
    if not isinstance(vocab, Tokenizer) or not vocab.has_unknown:
        return UnknownText()
    if split.unknown is not None:
        return split.unknown
    if vocab.unknown_id is None:
        return UnknownText(0, None)  # characters that were left out leave no trace
    n = int(unigram_counts(split)[vocab.unknown_id :][:1].sum())
    return UnknownText(n, None if n else 0)


def split_text_bytes(split: Split, vocab: Tokenizer | Codec) -> TextBytes | None:
    """Return the bytes of text of each id in a split; None where they are not known, or ids do not stand for text."""
    if not isinstance(vocab, Tokenizer):
        return None
    return vocab.text_bytes(split_unknown(split, vocab), split.n_tokens)


def report_store(store: TokenStore, vocab: Tokenizer | Codec) -> None:
    """Say how much of the text of a store is unknown, and where that is not known."""
    for name, split in zip(_SPLITS, (store.train, store.valid), strict=True):
        unknown = split_unknown(split, vocab)
        report_unknown(f"{name} text", unknown, split.n_tokens, split.n_bytes)
        if unknown.n_bytes is None:
            progress.warn(f"{name} text: {NOT_RECORDED}; prepare the store again from its text to have them")


def unknown_counts(store: TokenStore, vocab: Tokenizer | Codec) -> dict[str, Any]:
    """Return the unknown tokens of both splits, by the names that results have."""
    found: dict[str, Any] = {}
    for side, split in (("train", store.train), ("valid", store.valid)):
        unknown = split_unknown(split, vocab)
        found |= {
            f"{side}_unk_tokens": unknown.tokens,
            f"{side}_unk_fraction": unknown.fraction(split.n_tokens),
        }
    return found


def check_unknown(store: TokenStore, vocab: Tokenizer | Codec, limit: float) -> None:
    """Refuse to train on text most of which is unknown.

    Args:
        store: the text.
        vocab: its tokenizer.
        limit: the fraction of its tokens, or of its bytes, that may be unknown.

    Raises:
        StoreError: more is.
    """
    for name, split in zip(_SPLITS, (store.train, store.valid), strict=True):
        unknown = split_unknown(split, vocab)
        share = unknown_share(unknown, split.n_tokens, split.n_bytes)
        if share > limit:
            raise StoreError(
                f"most of the {name} text is unknown to the tokenizer, so a model would learn to predict <unk>"
                if share > 0.5
                else f"too much of the {name} text is unknown to the tokenizer",
                where=store.directory,
                found=describe_unknown(unknown, split.n_tokens, split.n_bytes),
                expected=f"at most {100 * limit:g} % (data.max_unk_fraction)",
                fix="Train a tokenizer on this text (leave out tokenizer.path), or set data.max_unk_fraction=1.",
            )
