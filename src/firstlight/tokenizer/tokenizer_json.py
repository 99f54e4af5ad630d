"""Inspect a parsed tokenizer.json: its kind, whether it is lossless, the bytes of its tokens."""

import copy
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from firstlight.tokenizer.patterns import CHAR_PATTERN

Kind = Literal["bpe", "word", "char", "byte", "other"]

TEXT_BYTES = [b for b in range(256) if b not in (0xC0, 0xC1) and b < 0xF5]  # that occur in UTF-8
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@cache
def bytes_to_unicode() -> dict[int, str]:
    """Build GPT-2's table of the printable character that represents each byte in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def bytes_to_token(data: bytes) -> str:
    """Write bytes as a token of byte-level BPE."""
    return "".join(bytes_to_unicode()[b] for b in data)


def detect_kind(table: dict[str, Any]) -> Kind:
    """Detect the kind of a tokenizer.json; "byte" and "char" only where their fast paths give the same ids."""
    model = table["model"]
    if model["type"] == "BPE" and is_byte_level(table):
        bytes_only = is_lossless(table) and not model["merges"] and not model.get("ignore_merges")
        return "byte" if bytes_only and not non_special_tokens(table) else "bpe"
    if model["type"] == "WordLevel":
        return "char" if _is_char_level(table) else "word"
    return "char" if _is_char_level_with_bytes(table) else "other"


def is_lossless(table: dict[str, Any]) -> bool:
    """Whether decoding restores every text exactly."""
    if _is_char_level_with_bytes(table):
        return True
    if not is_byte_level(table) or table.get("normalizer") is not None:
        return False
    if any(t["lstrip"] or t["rstrip"] for t in non_special_tokens(table)):
        return False
    keeps_text = all(
        (part["type"] == "ByteLevel" and not part["add_prefix_space"])
        or (part["type"] in ("Split", "Punctuation") and part["behavior"] != "Removed")
        or part["type"] == "Digits"
        for part in flatten_sequence(table.get("pre_tokenizer"), "pretokenizers")
    )
    return keeps_text and all(c in table["model"]["vocab"] for c in bytes_to_unicode().values())


def has_every_byte(table: Mapping[str, Any]) -> bool:
    """Whether there are tokens for all bytes of UTF-8, of which any text can be made."""
    model = table["model"]
    vocab = {token for token, _ in model["vocab"]} if model["type"] == "Unigram" else model["vocab"]
    if model.get("byte_fallback"):
        return all(byte_token(b) in vocab for b in TEXT_BYTES)
    return is_byte_level(table) and all(bytes_to_token(bytes([b])) in vocab for b in TEXT_BYTES)


def unknown_id(table: Mapping[str, Any]) -> int | None:
    """Find the id that text outside the vocabulary gets; None where all text has tokens, or such text gets no id."""
    model = table["model"]
    if has_every_byte(table):
        return None
    if model["type"] == "Unigram":
        return None if model.get("unk_id") is None else int(model["unk_id"])
    found = model["vocab"].get(model.get("unk_token"))
    return None if found is None else int(found)


def drops_unknown(table: Mapping[str, Any]) -> bool:
    """Whether text outside the vocabulary gets no id: BPE without an unknown token leaves it out."""
    return table["model"]["type"] == "BPE" and not has_every_byte(table) and unknown_id(table) is None


def special_ids(table: dict[str, Any]) -> frozenset[int]:
    """Collect the ids of special tokens, which never match text."""
    return frozenset(int(t["id"]) for t in table["added_tokens"] if t["special"])


def non_special_tokens(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the added tokens that match text; they are found before the text is pre-tokenized."""
    return [t for t in table["added_tokens"] if not t["special"]]


def token_bytes(table: dict[str, Any], tokens: list[str]) -> list[bytes] | None:
    """Compute the bytes of each id, empty for special tokens; None where decoding is not a plain concatenation."""
    kind = detect_kind(table)
    special = special_ids(table)
    added = {int(t["id"]) for t in non_special_tokens(table)}
    if kind == "char":
        if table["model"].get("byte_fallback"):  # transformers decodes a run of byte tokens as a whole
            return None
        return [b"" if i in special else token.encode("utf-8") for i, token in enumerate(tokens)]
    if kind not in ("bpe", "byte"):
        return None
    unicode_to_byte = {c: b for b, c in bytes_to_unicode().items()}

    def bytes_of(i: int, token: str) -> bytes:
        if i in special:
            return b""
        is_text = i in added or any(c not in unicode_to_byte for c in token)
        return token.encode("utf-8") if is_text else bytes(unicode_to_byte[c] for c in token)

    return [bytes_of(i, token) for i, token in enumerate(tokens)]


