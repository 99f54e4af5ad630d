"""Add tokens to a tokenizer at given ids, or above the highest id in use.

The tokenizers library numbers an added token by the count of tokens, which is the id of another one where the
vocabulary has unused ids, and it does so again each time it reads the file. A token whose id it would change is put
into the vocabulary of the model, where it keeps its id.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Inner

from firstlight.errors import TokenizerError
from firstlight.tokenizer.untrusted import check_ids, library_errors

FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")  # of an added token in tokenizer.json


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to add.

    Attributes:
        content: its text.
        id: its id; None: the one above the highest in use.
        special: whether it never matches text.
        single_word, lstrip, rstrip, normalized: how it matches text, as in ``tokenizers.AddedToken``.
    """

    content: str
    id: int | None = None
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    @property
    def flags(self) -> dict[str, Any]:
        """The keyword arguments of ``tokenizers.AddedToken``."""
        return {key: getattr(self, key) for key in FLAGS}


def add_tokens(inner: Inner, tokens: Iterable[NewToken], *, above: int = -1, where: object = None) -> Inner:
    """Return a tokenizer with further added tokens; those that the vocabulary has keep their ids.

    Args:
        inner: not changed.
        tokens: to add. One whose id is that of another token replaces it: published files rename reserved tokens so.
        above: new ids are also above this one.
        where: the file that names the tokens, for error messages.

    Raises:
        TokenizerError: an id that the tokenizer cannot have.
    """
    tokens = list(tokens)
    ids = dict(inner.get_vocab(with_added_tokens=True))
    names = {i: token for token, i in ids.items()}
    renamed: dict[str, str] = {}
    next_id = max(max(ids.values(), default=-1), above, *(t.id for t in tokens if t.id is not None)) + 1
    wanted: dict[str, int] = {}
    for token in tokens:
        if token.content in ids or token.content in wanted:
            continue
        if token.id is not None and token.id in names:
            renamed[names[token.id]] = token.content
        wanted[token.content] = next_id if token.id is None else token.id
        next_id += token.id is None
    if len(set(wanted.values())) < len(wanted):
        listed = sorted(wanted.items(), key=lambda item: item[1])
        one, two = next((a, b) for a, b in pairwise(listed) if a[1] == b[1])
        raise TokenizerError("two tokens of one id", where=where, found=f"{one[0]!r} and {two[0]!r}, id {one[1]}")
    _check_renamed(inner, renamed, where)
    check_ids({**ids, **wanted}, where or "the tokenizer")
    with library_errors("cannot add these tokens", where):
        changed = _append(inner, tokens) if not renamed else inner
        if renamed or any(changed.token_to_id(token) != i for token, i in wanted.items()):
            changed = _insert(inner, tokens, wanted, renamed)
    bad = next((token for token, i in wanted.items() if changed.token_to_id(token) != i), None)
    if bad is not None:
        raise TokenizerError(
            "an added token cannot have this id",
            where=where,
            found=f"{bad!r}, id {wanted[bad]}",
            expected="an id in use",
        )
    return changed


def _check_renamed(inner: Inner, renamed: dict[str, str], where: object) -> None:
    """Refuse an added token with the id of a token that texts consist of, which would be lost."""
    if not renamed:
        return
    model = json.loads(inner.to_str())["model"]
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or []]
    parts = {part for pair in pairs for part in (*pair, "".join(pair))}
    lost = next((old for old in renamed if old in parts or len(old) == 1), None)
    if lost is not None:
        raise TokenizerError(
            "an added token has the id of a token of texts",
            where=where,
            found=f"{renamed[lost]!r}, of {lost!r}",
            expected="the id of a reserved token, or one of its own",
        )


def _append(inner: Inner, tokens: Iterable[NewToken]) -> Inner:
    changed = Inner.from_str(inner.to_str())
    for token in sorted(tokens, key=lambda t: (t.id is None, t.id or 0)):
        added = AddedToken(token.content, **token.flags)
        changed.add_special_tokens([added]) if token.special else changed.add_tokens([added])
    return Inner.from_str(changed.to_str())  # which numbers them again


def _insert(inner: Inner, tokens: list[NewToken], wanted: dict[str, int], renamed: dict[str, str]) -> Inner:
    """Put the tokens into the vocabulary of the model, under their ids."""
    table, ids = json.loads(inner.to_str()), inner.get_vocab(with_added_tokens=True)
    vocab = table["model"]["vocab"]
    if isinstance(vocab, dict):
        for old in renamed:
            vocab.pop(old, None)
        vocab |= {t["content"]: t["id"] for t in table["added_tokens"] if t["content"] not in renamed} | wanted
    else:  # Unigram's list, in the order of ids, where only names can change
        for old, new in renamed.items():
            vocab[ids[old]][0] = new
    flags = {t["content"]: t for t in table["added_tokens"] if t["content"] not in renamed}
    flags |= {t.content: {"content": t.content, **t.flags} for t in tokens}
    known = {**ids, **wanted}
    table["added_tokens"] = sorted(({**t, "id": known[name]} for name, t in flags.items()), key=lambda t: t["id"])
    return Inner.from_str(json.dumps(table))
