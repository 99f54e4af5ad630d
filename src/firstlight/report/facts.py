"""Tables of a report: model, training, environment, compatibility hashes, missing files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.report import summary
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, to_text
from firstlight.report.units import format_percent, to_float
from firstlight.runs import RunDirectory, outside_inputs

_MAX_ROWS = 50

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
            without = counts.get("none", 0.0) + counts.get("part", 0.0)
            facts.append(Fact(name, format_percent(1 - without / total), matches))
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
    """Return what the run depends on: what it needs that is not in its directory."""
    return [
        Fact("depends on", to_text(found.path, 300), f"{found.what}; {to_text(found.hash, 12) or 'without a hash'}")
        for found in outside_inputs(RunDirectory(files.run))
    ]


def environment_facts(files: RunFiles) -> list[Fact]:
    """Return environment.json, with the reason for each automatic choice as its note."""
    reasons = find(files.environment, "reasons")
    facts = []
    for key, value in list(files.environment.items())[:_MAX_ROWS]:
        if (key == "reasons" and isinstance(reasons, Mapping)) or key == "trials":  # reasons have their times
            continue
        if key == "peak_flops" and isinstance(value, int | float):
            facts.append(Fact("peak of matrix products", f"{value / 1e9:,.0f} GFLOP/s", "the ceiling of MFU"))
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
        if isinstance(digest, str)  # others are settings, and a number of starts
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
