"""The pre-tokenizer of kind word, also used to train word vectors."""

import re
from typing import Any

from tokenizers import Regex, pre_tokenizers

_HAN = re.compile("[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0003ffff]")


def word_pretokenizer() -> Any:
    """Create a pre-tokenizer that splits off each Han character, and otherwise runs of letters and of punctuation."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.Whitespace()])


def is_han(word: str) -> bool:
    """Whether a word is a Han character."""
    return _HAN.fullmatch(word) is not None
