"""A labelled task as a small TOML file declares it: what kind it is, where its rows lie, which columns mean what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from firstlight.config import Settings, merge, read_toml, resolve
from firstlight.errors import ConfigError

Kind = Literal["classification", "pair", "similarity", "choice", "regression", "tokens", "text", "chat"]
Column = int | str
Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "folders"]

# The columns that a row of each kind must have.
NEEDED: dict[str, tuple[str, ...]] = {
    "classification": ("text",),
    "regression": ("text",),
    "pair": ("text", "text2"),
    "similarity": ("text", "text2"),
    "choice": ("question", "choices"),
    "tokens": ("tokens",),
    "text": ("text",),
    "chat": (),
}


class Files(Settings):
    """Where the rows lie, and how they are written."""

    folder: str = Field("", description="that the names below lie in, beside the TOML or in --data")
    train: str | list[str] = Field(description="file, folder or zip; names may be globs; or hf:NAME[:CONFIG][@SPLIT]")
    valid: str | list[str] | None = Field(None, description="the same; where it is missing, valid_ratio of train")
    test: str | list[str] | None = Field(None, description="the same")
    format: Format = Field("auto", description="auto: by the suffix; folders: a folder (or zip) a label, a text a file")
    encoding: str = Field("utf-8", description="such as utf-8, latin-1, gb18030")
    delimiter: str | None = Field(None, description="between fields; comma for csv, tab for tsv where not set")
    header: bool = Field(True, description="the first line names the columns; else they are numbered from 0")
    quotes: bool | None = Field(None, description="quotes may hold delimiters; true for csv, false for tsv if not set")
    fields: int | None = Field(None, ge=2, description="cut a line that often at most: the last field keeps delimiters")
    path: str = Field("", description="keys and numbers, with dots, to the list of records in a JSON file")
    empty: Literal["error", "drop"] = Field("error", description="what to do about a row without text")
    each: str = Field("", description="the same within a record: a list whose items are rows; their columns are each.…")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError as error:
            raise ValueError("no such text encoding; expected such as utf-8, latin-1 or gb18030") from error
        return encoding

    @model_validator(mode="after")
    def _delimits(self) -> "Files":
        # A table's reader takes one character; a line that is cut a number of times may be cut at any text.
        if self.delimiter == "" or (self.delimiter is not None and len(self.delimiter) > 1 and self.fields is None):
            raise ValueError(f"delimiter must be one character, not {self.delimiter!r}")
        return self


class Columns(Settings):
    """Which columns mean what; names, or numbers from 0. Several are joined with a line break."""

    text: Column | list[Column] | None = None
    text2: Column | list[Column] | None = None
    question: Column | list[Column] | None = None
    choices: Column | list[Column] | None = Field(None, description="one column with a list, or a column an answer")
    tokens: Column | None = Field(None, description="a list of words, or words between spaces")
    label: Column | None = None
    messages: Column | None = Field(None, description="a list of {role, content}")


class TaskSpec(Settings):
    """A labelled task."""

    name: str
    kind: Kind
    data: Files
    columns: Columns = Columns()
    values: list[str] = Field([], description="labels as the files have them, in order; inferred from train if empty")
    labels: list[str] = Field([], description="names of the labels; the values themselves if empty")
    scale: tuple[float, float] | None = Field(None, description="lowest and highest score; those of train if not set")
    valid_ratio: float = Field(0.1, gt=0, lt=1, description="of train, label by label, where no valid file is named")
    long: Literal["tail", "head", "middle", "error"] = Field(
        "tail", description="what is cut away from a text longer than the model sees"
    )
    metric: Literal[
        "auto", "accuracy", "f1", "macro_f1", "micro_f1", "matthews", "pearson", "spearman", "exact_match"
    ] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    pool: Literal["last", "mean"] = Field(
        "last", description="what the head reads: the extract token, as in GPT-1, or the mean of all, as in Image GPT"
    )
    max_rows: int | None = Field(None, ge=2, description="rows of train that are used, drawn by the seed")

    @model_validator(mode="after")
    def _fits(self) -> "TaskSpec":
        missing = [c for c in NEEDED[self.kind] if getattr(self.columns, c) is None]
        if self.data.format == "folders":
            missing = []
        if missing:
            raise ValueError(f"a task of kind {self.kind} needs columns.{missing[0]}")
        if self.kind == "chat" and self.columns.messages is None and None in (self.columns.text, self.columns.text2):
            raise ValueError("a task of kind chat needs columns.messages, or columns.text and columns.text2")
        if self.labels and len(self.labels) != len(self.values or self.labels):
            raise ValueError(f"{len(self.labels)} names in labels, but {len(self.values)} values")
        for what in (self.values, self.labels):
            if len(set(what)) < len(what):
                raise ValueError("two labels are the same")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError("scale needs a lower and a higher score")
        if self.pool != "last" and not self.whole:
            raise ValueError(
                f"pool {self.pool} does not fit a task of kind {self.kind}, where no head reads whole texts"
            )
        is_score = self.metric in ("pearson", "spearman")
        if self.metric != "auto" and is_score != self.scored:
            raise ValueError(
                f"metric {self.metric} does not fit a task that gives {'scores' if self.scored else 'labels'}"
            )
        return self

    @property
    def scored(self) -> bool:
        """The answer is a number: regression, and similarity without named labels."""
        return self.kind == "regression" or (self.kind == "similarity" and not (self.values or self.labels))

    @property
    def has_head(self) -> bool:
        """The answer comes from a head; plain texts and chats have none."""
        return self.kind not in ("text", "chat")

    @property
    def whole(self) -> bool:
        """A head reads whole texts, not each word."""
        return self.has_head and self.kind != "tokens"

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""
        return 1 if self.scored or self.kind == "choice" else len(self.labels)

    def scaled(self, score: float) -> float:
        """Return a score as a head learns it: 0 for the lowest, 1 for the highest."""
        low, high = self.scale or (0.0, 1.0)
        return (score - low) / (high - low)

    def in_scale(self, output: float) -> float:
        """Return what a head says in the task's own scale."""
        low, high = self.scale or (0.0, 1.0)
        return low + output * (high - low)


def read_spec(path: Path, *, data: Path | None = None, overrides: Mapping[str, Any] | None = None) -> TaskSpec:
    """Read a TASK.toml.

    Args:
        path: of the file.
        data: in the place of the TOML's own folder, where ``data.folder`` lies.
        overrides: tables over the file's.

    Raises:
        UsageError: the file is missing or no TOML.
        ConfigError: a key is unknown, missing or has a wrong value; names file and key.
    """
    table = merge({"name": path.stem}, read_toml(path), overrides or {})
    try:
        spec = resolve(TaskSpec, table)
    except ConfigError as error:
        raise ConfigError(
            error.problem,
            where=f"{path}: {error.where}" if error.where else path,
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from error
    base = path.parent if data is None else data
    files = spec.data.model_copy(update={"folder": str(base / spec.data.folder)})
    return spec.model_copy(update={"data": files})
