"""The merges of byte-level BPE: what a tokenizer.json has of them, and those that ranks alone imply."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer_json import added_text, is_byte_level, members


def last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """Merge a token's bytes by rank as an encoder would, until two parts are left.

    Returns:
        The two parts; None for a byte, and for a token that merging never makes.
    """
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        # Everywhere at once, as one merge of training does: a token of 50,000 like bytes is done in 16 rounds.
        best = min({a + b for a, b in pairwise(parts)}, key=lambda joined: ranks.get(joined, rank))
        if ranks.get(best, rank) >= rank:
            return None
        merged, held = [], parts[0]
        for part in parts[1:]:
            if held and held + part == best:
                merged.append(best)
                held = b""
            else:
                if held:
                    merged.append(held)
                held = part
        parts = [*merged, held] if held else merged
    return (parts[0], parts[1]) if len(parts) == 2 else None


@dataclass(frozen=True, slots=True)
class BpeFacts:
    """What byte-level BPE is made of, for formats that keep the parts apart.

    Attributes:
        merges: by rank.
        patterns: that cut a text into words, one after the other; none for bytes.
        special: ids of tokens that no text can contain.
        added: ids of tokens that are found in a text before it is cut.
        whole_words: a word that is a token is that token, whatever its merges.
    """

    merges: list[tuple[str, str]]
    patterns: list[str]
    special: frozenset[int]
    added: frozenset[int]
    whole_words: bool


def bpe_facts(table: dict[str, Any]) -> BpeFacts | None:
    """Return the parts of byte-level BPE; None where it is another kind, or does more to a text than cutting it."""
    if not is_byte_level(table) or table["model"]["type"] != "BPE" or table.get("normalizer") is not None:
        return None
    patterns = []
    for part in members(table.get("pre_tokenizer"), "pretokenizers"):
        kind = part["type"]
        if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"] and "Regex" in part["pattern"]:
            patterns.append(part["pattern"]["Regex"])
        elif kind == "Digits" and part["individual_digits"]:
            patterns.append(r"\p{N}")
        elif kind == "ByteLevel" and not part["add_prefix_space"]:
            patterns += [PATTERNS["gpt2"]] if part["use_regex"] else []
        else:
            return None
    model = table["model"]
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [(str(a), str(b)) for a, b in pairs]
    special = frozenset(int(t["id"]) for t in table["added_tokens"] if t["special"])
    added = frozenset(int(t["id"]) for t in added_text(table))
    return BpeFacts(merges, patterns, special, added, bool(model.get("ignore_merges")))
