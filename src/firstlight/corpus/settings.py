"""Settings of reading a corpus: text, token ids, images."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from firstlight.config import Settings
from firstlight.files import Limits
from firstlight.files.encodings import check_encoding
from firstlight.files.limits import DEFAULT_LIMITS
from firstlight.files.table_dialect import read_escaped_tab


class LimitSettings(Settings):
    """Limits of reading one untrusted file; see ``files.limits``."""

    max_document_bytes: int = Field(
        DEFAULT_LIMITS.max_document_bytes,
        ge=1 << 16,
        description="largest record, line, JSON value, table row, Parquet page, zip member or decompression window",
    )
    max_compression_ratio: float = Field(
        DEFAULT_LIMITS.max_compression_ratio,
        ge=1,
        description="decompressed bytes per compressed byte; checked after the first 64 MiB of a file",
    )
    max_seconds: float = Field(
        DEFAULT_LIMITS.max_seconds,
        gt=0,
        description="processor time to read one document, or a piece of one that is read in pieces",
    )

    def to_limits(self, key: str) -> Limits:
        """Return the limits; ``key`` is where they are set, for messages."""
        return Limits(self.max_document_bytes, self.max_compression_ratio, self.max_seconds, settings_key=key)


class CorpusSettings(Settings):
    """Settings of text readers and of filtering."""

    text_field: str | list[str] = Field(
        "text", description="field of a record with its text; a.b for a nested one; several are joined with line breaks"
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="separator of a table's fields; by default comma for csv, tab for tsv",
    )
    quotes: bool | None = Field(
        None, description="quotes may enclose a table's fields; by default true for csv, found out for tsv"
    )
    readers: list[str] = Field([], description="readers of further formats from other packages, as package.module:Name")
    text_split: Literal["file", "blank-lines", "lines"] = Field(
        "file", description="what is one document in a text file"
    )
    encoding: str = Field(
        "utf-8", description="encoding of the files, such as utf-8, gb18030, cp1252; a byte order mark overrides it"
    )
    on_bad_bytes: Literal["error", "replace", "skip"] = Field(
        "error",
        description="bytes that are not in the encoding, also in the words of word vectors: stop, replace them by "
        "U+FFFD, or skip them; at most 1 % of a text file",
    )
    on_bad_document: Literal["error", "skip"] = Field(
        "error",
        description="a document that cannot be read: stop, or skip it, without or with the rest of its file",
    )
    follow_symlinks: bool = Field(
        False, description="read what symbolic links in a folder point to outside it; a named link is always read"
    )
    skip: bool = Field(
        True,
        description="skip files inside a folder that are not data: hidden, named by a .gitignore in it, in run "
        "directories, virtual environments, caches, models and token stores; what is named itself is always read",
    )
    max_download_bytes: int = Field(
        16 << 30, ge=1, description="largest file that is fetched for a named corpus; its SHA-256 is recorded"
    )
    limits: LimitSettings = LimitSettings()
    newlines: Literal["lf", "keep"] = Field("lf", description="lf: CRLF and CR become LF, byte order marks are removed")
    min_characters: int = Field(1, ge=0, description="drop shorter documents; empty ones are always dropped")
    dedup: Literal["none", "exact"] = Field(
        "none", description="exact: drop documents that occurred before in the same source, or are in corpus.valid"
    )
    max_bytes: int | None = Field(
        None,
        ge=1,
        description="read at most this many bytes of each source; its last document is truncated. The files of a "
        "corpus are one source, unless data.weights are set; corpus.valid is read whole",
    )

    @field_validator("delimiter", mode="before")
    @classmethod
    def _read_tab(cls, delimiter: object) -> object:
        return read_escaped_tab(delimiter)

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @property
    def text_fields(self) -> list[str]:
        """The fields of a record with its text."""
        return [self.text_field] if isinstance(self.text_field, str) else self.text_field

    @property
    def read_limits(self) -> Limits:
        """The limits of reading one file."""
        return self.limits.to_limits("corpus.limits")


class TrainingCorpusSettings(CorpusSettings):
    """Settings of the corpus of a token store."""

    valid: list[str] = Field(
        [],
        description="files, folders, globs or named corpora of validation text; if not set, data.valid_ratio of the "
        "corpus",
    )

    @field_validator("valid", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class IdSettings(Settings):
    """Settings of token ids prepared by other programs: music, DNA, logs."""

    vocab_size: int | None = Field(
        None, ge=1, le=2**31 - 2, description="number of ids, required; one more is added to end a sequence"
    )
    dtype: Literal["uint8", "uint16", "uint32", "int16", "int32", "int64"] = Field(
        "uint16", description="type of the ids in a .bin file, little endian; .npy files have their own"
    )


class ImageSettings(Settings):
    """Settings of images: how they become sequences of tokens, and which token each starts with."""

    former_names: ClassVar = {"unlabelled": "class_dropout"}

    size: int | None = Field(
        None, ge=1, le=1024, description="pixels per side; by default that of IDX and .npy files, 32 for others"
    )
    colors: Literal["grey", "palette"] | None = Field(
        None, description="levels of grey, or a palette of colours by k-means; by default that of the first image"
    )
    levels: int = Field(16, ge=2, le=256, description="number of grey levels, evenly spaced")
    palette: int = Field(512, ge=2, le=4096, description="number of colours; 512 are the 9 bits of Image GPT")
    labels: str = Field(
        "auto",
        description="auto: sub-folders, or the file of labels next to an array; none; or a file of labels",
    )
    class_dropout: float = Field(
        0.1, ge=0, le=1, description="ratio of training images whose class is replaced by the start token"
    )

    def unused_settings(self) -> dict[str, str]:
        """Return the number of the other kind of values, and the ratio of classes where there are none."""
        unused = {}
        if self.colors is not None:
            name = "palette" if self.colors == "grey" else "levels"
            unused[name] = f"does not apply where image.colors is {self.colors}"
        if self.labels == "none":
            unused["class_dropout"] = "applies to images with a class, but image.labels is none"
        return unused
