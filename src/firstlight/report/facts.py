"""Tables of a report: data, tokenizer, model, training, environment, contract; and what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, words
from firstlight.report.units import count, number, percent, size

_MOST_ROWS = 50
_SPLITS = ("train", "valid")

# What each name means in the config.json of the families' transformers classes, first found wins.
_MODEL_KEYS = (
    ("layers", ("num_hidden_layers", "n_layer", "num_layers")),
    ("width", ("hidden_size", "n_embd")),
    ("heads", ("num_attention_heads", "n_head", "num_heads")),
    ("key and value heads", ("num_key_value_heads", "n_kv_head")),
    ("width of a head", ("head_dim", "d_head")),
    ("inner width of the MLP", ("intermediate_size", "n_inner", "d_ff")),
    ("vocabulary", ("vocab_size",)),
    ("positions", ("max_position_embeddings", "n_positions", "block_size")),
    ("head tied to embeddings", ("tie_word_embeddings", "tie_embeddings")),
)
_TRAINING_KEYS = (
    ("optimiser", "optim", "name"),
    ("learning rate", "optim", "lr"),
    ("schedule", "optim", "schedule", "name"),
    ("weight decay", "optim", "weight_decay"),
    ("tokens an update", "train", "batch_tokens"),
    ("steps", "train", "steps"),
    ("precision", "hardware", "precision"),
    ("seed", "run", "seed"),
)
_HASHES = {
    "tokenizer": "what turns text into ids",
    "store": "the token store: corpus, tokenizer, split",
    "embeddings": "the word vectors that the embeddings began as",
    "settings": "the settings that a resumed run may not change",
    "code": "the source files that decide what a run computes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One source of a corpus: a cell for documents, tokens and bytes of each split."""

    name: str
    cells: tuple[str, ...]


def data_rows(files: RunFiles) -> list[Row]:
    """Return a row for each source, and one for all where there are several."""
    made = find(files.manifest, "sources")
    tables = [t for t in made if isinstance(t, Mapping)] if isinstance(made, list) else []
    rows = [
        Row(words(find(t, "name"), 300), tuple(_cell(find(t, s, what), what) for s in _SPLITS for what in _KINDS))
        for t in tables[:_MOST_ROWS]
    ]
    if len(tables) > _MOST_ROWS:
        rows.append(Row(f"and {len(tables) - _MOST_ROWS:,} more", ("",) * (len(_SPLITS) * len(_KINDS))))
    if len(rows) != 1 and files.manifest:
        cells = tuple(_cell(find(files.manifest, f"{s}_{what}"), what) for s in _SPLITS for what in _KINDS)
        rows.append(Row("all" if rows else "all sources", cells))
    return rows


_KINDS = ("documents", "tokens", "bytes")


def _cell(value: object, what: str) -> str:
    found = number(value)
    return "–" if found is None or (what == "bytes" and not found) else size(found) if what == "bytes" else count(found)


def data_facts(files: RunFiles) -> list[Fact]:
    """Return what else there is to say of the data and its tokenizer."""
    facts = [Fact("tokenizer", tokenizer_kind(files))] if files.tokenizer else non_text.facts(files)
    vocabulary = number(find(files.manifest, "vocab_size"))
    if vocabulary is not None:
        facts.append(Fact("vocabulary", f"{vocabulary:,.0f} tokens"))
    tokens, n_bytes = number(find(files.manifest, "train_tokens")), number(find(files.manifest, "train_bytes"))
    if tokens and n_bytes:
        facts.append(Fact("bytes a token", f"{n_bytes / tokens:.2f}", "in the training text"))
    ratio = number(find(files.manifest, "valid_ratio"))
    if ratio is not None:
        facts.append(Fact("valid split", percent(ratio), "share of the text that was asked for"))
    return facts


def tokenizer_kind(files: RunFiles) -> str:
    """Name the kind of tokenizer that tokenizer.json holds."""
    model = find(files.tokenizer, "model")
    kind, vocabulary = find(model, "type"), find(model, "vocab")
    byte_level = "ByteLevel" in words(find(files.tokenizer, "pre_tokenizer"))
    if kind == "BPE" and byte_level:
        return "byte-level BPE" if find(model, "merges") else "bytes"
    if kind == "WordLevel" and isinstance(vocabulary, Mapping):
        added = find(files.tokenizer, "added_tokens")
        special = {find(token, "content") for token in added} if isinstance(added, list) else set()
        return "characters" if all(len(token) == 1 for token in vocabulary if token not in special) else "words"
    return words(kind, 40) if isinstance(kind, str) else "unknown"


