"""How a corpus is read."""

from typing import Literal

from pydantic import Field

from firstlight.config import Settings


class CorpusSettings(Settings):
    """Settings of readers and cleaning."""

    text_field: str = Field("text", description="field of a record that holds its text; a.b for a nested one")
    text_split: Literal["file", "blank-lines", "lines"] = Field(
        "file", description="what is one document in a text file"
    )
    on_bad_bytes: Literal["error", "replace", "skip"] = Field(
        "error", description="bytes that are no UTF-8: stop, put U+FFFD in their place, or leave them out"
    )
    newlines: Literal["lf", "keep"] = Field("lf", description="lf: CRLF and CR become LF, a byte order mark goes")
    min_characters: int = Field(1, ge=0, description="shorter documents are dropped; empty ones always are")
    dedup: Literal["none", "exact"] = Field(
        "none", description="exact: a document that its source held before is dropped"
    )
    max_bytes: int | None = Field(
        None, ge=1, description="take no more than this much text, in UTF-8, of each source; its last document is cut"
    )


class IdSettings(Settings):
    """Settings of sequences of token ids that were made elsewhere: music, DNA, logs."""

    vocab_size: int | None = Field(
        None, ge=1, le=2**31 - 2, description="how many ids there are; needed. One more is added, which ends a sequence"
    )
    dtype: Literal["uint8", "uint16", "uint32", "int16", "int32", "int64"] = Field(
        "uint16", description="numbers in a .bin file, little endian; .npy files say it themselves"
    )


class ImageSettings(Settings):
    """Settings of images: how they become rows of tokens, and what stands before each row."""

    size: int | None = Field(
        None, ge=1, le=1024, description="pixels a side; where not set, as IDX and .npy files have it, 32 for others"
    )
    colors: Literal["grey", "palette"] | None = Field(
        None, description="levels of grey, or colours found by k-means; as the first image has it where not set"
    )
    levels: int = Field(16, ge=2, le=256, description="of grey, evenly spaced")
    palette: int = Field(512, ge=2, le=4096, description="colours: 512 are the 9 bits of Image GPT")
    labels: str = Field(
        "auto", description="auto: sub-folders, or the file of labels beside; none; or a file of labels, IDX or .npy"
    )
    class_dropout: float = Field(
        0.1, ge=0, le=1, description="share of training rows that begin with the start token in place of their class"
    )
