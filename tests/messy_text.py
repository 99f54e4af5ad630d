"""Random text that tokenizers disagree on: white space, contractions, scripts, special tokens."""

import random

from hypothesis import strategies as st

from firstlight.tokenizer import PATTERNS

PIECES = [
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2028", "\u200b", "\x1c", "\ufeff", "\x00", "\ufffd"),
    *("a", "Hello", " world", "don't", "'s", "'LL", "'ſ", "e\u0301", "é", "ß", "İ", "12", "3", "1234567", "½", "٣"),
    *("!", "?!", ".", ",", "-", "_", "/", "://", "def f(x):", "    return", "<|endoftext|>", "<unk>", "</s>"),
    *("你好", "世界", "。", "，", "「", "한국", "Привет", "😀", "👩‍👩‍👧"),
]

NAMES = [*(f"bpe-{pattern}" for pattern in PATTERNS), "word", "char", "char-unk", "byte"]
LOSSLESS = [name for name in NAMES if name not in ("word", "char-unk")]

texts = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=24
).map("".join)


def messy_text(seed: int, n_pieces: int) -> str:
    """Join random pieces."""
    return "".join(random.Random(seed).choices(PIECES, k=n_pieces))
