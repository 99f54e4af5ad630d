"""What a tokenizer may be asked to be."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from firstlight.config import Settings
from firstlight.tokenizer.patterns import PATTERNS

LEAST, MOST = 257, 200_000


class TokenizerSettings(Settings):
    """Settings of a tokenizer to train, or the path of one to load."""

    kind: Literal["bpe", "word", "char", "byte"] = Field(
        "bpe", description="byte-level BPE, words, characters or bytes"
    )
    vocab_size: int | Literal["auto"] = Field(
        "auto",
        description="tokens in all; auto: 512 to 32,768 by the text and its characters; char and byte have their own",
    )
    pattern: str = Field("qwen2", description=f"how BPE cuts text into words: {', '.join(PATTERNS)}")
    path: str | None = Field(None, description="load this tokenizer instead of training one")
    sample_bytes: int = Field(
        256 << 20, ge=1, description="text that training looks at, taken from the beginning of every source"
    )
    min_frequency: int = Field(1, ge=1, description="of a word, for kind word")
    words: str = Field(
        "corpus",
        description="kind word takes the corpus's; or only those in the word vectors at this path; vectors: "
        "in those that model.embeddings names",
    )

    @field_validator("vocab_size")
    @classmethod
    def _in_range(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not LEAST <= value <= MOST:
            raise ValueError(f"must lie between {LEAST} (256 bytes and end-of-text) and {MOST}")
        return value

    @field_validator("pattern")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PATTERNS:
            raise ValueError(f"must be one of {', '.join(PATTERNS)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "TokenizerSettings":
        if self.words != "corpus" and self.kind != "word":
            raise ValueError("words from vectors are for kind=word; BPE's tokens get vectors as they are")
        return self
