"""The text of each token of a vocabulary, and the tokens that it was merged from."""

from collections.abc import Iterator, Mapping
from typing import Any

from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import is_byte_token, special_ids, token_bytes


def token_texts(tokenizer: Tokenizer) -> list[str | None]:
    """Compute each token's text without its word-boundary marker: the leading space, ``</w>``, ``▁``, ``##``.

    None for special tokens, bytes of a byte fallback and incomplete UTF-8; empty for a token that is only a marker.
    """
    table, tokens = tokenizer.definition, tokenizer.tokens()
    special = special_ids(table)
    bytes_by_id = token_bytes(table, tokens)
    prefix, suffix = _subword_markers(table["model"])
    falls_back = bool(table["model"].get("byte_fallback"))

    def text_of(i: int, token: str) -> str | None:
        if i in special or not token or (falls_back and is_byte_token(token)):
            return None
        if bytes_by_id is None:
            marker = " " if tokenizer.kind == "char" else "▁"
            return token.removeprefix(prefix).removesuffix(suffix).removeprefix(marker)
        try:
            return bytes_by_id[i].decode("utf-8").removeprefix(" ")
        except UnicodeDecodeError:
            return None

    return [text_of(i, token) for i, token in enumerate(tokens)]


def iter_merges(tokenizer: Tokenizer) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the id of each merged token with the ids of its two parts, in the order of the merges."""
    model = tokenizer.definition["model"]
    prefix, _ = _subword_markers(model)
    for first, second in model.get("merges") or ():
        merged = model["vocab"].get(first + second.removeprefix(prefix))
        if merged is not None:
            yield merged, (model["vocab"][first], model["vocab"][second])


def _subword_markers(model: Mapping[str, Any]) -> tuple[str, str]:
    """Get the prefix of a continued word and the suffix of a word's end."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
