"""The merges of byte-level BPE: extracted from a tokenizer.json, or recovered from token ranks."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer_json import flatten_sequence, is_byte_level, non_special_tokens, special_ids


def recover_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """Recover the merge that makes a token, by merging its bytes in rank order until two parts are left.

    Returns:
        The two parts; None for a single byte, and for a token that merging never makes.
    """
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        # Merges all occurrences at once, as BPE training does: a token of 50,000 equal bytes takes 16 rounds.
        best = min({a + b for a, b in pairwise(parts)}, key=lambda joined: ranks.get(joined, rank))
        if ranks.get(best, rank) >= rank:
            return None
        merged, pending = [], parts[0]
        for part in parts[1:]:
            if pending and pending + part == best:
                merged.append(best)
                pending = b""
            else:
                if pending:
                    merged.append(pending)
                pending = part
        parts = [*merged, pending] if pending else merged
    return (parts[0], parts[1]) if len(parts) == 2 else None


@dataclass(frozen=True, slots=True)
class BpeComponents:
    """The components of a byte-level BPE tokenizer, for formats that store them separately.

    Attributes:
        merges: by rank.
        patterns: regular expressions that split a text into words, applied in order; empty for kind byte.
        special_ids: tokens that never match text.
        added_ids: tokens that are matched before pre-tokenization.
        ignore_merges: a word that is a token becomes that token whatever its merges, as in ``tokenizers``.
    """

    merges: list[tuple[str, str]]
    patterns: list[str]
    special_ids: frozenset[int]
    added_ids: frozenset[int]
    ignore_merges: bool


def bpe_components(table: dict[str, Any]) -> BpeComponents | None:
    """Extract the components of byte-level BPE from a tokenizer.json.

    Returns:
        None for other kinds, and where pre-tokenization does more than split a text.
    """
    if not is_byte_level(table) or table["model"]["type"] != "BPE" or table.get("normalizer") is not None:
        return None
    patterns = []
    for part in flatten_sequence(table.get("pre_tokenizer"), "pretokenizers"):
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
    added_ids = frozenset(int(t["id"]) for t in non_special_tokens(table))
    return BpeComponents(merges, patterns, special_ids(table), added_ids, bool(model.get("ignore_merges")))
