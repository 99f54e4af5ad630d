"""What a report says about the data of a run: sources, tokenizer, what was lost, and the most frequent tokens."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.files.run_names import short_name
from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, to_text
from firstlight.report.units import format_bytes, format_count, format_number, format_percent, to_float

_MAX_ROWS = 50
_MAX_NAMED = 3
_SPLITS = ("train", "valid")


@dataclass(frozen=True, slots=True)
class Row:
    """One source of a corpus: documents, tokens and bytes of each split."""

    name: str
    cells: tuple[str, ...]


def data_rows(files: RunFiles) -> list[Row]:
    """Return a row per source, and a total if there are several."""
    tables = _source_tables(files)
    rows = [
        Row(
            short_name(to_text(find(t, "name"), 300)),
            tuple(_cell(find(t, s, what), what) for s in _SPLITS for what in _COUNTS),
        )
        for t in tables[:_MAX_ROWS]
    ]
    if len(tables) > _MAX_ROWS:
        rows.append(Row(f"and {len(tables) - _MAX_ROWS:,} more", ("",) * (len(_SPLITS) * len(_COUNTS))))
    if len(rows) != 1 and files.manifest:
        cells = tuple(_cell(find(files.manifest, f"{s}_{what}"), what) for s in _SPLITS for what in _COUNTS)
        rows.append(Row("total" if rows else "all sources", cells))
    return rows


def _source_tables(files: RunFiles) -> list[Mapping[str, object]]:
    """Return the manifest's entries of all sources: of the corpus, and of a validation text of its own."""
    found = [find(files.manifest, key) for key in ("sources", "valid_sources")]
    return [t for tables in found if isinstance(tables, list) for t in tables if isinstance(t, Mapping)]


_COUNTS = ("documents", "tokens", "bytes")


def _cell(value: object, what: str) -> str:
    found = to_float(value)
    if found is None or (what == "bytes" and not found):
        return "–"
    return format_bytes(found) if what == "bytes" else format_count(found)


def data_facts(files: RunFiles) -> list[Fact]:
    """Return further facts about data and tokenizer."""
    facts = [Fact("tokenizer", tokenizer_kind(files))] if files.tokenizer else non_text.facts(files)
    vocab_size = to_float(find(files.manifest, "vocab_size"))
    if vocab_size is not None:
        facts.append(Fact("vocabulary size", f"{vocab_size:,.0f}"))
    facts += [*_tokens_per(files), *_passes(files)]
    ratio = to_float(find(files.manifest, "valid_ratio"))
    valid = summary.sources(files, "valid_sources")
    if valid:
        facts.append(Fact("validation split", ", ".join(valid[:_MAX_NAMED]), "as requested (corpus.valid)"))
    elif ratio is not None:
        facts.append(Fact("validation split", format_percent(ratio), "as requested (data.valid_ratio)"))
    return facts


def _tokens_per(files: RunFiles) -> list[Fact]:
    """Return the tokens per character and per byte of the training split, and the ids that occur in it."""
    tokens, n_bytes = to_float(find(files.manifest, "train_tokens")), to_float(find(files.manifest, "train_bytes"))
    text = find(files.evaluation, "training_text")
    characters, used = to_float(find(text, "characters")), to_float(find(text, "ids_used"))
    facts = []
    if tokens and characters:
        note = f"{format_number(characters / tokens, 2)} characters per token, in the training split"
        facts.append(Fact("tokens per character", format_number(tokens / characters, 3), note))
    if tokens and n_bytes:
        note = f"{format_number(n_bytes / tokens, 2)} bytes per token, in the training split"
        facts.append(Fact("tokens per byte", format_number(tokens / n_bytes, 3), note))
    vocab_size = to_float(find(files.manifest, "vocab_size"))
    if used is not None and vocab_size:
        facts.append(
            Fact("tokens that occur", f"{used:,.0f}", f"{format_percent(used / vocab_size)} of the vocabulary")
        )
    return facts


def _passes(files: RunFiles) -> list[Fact]:
    """Return how often the training text was passed over, in epochs."""
    n, text = summary.training_tokens(files), to_float(find(files.manifest, "train_tokens"))
    if n is None or not text:
        return []
    note = f"epochs: {format_count(n)} tokens trained on, {format_count(text)} in the training split"
    return [Fact("passes over the text", format_number(n / text, 2), note)]


def losses(files: RunFiles) -> list[Fact] | None:
    """Return what of the corpus is not in the training text as it was; None if the token store does not say."""
    if not _source_tables(files):
        return None
    found = [*_skipped_files(files), *_dropped_documents(files), *_copies(files)]
    return [*found, *_decoding(files), *_unknown_tokens(files)]


@dataclass(frozen=True, slots=True)
class Token:
    """One of the most frequent tokens: how it is shown, its id, its count and its fraction of all tokens."""

    text: str
    id: str
    count: str
    fraction: str
    bar: float


def frequent_tokens(files: RunFiles) -> list[Token]:
    """Return the most frequent tokens of the training split, if the run counted them."""
    table = find(files.evaluation, "training_text")
    total, found = to_float(find(table, "tokens")), find(table, "most_frequent")
    rows = list(_counts(found)) if isinstance(found, list) and total else []
    highest = max((n for _, _, n in rows), default=0.0)
    return [
        Token(visible(text), token_id, f"{n:,.0f}", format_percent(n / (total or 1)), round(100 * n / highest, 1))
        for token_id, text, n in rows
    ]


