"""What a tokenizer.json says of itself: its kind, whether it keeps every text, the bytes behind its tokens."""

import re
from functools import cache
from typing import Any, Literal

Kind = Literal["bpe", "word", "char", "byte", "other"]

# The pre-tokenizer of kind "char": every character is a word.
CHARACTERS = r"[\s\S]"

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@cache
def byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def kind_of(table: dict[str, Any]) -> Kind:
    """Return the kind of a tokenizer.json; "byte" and "char" only where their short ways give the same ids."""
    model = table["model"]
    if model["type"] == "BPE" and is_byte_level(table):
        single = is_lossless(table) and not model["merges"] and not model.get("ignore_merges")
        return "byte" if single and not added_text(table) else "bpe"
    if model["type"] == "WordLevel":
        return "char" if _is_characters(table) else "word"
    return "other"


def is_lossless(table: dict[str, Any]) -> bool:
    """Tell whether decoding gives back every text exactly."""
    if not is_byte_level(table) or table.get("normalizer") is not None:
        return False
    if any(t["lstrip"] or t["rstrip"] for t in added_text(table)):
        return False
    keeps = all(
        (part["type"] == "ByteLevel" and not part["add_prefix_space"])
        or (part["type"] in ("Split", "Punctuation") and part["behavior"] != "Removed")
        or part["type"] == "Digits"
        for part in members(table.get("pre_tokenizer"), "pretokenizers")
    )
    return keeps and all(c in table["model"]["vocab"] for c in byte_characters().values())


def added_text(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens that stand for text: they are found in a text before it is cut into words."""
    return [t for t in table["added_tokens"] if not t["special"]]


def token_bytes(table: dict[str, Any], tokens: list[str]) -> list[bytes] | None:
    """Return the bytes that each id stands for, none for special tokens; None where tokens are not simply joined."""
    kind = kind_of(table)
    special = {int(t["id"]) for t in table["added_tokens"] if t["special"]}
    added = {int(t["id"]) for t in added_text(table)}
    if kind == "char":
        return [b"" if i in special else token.encode("utf-8") for i, token in enumerate(tokens)]
    if kind not in ("bpe", "byte"):
        return None
    back = {c: b for b, c in byte_characters().items()}

    def of(i: int, token: str) -> bytes:
        if i in special:
            return b""
        plain = i in added or any(c not in back for c in token)
        return token.encode("utf-8") if plain else bytes(back[c] for c in token)

    return [of(i, token) for i, token in enumerate(tokens)]


def text_lengths(table: dict[str, Any], tokens: list[str]) -> list[int]:
    """Return about how many UTF-8 bytes of text each token stands for, where tokens carry marks of their own.

    A mark of a word's edge counts as the one space that it stands for; white space that no token keeps counts
    for nothing, so bits per byte come out too high rather than too low.
    """
    special = {int(t["id"]) for t in table["added_tokens"] if t["special"]}
    model = table["model"]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    sentence_piece = "▁" in "".join(str(p) for p in (table.get("decoder"), table.get("pre_tokenizer")))

    def length(i: int, token: str) -> int:
        if i in special:
            return 0
        if model.get("byte_fallback") and is_byte_token(token):
            return 1
        text = token.removeprefix(prefix)
        text = text.removesuffix(suffix) + " " if suffix and text.endswith(suffix) else text
        return len((text.replace("▁", " ") if sentence_piece else text).encode("utf-8"))

    return [length(i, token) for i, token in enumerate(tokens)]


def is_byte_token(token: str) -> bool:
    """Tell whether a token is one byte, as SentencePiece writes it."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def begin_of(processor: dict[str, Any] | None) -> str | None:
    """Return the token that a post-processor puts before a text, where it puts nothing else around it."""
    for part in members(processor, "processors"):
        if part["type"] == "TemplateProcessing":
            kinds = [next(iter(step)) for step in part["single"]]
            return str(part["single"][0]["SpecialToken"]["id"]) if kinds == ["SpecialToken", "Sequence"] else None
    return None


def without_defaults(value: Any) -> Any:
    """Leave out what is null, false or empty, so that a new field of the library does not change a hash."""
    if isinstance(value, dict):
        return {k: without_defaults(v) for k, v in value.items() if v is not None and v is not False and v != ""}
    if isinstance(value, list):
        return [without_defaults(v) if isinstance(v, dict) else v for v in value]
    return value


def is_byte_level(table: dict[str, Any]) -> bool:
    """Tell whether tokens are bytes in printable characters, and nothing else is made of them."""
    model = table["model"]
    marks = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    parts = members(table.get("pre_tokenizer"), "pretokenizers")
    decoder = members(table.get("decoder"), "decoders")
    return (
        any(p["type"] == "ByteLevel" for p in parts)
        and [p["type"] for p in decoder] == ["ByteLevel"]
        and not any(model.get(mark) for mark in marks)
    )


def _is_characters(table: dict[str, Any]) -> bool:
    model, special = table["model"], {t["content"] for t in table["added_tokens"]}
    parts = members(table.get("pre_tokenizer"), "pretokenizers")
    splits = [(p["type"], p.get("pattern"), p.get("behavior")) for p in parts] == [
        ("Split", {"Regex": CHARACTERS}, "Isolated")
    ]
    single = all(len(t) == 1 for t in model["vocab"] if t not in special)
    plain = table.get("normalizer") is None and not added_text(table)
    return splits and single and plain and model.get("unk_token") in model["vocab"]


def members(node: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    """Return the members of a sequence, however deep, or the one part that there is."""
    if node is None:
        return []
    if node["type"] != "Sequence":
        return [node]
    return [part for member in node[inside] for part in members(member, inside)]
