"""The word of a generated text that an example begins with."""

import pytest

from firstlight.files.text_lines import opening_word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('etiffered Mary-bostle, and said. "Oh," said Colin to her', "Colin"),  # begins amid a word
        ("return x + 1", "return"),
        ("东风夜放花千树", "东风夜放"),
        ("12 - 3", None),
    ],
)
def test_opening_word(text: str, expected: str | None) -> None:
    assert opening_word(text) == expected
