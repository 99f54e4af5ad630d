"""Raw records of a task's files, one by one, with the place where each stands."""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from firstlight.errors import CorpusError, MissingExtra, nearest
from firstlight.files.compression import inner_suffix, open_compressed
from firstlight.finetuning.folders import folders
from firstlight.finetuning.spec import Files

Record = tuple[str, Any]

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".zip": "folders",
}
_HUB = "hf:"
_HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # where a name says none
CUT = "cut off"  # what stands in the place of a last row that is


def resolve_names(files: Files, names: str | list[str], side: str) -> list[Path]:
    """Return the files that names mean.

    Args:
        files: of the task.
        names: as the TOML has them.
        side: train, valid or test: the split of a hub's set whose name says none.

    Raises:
        CorpusError: there is none; names the nearest.
    """
    found: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        if name.startswith(_HUB):
            found.append(Path(name if "@" in name else f"{name}@{_HUB_SPLITS[side]}"))
            continue
        path = Path(files.folder) / name
        # A pattern from the root of the disk is relative to that root.
        base = Path(path.anchor) if Path(name).is_absolute() else Path(files.folder)
        matches = [path] if path.exists() else sorted(base.glob(str(path.relative_to(base))))
        if not matches:
            folder = path.parent
            near = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else None
            raise CorpusError(
                "no such file",
                where=path,
                fix=f"Did you mean {folder / near}?" if near else "Name the folder of the data with --data.",
            )
        found += matches
    return found


def records(path: Path, files: Files) -> Iterator[Record]:
    """Yield every record: a table by column names, or a list of fields.

    Raises:
        CorpusError: a line cannot be read, or is none of this format.
    """
    if str(path).startswith(_HUB):
        yield from _hub(str(path))
        return
    kind = (
        files.format
        if files.format != "auto"
        else "folders"
        if path.is_dir()
        else _FORMATS.get(inner_suffix(path), "tsv")
    )
    if kind == "folders":
        yield from folders(path, files)
    elif kind == "parquet":
        yield from _parquet(path)
    elif kind in ("json", "jsonl"):
        with open_compressed(path) as file:
            yield from _json(path, file, files, kind)
    else:
        with open_compressed(path) as file:
            yield from _table(path, _lines(path, file, files), files, kind)


def _lines(path: Path, file: BinaryIO, files: Files) -> Iterator[str]:
    """Yield lines with their ends; a byte that the encoding does not have is named with its line."""
    if codecs.lookup(files.encoding).name.startswith(("utf-16", "utf-32")):
        yield from _wide_lines(path, file, files)
        return
    for number, raw in enumerate(cast(io.BufferedReader, file), start=1):
        try:
            line = raw.decode(files.encoding)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"is not {files.encoding}",
                where=f"{path}:{number}",
                found=raw[error.start : error.start + 4].hex(" "),
                fix='Set data.encoding, such as "latin-1" or "gb18030".',
            ) from error
        yield line.removeprefix("\ufeff") if number == 1 else line


def _wide_lines(path: Path, file: BinaryIO, files: Files) -> Iterator[str]:
    """Yield lines of an encoding where the byte of a line break may also be half of a letter."""
    text = io.TextIOWrapper(file, files.encoding, newline="\n")
    try:
        for number, line in enumerate(text):
            yield line if number else line.removeprefix("\ufeff")
    except UnicodeError as error:
        raise CorpusError(f"is not {files.encoding}: {error}", where=path, fix="Set data.encoding.") from error
    finally:
        text.detach()  # who opened the file closes it


def _table(path: Path, lines: Iterator[str], files: Files, kind: str) -> Iterator[Record]:
    header: list[str] | None = None
    held: tuple[str, list[str]] | None = None
    width = 0
    last = [""]
    for where, fields in _rows(path, _remembering(lines, last), files, kind):
        if fields == [CUT]:
            if held is not None:
                yield _record(held, header, width)
            yield where, CUT
            return
        if files.header and header is None:
            header, width = fields, len(fields)
            _refuse_twins(header, where)
            continue
        width = width or len(fields)
        if held is not None:
            yield _record(held, header, width)
        held = (where, fields)
    if held is not None:
        # Of the last row alone, fewer fields and no line end mean that the file was cut off there.
        short = len(held[1]) < width and not last[0].endswith("\n")
        yield (held[0], CUT) if short else _record(held, header, width)


def _remembering(lines: Iterator[str], last: list[str]) -> Iterator[str]:
    for line in lines:
        last[0] = line
        yield line


def _refuse_twins(header: list[str], where: str) -> None:
    twin = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
    if twin is not None:
        raise CorpusError("names two columns alike", where=where, found=twin, fix="Rename one of them.")


def _record(row: tuple[str, list[str]], header: list[str] | None, width: int) -> Record:
    where, fields = row
    if len(fields) != width:
        raise CorpusError(
            "has another number of fields than the rows before",
            where=where,
            found=len(fields),
            expected=width,
            fix="Set data.delimiter, data.quotes or data.fields, or mend that row.",
        )
    return where, fields if header is None else dict(zip(header, fields, strict=True))


