"""The text that each token of a vocabulary stands for, and what it was merged from."""

from collections.abc import Iterator, Mapping
from typing import Any

from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import token_bytes


def surfaces(tokenizer: Tokenizer) -> list[str | None]:
    """Return each token's text without the mark of a word's edge: the space before it, ``</w>``, ``▁``, ``##``.

    None for special tokens and for bytes that are no whole characters; empty for a mark alone.
    """
    table, tokens = tokenizer.definition, tokenizer.tokens()
    special = {int(t["id"]) for t in table["added_tokens"] if t["special"]}
    joined, model = token_bytes(table, tokens), table["model"]
    prefix, suffix = _marks(model)

    def of(i: int, token: str) -> str | None:
        if i in special or not token:
            return None
        if joined is None:
            return token.removeprefix(prefix).removesuffix(suffix).removeprefix("▁")
        try:
            return joined[i].decode("utf-8").removeprefix(" ")
        except UnicodeDecodeError:
            return None

    return [of(i, token) for i, token in enumerate(tokens)]


def merged(tokenizer: Tokenizer) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the ids of tokens that merging makes, and of the two that each is made of, parts before wholes."""
    model = tokenizer.definition["model"]
    prefix, _ = _marks(model)
    for first, second in model.get("merges") or ():
        whole = model["vocab"].get(first + second.removeprefix(prefix))
        if whole is not None:
            yield whole, (model["vocab"][first], model["vocab"][second])


def _marks(model: Mapping[str, Any]) -> tuple[str, str]:
    """Return what continues a word, before it, and what ends one, behind it."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
