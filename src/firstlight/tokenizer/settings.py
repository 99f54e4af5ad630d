"""Settings of a tokenizer: the table ``tokenizer`` of a run."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from firstlight.config import Settings
from firstlight.tokenizer.patterns import PATTERNS

# The kinds of tokenizer that each setting applies to.
SETTINGS_OF_TRAINING = {
    "vocab_size": ("bpe", "word"),
    "pattern": ("bpe",),
    "sample_bytes": ("bpe", "word", "char"),
    "byte_fallback": ("char",),
    "min_frequency": ("word", "char"),
    "vocab_source": ("word",),
}
MIN_VOCAB_SIZE, MAX_VOCAB_SIZE = 257, 200_000


class TokenizerSettings(Settings):
    """Settings of a tokenizer to train, or the path of one to load."""

    former_names: ClassVar = {"words": "vocab_source"}

    kind: Literal["bpe", "word", "char", "byte"] = Field(
        "bpe",
        description="byte-level BPE, words, characters or bytes; for Chinese bpe, as word splits it into characters",
    )
    vocab_size: int | Literal["auto"] = Field(
        "auto",
        description="kinds bpe and word: number of tokens; auto: 512 to 32,768, depending on the text",
    )
    pattern: str = Field("qwen2", description=f"kind bpe: how text is split into words: {', '.join(PATTERNS)}")
    path: str | None = Field(
        None, description="load this tokenizer, of the kind above if that is set, instead of training one"
    )
    sample_bytes: int = Field(256 << 20, ge=1, description="bytes of text to train on, from the start of every file")
    byte_fallback: bool = Field(
        True,
        description="kind char: spell other characters in tokens for their UTF-8 bytes; false: one unknown token",
    )
    min_frequency: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="kinds word and char: minimum count of a word or character; auto: 2 for char with byte_fallback, "
        "so that byte tokens are trained, otherwise 1",
    )
    vocab_source: str = Field(
        "corpus",
        description="kind word: corpus, all words of the corpus; a path of word vectors, only words that they have; "
        "vectors, only words that model.embeddings has",
    )

    @field_validator("vocab_size")
    @classmethod
    def _check_vocab_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not MIN_VOCAB_SIZE <= value <= MAX_VOCAB_SIZE:
            raise ValueError(f"must be between {MIN_VOCAB_SIZE} (256 bytes and end-of-text) and {MAX_VOCAB_SIZE}")
        return value

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        if value not in PATTERNS:
            raise ValueError(f"must be one of {', '.join(PATTERNS)}")
        return value

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of training that the kind does not have, or all where a tokenizer is loaded."""
        if self.path is not None:
            return dict.fromkeys(SETTINGS_OF_TRAINING, "applies to a tokenizer that is trained, not to tokenizer.path")
        return {
            name: f"applies to kind {' and '.join(kinds)}, not {self.kind}"
            for name, kinds in SETTINGS_OF_TRAINING.items()
            if self.kind not in kinds
        }

    @property
    def min_count(self) -> int:
        """The number that ``min_frequency`` stands for."""
        if self.min_frequency != "auto":
            return self.min_frequency
        return 2 if self.kind == "char" and self.byte_fallback else 1
