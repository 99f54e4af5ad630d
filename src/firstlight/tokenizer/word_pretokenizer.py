"""The pre-tokenizer of kind word, also used to train word vectors."""

from typing import Any

from tokenizers import Regex, pre_tokenizers


def word_pretokenizer() -> Any:
    """Create a pre-tokenizer that splits off each Han character, and otherwise runs of letters and of punctuation."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.Whitespace()])
