"""Settings of a tokenizer: the table ``tokenizer`` of a run."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from firstlight.config import Settings
from firstlight.tokenizer.patterns import PATTERNS

MIN_VOCAB_SIZE, MAX_VOCAB_SIZE = 257, 200_000


class TokenizerSettings(Settings):
    """Settings of a tokenizer to train, or the path of one to load."""

    former_names: ClassVar = {"words": "vocab_source"}

    kind: Literal["bpe", "word", "char", "byte"] = Field(
        "bpe", description="byte-level BPE, words, characters or bytes"
    )
    vocab_size: int | Literal["auto"] = Field(
        "auto",
        description="number of tokens; auto: 512 to 32,768, depending on the text; ignored by char and byte",
    )
    pattern: str = Field("qwen2", description=f"how BPE splits text into words: {', '.join(PATTERNS)}")
    path: str | None = Field(None, description="load this tokenizer instead of training one")
    sample_bytes: int = Field(256 << 20, ge=1, description="bytes of text to train on, from the start of every source")
    min_frequency: int = Field(1, ge=1, description="kind word: minimum count of a word")
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

    @model_validator(mode="after")
    def _check_vocab_source(self) -> "TokenizerSettings":
        if self.vocab_source != "corpus" and self.kind != "word":
            raise ValueError("vocab_source applies to kind=word only; tokens of other kinds get vectors without it")
        return self