def estimate_token_bytes(table: dict[str, Any], tokens: list[str]) -> list[bytes]:
    """Estimate the UTF-8 text of each token, where tokens carry markers of word boundaries; empty for special tokens.

    A marker counts as the one space that it represents; white space that no token keeps is not counted, so bits per
    byte are overestimated rather than underestimated.
    """
    special = special_ids(table)
    model = table["model"]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    sentencepiece = "▁" in "".join(str(p) for p in (table.get("decoder"), table.get("pre_tokenizer")))

    def text_of(i: int, token: str) -> bytes:
        if i in special:
            return b""
        if model.get("byte_fallback") and is_byte_token(token):
            return bytes([int(token[3:5], 16)])
        text = token.removeprefix(prefix)
        text = text.removesuffix(suffix) + " " if suffix and text.endswith(suffix) else text
        return (text.replace("▁", " ") if sentencepiece else text).encode("utf-8")

    return [text_of(i, token) for i, token in enumerate(tokens)]


def count_characters(data: bytes) -> int:
    """Count the characters of UTF-8 that begin in some bytes, which may be a part of one."""
    return len(data.translate(None, _CONTINUATION))


def byte_token(b: int) -> str:
    """Return the token of a single byte in SentencePiece's notation, such as ``<0x0A>``."""
    return f"<0x{b:02X}>"


def is_byte_token(token: str) -> bool:
    """Whether a token is a single byte in SentencePiece's notation, such as ``<0x0A>``."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def prepended_token(processor: dict[str, Any] | None) -> str | None:
    """Find the token that a post-processor prepends to a text, if it adds nothing else."""
    for part in flatten_sequence(processor, "processors"):
        if part["type"] == "TemplateProcessing":
            kinds = [next(iter(step)) for step in part["single"]]
            return str(part["single"][0]["SpecialToken"]["id"]) if kinds == ["SpecialToken", "Sequence"] else None
    return None


def template_start(processor: dict[str, Any] | None) -> str | None:
    """Find the token that a post-processor puts before a text, whatever it puts after it."""
    for part in flatten_sequence(processor, "processors"):
        if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
            return str(part["single"][0]["SpecialToken"]["id"])
    return None


def drop_defaults(value: Any) -> Any:
    """Drop null, false and empty values, so that a new field of the tokenizers library does not change a hash."""
    if isinstance(value, dict):
        return {k: drop_defaults(v) for k, v in value.items() if v is not None and v is not False and v != ""}
    if isinstance(value, list):
        return [drop_defaults(v) if isinstance(v, dict) else v for v in value]
    return value


def is_byte_level(table: Mapping[str, Any]) -> bool:
    """Whether tokens are bytes in GPT-2's printable characters, without further markers."""
    model = table["model"]
    markers = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    pre_tokenizers = flatten_sequence(table.get("pre_tokenizer"), "pretokenizers")
    decoders = flatten_sequence(table.get("decoder"), "decoders")
    return (
        any(p["type"] == "ByteLevel" for p in pre_tokenizers)
        and [p["type"] for p in decoders] == ["ByteLevel"]
        and not any(model.get(marker) for marker in markers)
    )


def _is_char_level(table: dict[str, Any]) -> bool:
    model, special = table["model"], {t["content"] for t in table["added_tokens"]}
    pre_tokenizers = flatten_sequence(table.get("pre_tokenizer"), "pretokenizers")
    splits = [(p["type"], p.get("pattern"), p.get("behavior")) for p in pre_tokenizers] == [
        ("Split", {"Regex": CHAR_PATTERN}, "Isolated")
    ]
    single = all(len(t) == 1 for t in model["vocab"] if t not in special)
    plain = table.get("normalizer") is None and not non_special_tokens(table)
    return splits and single and plain and model.get("unk_token") in model["vocab"]


def _is_char_level_with_bytes(table: Mapping[str, Any]) -> bool:
    """Whether a token is a character, and other characters are spelled in byte tokens, as ``build_char_level`` does."""
    model, special = table["model"], {t["content"] for t in table["added_tokens"]}
    if model["type"] != "BPE" or not model.get("byte_fallback") or model["merges"] or model.get("ignore_merges"):
        return False
    has_parts = table.get("normalizer") is not None or table.get("pre_tokenizer") is not None
    decoders = [part["type"] for part in flatten_sequence(table.get("decoder"), "decoders")]
    if has_parts or decoders != ["ByteFallback", "Fuse"] or non_special_tokens(table):
        return False
    if any(model.get(marker) for marker in ("continuing_subword_prefix", "end_of_word_suffix")):
        return False
    characters = [t for t in model["vocab"] if t not in special and not is_byte_token(t)]
    return all(len(t) == 1 for t in characters) and all(byte_token(b) in model["vocab"] for b in range(256))


def flatten_sequence(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """List the members of a (nested) Sequence component, or the component itself if it is not a Sequence."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [part for member in component[key] for part in flatten_sequence(member, key)]


def without_first_space(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the definition with which no text gets a space at its start; None where all do, or none does.

    SentencePiece models in the newer form (``prepend_scheme`` first) put a space before the first word of all text, but
    not of a segment after a special token.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(table))
    pre_tokenizer = changed.get("pre_tokenizer") or {}
    parts = [pre_tokenizer, *(pre_tokenizer.get("pretokenizers") or [])]
    first = [part for part in parts if part.get("prepend_scheme") == "first"]
    for part in first:
        part["prepend_scheme"] = "never"
    return changed if first else None
