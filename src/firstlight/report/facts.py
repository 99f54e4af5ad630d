"""Tables of a report: data, tokenizer, model, training, environment, compatibility hashes, missing files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.files.run_names import short_name
from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, to_text
from firstlight.report.units import format_bytes, format_count, format_percent, to_float
from firstlight.runs import RunDirectory, outside_inputs

_MAX_ROWS = 50
_MAX_NAMED = 3
_SPLITS = ("train", "valid")

# Keys of config.json in the transformers classes of the families; the first one present is used.
_MODEL_KEYS = (
    ("layers", ("num_hidden_layers", "n_layer", "num_layers")),
    ("hidden size", ("hidden_size", "n_embd")),
    ("attention heads", ("num_attention_heads", "n_head", "num_heads")),
    ("key/value heads", ("num_key_value_heads", "n_kv_head")),
    ("head size", ("head_dim", "d_head")),
    ("MLP hidden size", ("intermediate_size", "n_inner", "d_ff")),
    ("vocabulary size", ("vocab_size",)),
    ("context length", ("max_position_embeddings", "n_positions", "block_size")),
    ("tied embeddings", ("tie_word_embeddings", "tie_embeddings")),
)
_TRAINING_KEYS = (
    ("optimizer", "optim", "name"),
    ("learning rate", "optim", "lr"),
    ("schedule", "optim", "schedule", "name"),
    ("weight decay", "optim", "weight_decay"),
    ("batch size (tokens)", "train", "batch_tokens"),
    ("steps", "train", "steps"),
    ("precision", "hardware", "precision"),
    ("seed", "run", "seed"),
)
_HASHES = {
    "tokenizer": "the tokenizer",
    "store": "the token store: corpus, tokenizer, splits",
    "embeddings": "the word vectors that the embeddings were initialised from",
    "settings": "the settings that cannot change on resume",
    "code": "the source files that affect training",
}


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
    tokens, n_bytes = to_float(find(files.manifest, "train_tokens")), to_float(find(files.manifest, "train_bytes"))
    if tokens and n_bytes:
        facts.append(Fact("bytes per token", f"{n_bytes / tokens:.2f}", "in the training split"))
    facts += _unknown_tokens(files)
    facts += [*_skipped_files(files), *_dropped_documents(files), *_decoding(files)]
    ratio = to_float(find(files.manifest, "valid_ratio"))
    valid = summary.sources(files, "valid_sources")
    if valid:
        facts.append(Fact("validation split", ", ".join(valid[:_MAX_NAMED]), "as requested (corpus.valid)"))
    elif ratio is not None:
        facts.append(Fact("validation split", format_percent(ratio), "as requested (data.valid_ratio)"))
    return facts


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
    return [Fact("dropped documents", value, "; ".join(to_text(problem, 300) for problem in bad[:_MAX_NAMED]))]


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
        facts.append(Fact("bad bytes", f"{n_bad:,.0f}", f"replaced or skipped, as corpus.on_bad_bytes says: {shown}"))
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


def model_facts(files: RunFiles) -> list[Fact]:
    """Return the architecture, from config.json or else from the settings."""
    table = files.config or find(files.settings, "model") or {}
    facts = []
    family = summary.FAMILIES.get(str(find(table, "model_type"))) or find(table, "family")
    architecture = find(table, "architectures")
    if isinstance(family, str):
        note = f"transformers class: {to_text(architecture, 100)}" if isinstance(architecture, list) else ""
        facts.append(Fact("family", to_text(family, 40), note))
    if (n := summary.parameters(files)) is not None:
        facts.append(Fact("parameters", f"{n:,.0f}"))
    for name, keys in _MODEL_KEYS:
        value = next((find(table, key) for key in keys if find(table, key) is not None), None)
        if value is not None:
            number = to_float(value)
            facts.append(Fact(name, to_text(value, 80) if number is None else f"{number:,.10g}"))
    return facts + _coverage(files)


def _coverage(files: RunFiles) -> list[Fact]:
    """Return the coverage of word vectors that the embeddings were initialised from."""
    if not files.coverage:
        return []
    facts = [Fact("embeddings initialised from", to_text(find(files.coverage, "source"), 300))]
    for name, key in (("vocabulary covered", "types"), ("training tokens covered", "tokens")):
        table = find(files.coverage, key)
        counts = {k: to_float(v) or 0.0 for k, v in table.items()} if isinstance(table, Mapping) else {}
        total = sum(counts.values())
        if total:
            matches = ", ".join(f"{to_text(kind, 20)} {format_percent(n / total)}" for kind, n in counts.items())
            facts.append(Fact(name, format_percent(1 - counts.get("none", 0.0) / total), matches))
    missing = find(files.coverage, "missing")
    rows = missing[:20] if isinstance(missing, list) else []
    named = [to_text(row[0], 40) for row in rows if isinstance(row, list) and row]
    return [*facts, Fact("tokens without a vector", ", ".join(named), "most frequent first")] if named else facts


def training_facts(files: RunFiles) -> list[Fact]:
    """Return the main training settings."""
    facts = []
    for name, *path in _TRAINING_KEYS:
        value = find(files.settings, *path)
        if value is not None:
            number = to_float(value) if name != "seed" else None
            facts.append(Fact(name, to_text(value, 100) if number is None else f"{number:,.10g}"))
    return facts


def outside_facts(files: RunFiles) -> list[Fact]:
    """Return what the run leans on: what it needs that is not in its directory."""
    return [
        Fact("leans on", to_text(found.path, 300), f"{found.what}; {to_text(found.hash, 12) or 'without a hash'}")
        for found in outside_inputs(RunDirectory(files.run))
    ]


def environment_facts(files: RunFiles) -> list[Fact]:
    """Return environment.json, with the reason for each automatic choice as its note."""
    reasons = find(files.environment, "reasons")
    facts = []
    for key, value in list(files.environment.items())[:_MAX_ROWS]:
        if key == "reasons" and isinstance(reasons, Mapping):
            continue
        reason = find(reasons, key)
        note = "" if reason is None else to_text(reason, 300)
        facts.append(Fact(to_text(key, 80).replace("_", " "), _nested(value), note))
    return facts


def _nested(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{to_text(k, 80).replace('_', ' ')} {to_text(v, 200)}" for k, v in list(value.items())[:20])
    return to_text(value, 400)


@dataclass(frozen=True, slots=True)
class Hash:
    """One hash of contract.json; ``agrees`` is None if there is nothing to compare it with."""

    name: str
    digest: str
    meaning: str
    agrees: bool | None


def compatibility(files: RunFiles) -> list[Hash]:
    """Return the hashes of contract.json, compared with the token store's manifest."""
    recorded: dict[str, Any] = {
        "tokenizer": find(files.manifest, "tokenizer"),
        "store": find(files.manifest, "fingerprint"),
    }
    return [
        Hash(
            to_text(name, 80),
            to_text(digest, 200),
            _HASHES.get(name, ""),
            None if recorded.get(name) is None or not isinstance(digest, str) else recorded[name] == digest,
        )
        for name, digest in list(files.contract.items())[:_MAX_ROWS]
        if not isinstance(digest, Mapping | list)  # settings
    ]


def missing(files: RunFiles) -> list[Fact]:
    """Return the files that do not exist, and what the page lacks without them."""
    expected = {
        "run.toml": "settings",
        "metrics.jsonl": "curves",
        "samples.jsonl": "samples",
        "evaluation.json": "final evaluation and baselines",
        files.manifest_name: "data",
        "tokenizer/tokenizer.json": "kind of tokenizer",
        "environment.json": "environment",
        "contract.json": "compatibility hashes",
        "state.json": "final state",
    }
    if files.tasks:  # labelled tasks have no token store and no samples
        del expected["samples.jsonl"], expected[files.manifest_name]
    if files.codec:  # ids that are not text have no tokenizer
        del expected["tokenizer/tokenizer.json"]
    found = [Fact(to_text(name, 300), what) for name, what in expected.items() if name not in files.present]
    if files.checkpoint is None:
        found.append(Fact("checkpoints", "the model"))
    return found
