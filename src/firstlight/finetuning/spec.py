"""The settings of a labelled task, as a TASK.toml declares them: its kind, its files, and what their columns hold."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from firstlight import progress
from firstlight.config import Settings
from firstlight.corpus import LimitSettings
from firstlight.files import Limits
from firstlight.files.compression import inner_suffix
from firstlight.files.encodings import check_encoding
from firstlight.files.table_dialect import read_escaped_tab
from firstlight.files.text_decoder import Decoding

Column = int | str
MAX_SCORE = 3.4e38  # the largest number of fp32, a little rounded
Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "conll", "folders"]
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    **dict.fromkeys((".conll", ".conllu", ".iob", ".iob2", ".bio"), "conll"),
    ".zip": "folders",
}
# The formats whose readers obey a setting of DataFiles.
_READ_BY = {
    **dict.fromkeys(("delimiter", "decimal", "header", "quotes", "max_fields"), ("csv", "tsv")),
    "field": ("json",),
    "explode": ("csv", "tsv", "jsonl", "json", "parquet"),
    "encoding": ("csv", "tsv", "jsonl", "json", "conll", "folders"),
}
AnswerFormat = Literal["choice_labels", "text", "letter", "zero_based", "one_based"]
Truncation = Literal["tail", "head", "middle", "error"]


class DataFiles(Settings):
    """The files of a task, and their format."""

    former_names: ClassVar = {"fields": "max_fields", "path": "field", "each": "explode", "empty": "on_empty"}

    folder: str = Field("", description="folder of the files below; relative to the TOML, or to --data")
    train: str | list[str] = Field(description="file, folder or zip; names may be globs; or hf:NAME[:CONFIG][@SPLIT]")
    valid: str | list[str] | None = Field(None, description="like train; if not set, valid_ratio of train")
    test: str | list[str] | None = Field(None, description="like train")
    format: Format = Field(
        "auto",
        description="auto: by the suffix; conll: a line per word, a blank line after each sentence; folders: a folder "
        "per label, a file per text",
    )
    encoding: str = Field(
        "utf-8", description="encoding of the files, such as utf-8, gb18030, cp1252; a byte order mark overrides it"
    )
    delimiter: str | None = Field(None, description="separator of fields; by default comma for csv, tab for tsv")
    header: bool = Field(True, description="the first line names the columns; else they are numbered from 0")
    decimal: Literal[".", ","] = Field(".", description="decimal separator of scores, as a comma in many spreadsheets")
    quotes: bool | None = Field(
        None, description="quotes may enclose fields; by default true for csv, found out for tsv"
    )
    max_fields: int | None = Field(None, ge=2, description="split lines into so many fields; the last keeps delimiters")
    field: str = Field("", description="of a JSON file, the path to its list of records: keys and indices with dots")
    explode: str = Field(
        "", description="path to a list within each record whose items become rows; their columns are item.…"
    )
    on_empty: Literal["error", "drop"] = Field(
        "error", description="what to do with a row without text; predict labels a dropped one null"
    )
    drop_labels: list[str] = Field(
        [], description="labels of rows that are left out, such as - for no agreement; an empty one is a missing label"
    )
    max_unk_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the tokens, or of the bytes, of the texts that the tokenizer may not know; "
        "fine-tuning is refused where more is unknown",
    )
    follow_symlinks: bool = Field(
        False, description="read what symbolic links in a folder point to outside it; a named link is always read"
    )
    skip: bool = Field(
        True,
        description="skip files inside a folder that are not data: hidden, named by a .gitignore in it, in run "
        "directories, virtual environments, caches and models; what is named itself is always read",
    )
    limits: LimitSettings = LimitSettings()

    @property
    def read_limits(self) -> Limits:
        """The limits of reading one file."""
        return self.limits.to_limits("data.limits")

    @property
    def formats(self) -> set[str | None]:
        """The formats of the files by their names; None for one whose name does not say it."""
        if self.format != "auto":
            return {self.format}
        splits = (self.train, self.valid or [], self.test or [])
        names = [name for split in splits for name in ([split] if isinstance(split, str) else split)]
        return {FORMATS.get(inner_suffix(Path(name))) for name in names}

    def unused_settings(self) -> dict[str, str]:
        """Return the settings that the readers of all the files ignore."""
        formats = self.formats
        if None in formats:
            return {}
        found = " and ".join(sorted(map(str, formats)))
        return {
            name: f"applies to {' and '.join(read_by)}, but the files are {found}"
            for name, read_by in _READ_BY.items()
            if not formats & set(read_by)
        }

    def decoding(self, name: object, *, quiet: bool = False) -> Decoding:
        """Return how a file is decoded; a notice says where that is not as ``encoding`` says, unless ``quiet``."""

        def note(what: str) -> None:
            if not quiet:
                progress.notice(f"{name}: {what}")

        return Decoding(self.encoding, setting='data.encoding = "{}"', by_line=True, note=note)

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @field_validator("delimiter", mode="before")
    @classmethod
    def _read_tab(cls, delimiter: object) -> object:
        return read_escaped_tab(delimiter)

    @model_validator(mode="after")
    def _check_delimiter(self) -> "DataFiles":
        # csv.reader takes one character; a line that is split into max_fields may be split at any text.
        if self.delimiter == "" or (self.delimiter is not None and len(self.delimiter) > 1 and self.max_fields is None):
            # Around a value of a command, white space is no part of it.
            fix = """; in a shell a space is 'data.delimiter=" "'""" if self.delimiter == "" else ""
            raise ValueError(f"delimiter must be one character, not {self.delimiter!r}{fix}")
        return self


class Columns(Settings):
    """The columns of a row: names, or numbers from 0. The texts of several are joined with line breaks."""

    text: Column | list[Column] | None = Field(
        None, description="the text, or the first of two: of several columns, joined"
    )
    text2: Column | list[Column] | None = Field(None, description="the second text of a pair; of kind chat, the answer")
    question: Column | list[Column] | None = Field(None, description="kind multiple_choice: the question, or context")
    choices: Column | list[Column] | None = Field(
        None, description="one column with a list, or with an object of texts by name; or a column per answer"
    )
    choice_labels: Column | None = Field(
        None, description="a list with the name of each choice, such as A; the label is one of them"
    )
    tokens: Column | None = Field(None, description="a list of words, or words separated by spaces")
    label: Column | None = Field(None, description="the class, score, answer, or list of a class per word")
    messages: Column | None = Field(None, description="a list of {role, content}")
    system: Column | None = Field(None, description="kind chat: the system prompt; a row may have none")
    history: Column | None = Field(None, description="kind chat: earlier turns, a list of [prompt, answer]")


class TaskSpec(Settings):
    """The settings of a labelled task. ``kinds.check_spec`` checks them against its kind."""

    former_names: ClassVar = {"values": "label_values", "long": "truncation", "max_rows": "max_train_rows"}

    name: str = Field(description="of its head; by default the name of the file")
    kind: str = Field(
        description="classification, pair, regression, similarity, multiple_choice, token_classification, text, chat, "
        "or package.module:NAME"
    )
    data: DataFiles
    columns: Columns = Columns()
    label_values: list[str] = Field(
        [], description="labels as the files have them, in order; by default those of train"
    )
    labels: list[str] = Field(
        [],
        description="names of the labels, or a file with one per line; by default label_values, which may be indices "
        "from 0 of the names",
    )
    answer_format: Literal["auto"] | AnswerFormat = Field(
        "auto",
        description="what the label of a multiple_choice row is; auto: the only one that fits the rows of all files",
    )
    scale: tuple[float, float] | None = Field(None, description="lowest and highest score; by default those of train")
    valid_ratio: float = Field(0.1, gt=0, lt=1, description="fraction of train, per label, where no valid file is set")
    truncation: Truncation = Field("tail", description="the part of a text that is cut off where it is too long")
    metric: str = Field("auto", description="metric that selects the best checkpoint, such as accuracy, f1, pearson")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: the loss of each class is weighted by the inverse of its frequency"
    )
    pool: Literal["auto", "last", "mean"] = Field(
        "auto",
        description="what the head reads: the mean of all tokens, as in Image GPT, or the last one, the extract token, "
        "as in GPT-1; auto: as finetune.pool says",
    )
    max_train_rows: int | None = Field(
        None, ge=2, description="rows of train that are used, drawn by data.seed of the run"
    )

    def unused_settings(self) -> dict[str, str]:
        """Return the ratio of a split that files make."""
        return {} if self.data.valid is None else {"valid_ratio": "applies where data.valid is not set"}

    @model_validator(mode="after")
    def _check_labels(self) -> "TaskSpec":
        if self.labels and len(self.labels) != len(self.label_values or self.labels):
            raise ValueError(f"{len(self.labels)} names in labels, but {len(self.label_values)} in label_values")
        for names in (self.label_values, self.labels):
            if len(set(names)) < len(names):
                raise ValueError("two labels are the same")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError("scale needs a lower and a higher score")
        if self.scale is not None and max(map(abs, self.scale)) > MAX_SCORE:
            raise ValueError(f"scale needs scores of at most {MAX_SCORE:.3g} in size, as fp32 can hold")
        return self
