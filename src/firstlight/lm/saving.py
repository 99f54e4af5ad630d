"""A model directory as transformers has it: written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from firstlight.errors import StorageError
from firstlight.files import storage_errors, temporary_beside, write_atomic
from firstlight.lm.directory import CONFIG, GENERATION, WEIGHTS
from firstlight.model import ModelConfig, n_parameters, to_transformers
from firstlight.tokenizer import Tokenizer

CARD = "README.md"


def write(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    facts: Mapping[str, Any],
) -> None:
    """Write a directory that transformers loads without conversion.

    Args:
        folder: made where it is missing.
        config: complete.
        weights: in transformers' names.
        tokenizer: written beside, or None for sequences that are no text.
        facts: what the model card says, by name.
    """
    eot_id = None if tokenizer is None else tokenizer.eot_id
    table = to_transformers(config, eot_id=eot_id)
    _write_weights(folder / WEIGHTS, weights)
    write_atomic(folder / CONFIG, json.dumps(table, indent=1) + "\n")
    generation = {"bos_token_id": eot_id, "eos_token_id": eot_id, "max_length": config.block_size}
    write_atomic(folder / GENERATION, json.dumps(generation, indent=1) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder, model_max_length=config.block_size)
    write_atomic(folder / CARD, _card(config, table, tokenizer, facts))


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write beside and rename: a model that was loaded from ``path`` may still read its weights there."""
    held = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    temporary = temporary_beside(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(held, temporary, metadata={"format": "pt"})
            temporary.replace(path)
        except SafetensorError as error:  # it gives the system's refusals as text
            raise StorageError(f"cannot be written: {error}", where=path) from error
        finally:
            temporary.unlink(missing_ok=True)


def _card(config: ModelConfig, table: Mapping[str, Any], tokenizer: Tokenizer | None, facts: Mapping[str, Any]) -> str:
    c, count = config, n_parameters(config)
    rows = {
        "family": f"{c.family} ({table['architectures'][0]})",
        "parameters": f"{count.total:,} ({count.embedding:,} of them embeddings and head)",
        "shape": f"{c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, block size {c.block_size}",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        **{str(name): str(value) for name, value in facts.items()},
    }
    lines = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())
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
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```

It writes what is likely after what it was trained on, which may be wrong, biased, or copied from that text.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
