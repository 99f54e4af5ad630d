"""A model directory as transformers has it: written."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from firstlight import tokenizer as tokenizers
from firstlight.errors import StorageError
from firstlight.files import atomic_file, write_atomic
from firstlight.model import HEADS_FILE, ModelConfig, count_parameters, to_hf_config
from firstlight.tokenizer import Tokenizer

if TYPE_CHECKING:
    from firstlight.tokenizer import Codec

CONFIG, GENERATION, WEIGHTS, CARD = "config.json", "generation_config.json", "model.safetensors", "README.md"


@dataclass(frozen=True, slots=True)
class Classifier:
    """The one head of a model that transformers has a class for.

    Attributes:
        head: name of the head.
        labels: of its outputs; empty for one score.
    """

    head: str
    labels: Sequence[str]

    def apply(self, table: dict[str, Any], pad_id: int | None) -> dict[str, Any]:
        """Return the config.json of the class that reads the last token of a text."""
        base = table["architectures"][0].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
        names = list(self.labels) or ["LABEL_0"]
        return {
            **table,
            "architectures": [f"{base}ForSequenceClassification"],
            "pad_token_id": pad_id,
            "problem_type": "single_label_classification" if self.labels else "regression",
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }


def save_pretrained(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    facts: Mapping[str, Any],
    classifier: Classifier | None = None,
    codec: "Codec | None" = None,
) -> None:
    """Write a directory that transformers loads without conversion.

    Heads of tasks lie in a file beside the weights. Where there is one that transformers has a class for, the directory
    loads as that class; as a causal language model it loads all the same.

    Args:
        folder: made where it is missing.
        config: complete.
        weights: in transformers' names.
        tokenizer: written beside, or None for sequences that are no text.
        facts: what the model card says, by name.
        classifier: the head that transformers' class has, if any.
        codec: what the ids mean where there is no tokenizer; written beside.
    """
    words = tokenizer or codec
    # A model from elsewhere may lack end-of-text: it then lies behind the vocabulary.
    known = words is not None and 0 <= words.eot_id < (config.vocab_size or 0)
    eot_id = words.eot_id if words is not None and known else None
    table = to_hf_config(config, eot_id=eot_id)
    heads = {name: tensor for name, tensor in weights.items() if name.startswith("heads.")}
    body = {name: tensor for name, tensor in weights.items() if name not in heads}
    if heads:
        _write_weights(folder / HEADS_FILE, heads)
    if classifier is not None:
        table = classifier.apply(table, None if tokenizer is None else tokenizer.pad_id)
        body["score.weight"] = heads[f"heads.{classifier.head}.weight"]
    _write_weights(folder / WEIGHTS, body)
    write_atomic(folder / CONFIG, json.dumps(table, indent=1) + "\n")
    generation = {"bos_token_id": eot_id, "eos_token_id": eot_id, "max_length": config.block_size}
    write_atomic(folder / GENERATION, json.dumps(generation, indent=1) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder, model_max_length=config.block_size)
    if codec is not None:
        tokenizers.save_codec(codec, folder)
    write_atomic(folder / CARD, _card(config, table, tokenizer, facts))


def text_files(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, str]:
    """Build what accompanies the weights in other formats: config.json, generation_config.json and the tokenizer.

    Returns:
        The content of each file by its name.
    """
    # The tokenizer of an imported model may lack end-of-text; its id is then beyond the vocabulary.
    known = tokenizer is not None and tokenizer.eot_id < (config.vocab_size or 0)
    eot_id = tokenizer.eot_id if tokenizer is not None and known else None
    generation = {"bos_token_id": eot_id, "eos_token_id": eot_id, "max_length": config.block_size}
    tables = {CONFIG: to_hf_config(config, eot_id=eot_id), GENERATION: generation}
    files = {name: json.dumps(table, indent=1) + "\n" for name, table in tables.items()}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder), model_max_length=config.block_size)
            files |= {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    return files


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write beside and rename: a model that was loaded from ``path`` may still read its weights there."""
    held = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(held, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # it gives the system's refusals as text
            raise StorageError(f"cannot be written: {error}", where=path) from error


def _card(config: ModelConfig, table: Mapping[str, Any], tokenizer: Tokenizer | None, facts: Mapping[str, Any]) -> str:
    c, count = config, count_parameters(config)
    rows = {
        "family": f"{c.family} ({table['architectures'][0]})",
        "parameters": f"{count.total:,} ({count.embedding:,} of them embeddings and head)",
        "shape": f"{c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, block size {c.block_size}",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        **{str(name): str(value) for name, value in facts.items()},
    }
    lines = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())
    name = ", AutoTokenizer" if tokenizer is not None else ""
    load = '\ntokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")' if tokenizer is not None else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [firstlight]
---
# A GPT trained with Firstlight

| what | value |
|---|---|
{lines}

```python
from transformers import AutoModelForCausalLM{name}

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER"){load}
```

It writes what is likely after what it was trained on, which may be wrong, biased, or copied from it.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