def model_facts(files: RunFiles) -> list[Fact]:
    """Return the model's shape from config.json, else from the settings."""
    table = files.config or find(files.settings, "model") or {}
    facts = []
    family = summary.FAMILIES.get(str(find(table, "model_type"))) or find(table, "family")
    architecture = find(table, "architectures")
    if isinstance(family, str):
        note = f"in transformers: {words(architecture, 100)}" if isinstance(architecture, list) else ""
        facts.append(Fact("family", words(family, 40), note))
    if (n := summary.parameters(files)) is not None:
        facts.append(Fact("parameters", f"{n:,.0f}"))
    for name, keys in _MODEL_KEYS:
        value = next((find(table, key) for key in keys if find(table, key) is not None), None)
        if value is not None:
            figure = number(value)
            facts.append(Fact(name, words(value, 80) if figure is None else f"{figure:,.10g}"))
    return facts + _coverage(files)


def _coverage(files: RunFiles) -> list[Fact]:
    """Return what word vectors cover, where the embeddings began as some."""
    if not files.coverage:
        return []
    facts = [Fact("embeddings began as", words(find(files.coverage, "source"), 300))]
    for name, key in (("vocabulary covered", "types"), ("training text covered", "tokens")):
        table = find(files.coverage, key)
        counts = {k: number(v) or 0.0 for k, v in table.items()} if isinstance(table, Mapping) else {}
        total = sum(counts.values())
        if total:
            ways = ", ".join(f"{words(way, 20)} {percent(n / total)}" for way, n in counts.items())
            facts.append(Fact(name, percent(1 - counts.get("none", 0.0) / total), ways))
    listed = find(files.coverage, "missing")
    named = (
        [words(row[0], 40) for row in listed[:20] if isinstance(row, list) and row] if isinstance(listed, list) else []
    )
    return [*facts, Fact("without a vector", ", ".join(named), "the commonest")] if named else facts


def training_facts(files: RunFiles) -> list[Fact]:
    """Return the settings that one asks for first."""
    facts = []
    for name, *path in _TRAINING_KEYS:
        value = find(files.settings, *path)
        if value is not None:
            figure = number(value) if name != "seed" else None
            facts.append(Fact(name, words(value, 100) if figure is None else f"{figure:,.10g}"))
    return facts


def environment_facts(files: RunFiles) -> list[Fact]:
    """Return environment.json, the reasons for what was chosen beside each choice."""
    reasons = find(files.environment, "reasons")
    facts = []
    for key, value in list(files.environment.items())[:_MOST_ROWS]:
        if key == "reasons" and isinstance(reasons, Mapping):
            continue
        reason = find(reasons, key)
        note = "" if reason is None else words(reason, 300)
        facts.append(Fact(words(key, 80).replace("_", " "), _nested(value), note))
    return facts


def _nested(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{words(k, 80).replace('_', ' ')} {words(v, 200)}" for k, v in list(value.items())[:20])
    return words(value, 400)


@dataclass(frozen=True, slots=True)
class Hash:
    """One hash of the contract; ``agrees`` is None where nothing stands to compare it with."""

    name: str
    digest: str
    meaning: str
    agrees: bool | None


def contract(files: RunFiles) -> list[Hash]:
    """Return the hashes of contract.json, compared with the token store's manifest."""
    beside: dict[str, Any] = {
        "tokenizer": find(files.manifest, "tokenizer"),
        "store": find(files.manifest, "fingerprint"),
    }
    return [
        Hash(
            words(name, 80),
            words(digest, 200),
            _HASHES.get(name, ""),
            None if beside.get(name) is None or not isinstance(digest, str) else beside[name] == digest,
        )
        for name, digest in list(files.contract.items())[:_MOST_ROWS]
    ]


def missing(files: RunFiles) -> list[Fact]:
    """Name the files that are not there, and what the page lacks without them."""
    expected = {
        "run.toml": "settings",
        "metrics.jsonl": "curves",
        "samples.jsonl": "samples",
        "evaluation.json": "the final evaluation and the baselines",
        files.manifest_name: "data",
        "tokenizer/tokenizer.json": "the kind of tokenizer",
        "environment.json": "the environment",
        "contract.json": "the contract",
        "state.json": "how the run ended",
    }
    if files.tasks:  # rows of labelled tasks, and nothing written on the way
        del expected["samples.jsonl"], expected[files.manifest_name]
    if files.codec:  # ids that are no text have no tokenizer
        del expected["tokenizer/tokenizer.json"]
    found = [Fact(words(name, 300), what) for name, what in expected.items() if name not in files.present]
    if files.checkpoint is None:
        found.append(Fact("checkpoints", "the model itself"))
    return found
