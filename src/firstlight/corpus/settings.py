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