def _counts(rows: list[Any]) -> Iterator[tuple[str, str, float]]:
    for row in rows[:_MAX_ROWS]:
        n, token_id = to_float(find(row, "count")), to_float(find(row, "id"))
        if n and n > 0 and token_id is not None:
            text = find(row, "text")
            yield f"{token_id:.0f}", text if isinstance(text, str) else "", n


def visible(token: str) -> str:
    """Return a token with its white space shown as symbols."""
    return "".join(_SYMBOLS.get(c, c) for c in token[:80])


_SYMBOLS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u3000": "□"}


def _unknown_tokens(files: RunFiles) -> list[Fact]:
    """Return the unknown tokens of each split, and characters without a token, where there are any."""
    facts = []
    for side, name in zip(_SPLITS, ("training", "validation"), strict=True):
        keys = ("unk_tokens", "dropped_characters", "unk_fraction")
        tokens, dropped, fraction = (to_float(find(files.manifest, f"{side}_{key}")) or 0 for key in keys)
        if tokens or dropped:
            counts = f"{tokens + dropped:,.0f} ({format_percent(fraction)})"
            note = "text that the tokenizer has no tokens for; in bits per byte it costs 8 bits for each byte as well"
            if find(files.manifest, f"{side}_unk_bytes") is None:
                note = "the token store does not say how many bytes they stand for, so bits per byte are not computed"
            facts.append(Fact(f"unknown tokens, {name}", counts, note))
    return facts


def _skipped_files(files: RunFiles) -> list[Fact]:
    """Return the number of files in the folders of the corpus that were skipped, and why."""
    counts: Counter[str] = Counter()
    for table in _source_tables(files):
        skipped = find(table, "skipped")
        for reason, n in skipped.items() if isinstance(skipped, Mapping) else ():
            counts[to_text(reason, 80)] += n if isinstance(n, int) else 0
    if not counts:
        return []
    value = ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common(_MAX_ROWS))
    return [Fact("skipped files", value, "inside the folders of the corpus; corpus.skip=false reads them")]


def _dropped_documents(files: RunFiles) -> list[Fact]:
    """Return the number of documents that were dropped, why, and the first that could not be read."""
    counts: Counter[str] = Counter()
    bad: list[object] = []
    for table in _source_tables(files):
        dropped, named = find(table, "dropped"), find(table, "bad_documents")
        for reason, n in dropped.items() if isinstance(dropped, Mapping) else ():
            counts[to_text(reason, 80)] += n if isinstance(n, int) else 0
        bad += named if isinstance(named, list) else []
    if not counts:
        return []
    value = ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common(_MAX_ROWS))
    kept = sum(to_float(find(files.manifest, f"{side}_documents")) or 0 for side in _SPLITS)
    value += f" ({format_percent(counts.total() / (counts.total() + kept))} of all)"
    return [Fact("dropped documents", value, "; ".join(to_text(problem, 300) for problem in bad[:_MAX_NAMED]))]


def _copies(files: RunFiles) -> list[Fact]:
    """Return the documents of the validation split that are copies of documents in the training split."""
    tables = [find(table, "copies") for table in _source_tables(files)]
    pairs = [pair for pairs in tables if isinstance(pairs, list) for pair in pairs if isinstance(pair, list)]
    if not pairs:
        return []
    named = "; ".join(" is ".join(to_text(name, 80) for name in pair[:2]) for pair in pairs[:_MAX_NAMED])
    note = "the validation loss is of text that was trained on; corpus.dedup=exact drops copies"
    return [Fact("validation documents that are also in training", f"{len(pairs):,}: {named}", note)]


def _decoding(files: RunFiles) -> list[Fact]:
    """Return the number of bytes that were not text, and files that were read in another way than the settings say."""
    n_bad, places, facts = 0.0, [], []
    for table in _source_tables(files):
        n_bad += to_float(find(table, "n_bad")) or 0
        named, notes = find(table, "bad_bytes"), find(table, "notes")
        places += named if isinstance(named, list) else []
        for what, names in notes.items() if isinstance(notes, Mapping) else ():
            shown = ", ".join(to_text(name, 80) for name in names[:_MAX_NAMED]) if isinstance(names, list) else ""
            facts.append(Fact(to_text(what, 120), shown, "another way of reading than the settings say"))
    if n_bad:
        shown = ", ".join(to_text(place, 80) for place in places[:_MAX_NAMED])
        total = sum(to_float(find(files.manifest, f"{side}_bytes")) or 0 for side in _SPLITS)
        value = f"{n_bad:,.0f}" + (f" ({format_percent(n_bad / total)} of the text)" if total else "")
        facts.append(Fact("bad bytes", value, f"replaced or skipped, as corpus.on_bad_bytes says: {shown}"))
    return facts


def tokenizer_kind(files: RunFiles) -> str:
    """Return the kind of tokenizer in tokenizer.json."""
    model = find(files.tokenizer, "model")
    kind, vocab = find(model, "type"), find(model, "vocab")
    byte_level = "ByteLevel" in to_text(find(files.tokenizer, "pre_tokenizer"))
    if kind == "BPE" and find(model, "byte_fallback") and not find(model, "merges") and isinstance(vocab, Mapping):
        return "characters, others as bytes"
    if kind == "BPE" and byte_level:
        return "byte-level BPE" if find(model, "merges") else "bytes"
    if kind == "WordLevel" and isinstance(vocab, Mapping):
        added = find(files.tokenizer, "added_tokens")
        special = {find(token, "content") for token in added} if isinstance(added, list) else set()
        return "characters" if all(len(token) == 1 for token in vocab if token not in special) else "words"
    return to_text(kind, 40) if isinstance(kind, str) else "unknown"
