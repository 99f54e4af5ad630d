"""What a word is: where kind word cuts a text, and where vectors are trained."""

from typing import Any

from tokenizers import Regex, pre_tokenizers


def word_cutter() -> Any:
    """Return what cuts: Han characters are words of their own; elsewhere runs of word characters, and runs of signs."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.Whitespace()])
