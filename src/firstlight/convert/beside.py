"""What stands beside the weights wherever they go: the config.json and the tokenizer, as transformers has them."""

import json
import tempfile
from pathlib import Path

from firstlight.lm import LM
from firstlight.model import to_hf_config


def texts(lm: LM) -> dict[str, str]:
    """Return the texts by file name: config.json, generation_config.json, and the tokenizer's, if there is one."""
    words, config = lm.tokenizer, lm.config
    # A model from elsewhere may lack end-of-text: it then lies behind the vocabulary.
    eot_id = words.eot_id if words is not None and words.eot_id < (config.vocab_size or 0) else None
    generation = {"bos_token_id": eot_id, "eos_token_id": eot_id, "max_length": config.block_size}
    tables = {"config.json": to_hf_config(config, eot_id=eot_id), "generation_config.json": generation}
    found = {name: json.dumps(table, indent=1) + "\n" for name, table in tables.items()}
    if words is not None:
        with tempfile.TemporaryDirectory() as folder:
            words.save(Path(folder), model_max_length=config.block_size)
            found |= {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    return found