def _rows(path: Path, lines: Iterator[str], files: Files, kind: str) -> Iterator[tuple[str, list[str]]]:
    delimiter = files.delimiter or ("," if kind == "csv" else "\t")
    if files.fields is not None:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", line.rstrip("\r\n").split(delimiter, files.fields - 1)
        return
    quotes = files.quotes if files.quotes is not None else kind == "csv"
    csv.field_size_limit(1 << 30)
    reader = csv.reader(
        lines, delimiter=delimiter, strict=quotes, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                if where != f"{path}:{reader.line_num}":
                    # All lines from here to the end were taken for one field: more likely a stray quote than a cut.
                    raise CorpusError(
                        "opens a quote that is never closed",
                        where=where,
                        fix="Close it, or set data.quotes = false; where the file is cut off, remove that row.",
                    ) from error
                yield where, [CUT]
                return
            raise CorpusError(
                f"is no readable row: {error}", where=where, fix="Mend that row, or set data.quotes = false."
            ) from error
        if row is None:
            return
        if row:
            yield where, row


def _json(path: Path, file: BinaryIO, files: Files, kind: str) -> Iterator[Record]:
    lines = _lines(path, file, files)
    if kind == "jsonl":
        yield from _expanded(_json_lines(path, lines), files)
        return
    first = next(lines, "")
    if files.format != "json" and not files.path and first.lstrip().startswith("{") and _is_whole(first):
        yield from _expanded(_json_lines(path, itertools.chain([first], lines)), files)
        return
    text = first + "".join(lines)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"is no JSON: {error}", where=path) from error
    value = at(value, files.path, str(path)) if files.path else value
    if not isinstance(value, list):
        raise CorpusError(
            "holds no list of records", where=path, found=type(value).__name__, fix="Name the list with data.path."
        )
    yield from _expanded(((f"{path}#{number}", record) for number, record in enumerate(value)), files)


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    number = 1
    line = next(lines, None)
    while line is not None:
        following = next(lines, None)
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                if following is None and not line.endswith("\n"):
                    yield f"{path}:{number}", CUT
                    return
                raise CorpusError(f"is no JSON: {error}", where=f"{path}:{number}") from error
        number, line = number + 1, following


def _expanded(found: Iterator[Record], files: Files) -> Iterator[Record]:
    """Make rows of the items of a list within each record; they see the record's own columns too."""
    if not files.each:
        yield from found
        return
    for where, record in found:
        items = at(record, files.each, where)
        if not isinstance(items, list):
            raise CorpusError("is no list", where=f"{where}: {files.each}", found=type(items).__name__)
        for number, item in enumerate(items):
            yield f"{where}.{number}", _Item(record, item)


class _Item:
    """A row within a record."""

    def __init__(self, record: Any, item: Any) -> None:
        self.record, self.item = record, item


def at(value: Any, path: str, where: str) -> Any:
    """Return what stands under keys and numbers with dots between.

    Raises:
        CorpusError: nothing does; names what is there.
    """
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.lstrip("-").isdigit() and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            there = (
                ", ".join(map(str, value))
                if isinstance(value, dict)
                else f"{len(value)} items"
                if isinstance(value, list)
                else repr(value)[:60]
            )  # noqa: E501
            raise CorpusError(f"has no {key!r}", where=where, found=there[:200])
    return value


def field(record: Any, column: int | str, where: str) -> Any:
    """Return a record's column.

    Raises:
        CorpusError: it has none; names those that it has, and the nearest.
    """
    if isinstance(record, _Item):
        if isinstance(column, str) and column.startswith("each."):
            return at(record.item, column.removeprefix("each."), where)
        return field(record.record, column, where)
    if isinstance(record, dict):
        if column in record:
            return record[column]
        if isinstance(column, str) and "." in column:
            return at(record, column, where)
        near = nearest(str(column), [str(k) for k in record])
        raise CorpusError(
            "has no such column",
            where=where,
            found=f"columns {', '.join(map(str, record))}"[:300],
            expected=column,
            fix=f"Did you mean {near!r}? Set it in [columns]." if near else "Set the right one in [columns].",
        )
    if not isinstance(record, list):
        raise CorpusError("is no record with columns", where=where, found=repr(record)[:60])
    number = int(column) if isinstance(column, int) or str(column).lstrip("-").isdigit() else None
    if number is None or not -len(record) <= number < len(record):
        raise CorpusError(
            "has no such column",
            where=where,
            found=f"{len(record)} fields, numbered from 0",
            expected=column,
            fix="Set the right number in [columns], or data.header = true where the first line names them.",
        )
    return record[number]


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("reading .parquet", "parquet") from error
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                yield f"{path}#{number}", record
                number += 1
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise CorpusError(f"is no readable parquet file: {error}", where=path) from error


def _hub(name: str) -> Iterator[Record]:
    body, _, split = name.removeprefix(_HUB).partition("@")
    dataset, _, config = body.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("a data set of the hub", "hub") from error
    try:
        rows = datasets.load_dataset(dataset, config or None, split=split or "train")
    except Exception as error:  # noqa: BLE001 - the library and its loaders raise errors of many kinds
        raise CorpusError(
            f"cannot be read: {error}", where=name, fix="Check the name, its config and split."
        ) from error
    for number, record in enumerate(rows):
        yield f"{name}#{number}", record
