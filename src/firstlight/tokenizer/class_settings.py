"""Settings of tokenizer_config.json that override a tokenizer.json in transformers, by the class that it names.

BERT's tokenizer takes lower case, accents and Chinese characters from there, with its own defaults; GPT-2's takes the
space in front of a text. Other classes follow tokenizer.json.
"""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Inner
from tokenizers import normalizers, pre_tokenizers

from firstlight import progress
from firstlight.tokenizer.hf_files import HFFiles

BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
# Classes of byte-level BPE with GPT-2's pre-tokenizer.
GPT2 = ("GPT2Tokenizer", "CodeGenTokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")
# Attribute of tokenizers.normalizers.BertNormalizer by key, with the default.
_BERT_KEYS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def apply_class_settings(inner: Inner, file: Path, files: HFFiles) -> None:
    """Set what the class of a tokenizer reads from tokenizer_config.json, in place, and say what differed.

    Args:
        inner: the tokenizer.
        file: that it was read from.
        files: what the files next to it say.
    """
    if files.config.get("tokenizer_class") is None:
        return
    changed: dict[str, Any] = {}
    if files.class_name in BERT and isinstance(inner.normalizer, normalizers.BertNormalizer):
        for key, (attribute, default) in _BERT_KEYS.items():
            value = files.config.get(key, default)
            value = default if value is None else bool(value)
            if getattr(inner.normalizer, attribute) != value:
                setattr(inner.normalizer, attribute, value)
                changed[key] = value
    part, space = inner.pre_tokenizer, files.config.get("add_prefix_space")
    # Within a sequence, the space would be put in front of every word.
    is_gpt2 = files.class_name in GPT2 and isinstance(part, pre_tokenizers.ByteLevel)
    if is_gpt2 and isinstance(space, bool) and part.add_prefix_space != space:
        part.add_prefix_space = changed["add_prefix_space"] = space
    if changed:
        listed = ", ".join(f"{key} {value}" for key, value in changed.items())
        progress.notice(f"{file}: {listed}: as tokenizer_config.json says, which {files.class_name} follows")
