"""Readers of a task's files: raw records one by one, each with its location."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from firstlight import progress
from firstlight.errors import CorpusError, MissingExtra, nearest
from firstlight.files.compression import inner_suffix, open_compressed
from firstlight.files.folders import list_glob
from firstlight.files.json_stream import JsonStream, parse_json
from firstlight.files.table_dialect import KeptQuotes, other_delimiter, read_sep_line, resolve_quotes, sniff_quotes
from firstlight.files.tables import (
    TRUNCATED,
    Truncated,
    check_header,
    check_width,
    iter_json_lines,
    iter_parquet,
    iter_rows,
)
from firstlight.files.text_lines import iter_lines, iter_text
from firstlight.finetuning.columns import ExplodedRow, follow
from firstlight.finetuning.conll import iter_sentences
from firstlight.finetuning.folders import notify, read_folders
from firstlight.finetuning.spec import FORMATS, DataFiles

# Where a record is, and the record: by column names or as a list of fields; TRUNCATED for a last one that is cut off.
Record = tuple[str, Any]

_HUB = "hf:"
_HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # by default
_FIX_ROW = "Fix that row, or set data.delimiter, data.quotes or data.max_fields."


def resolve_names(files: DataFiles, names: str | list[str], side: str) -> list[Path]:
    """Return the paths that names stand for.

    Args:
        files: of the task.
        names: as the TOML has them.
        side: train, valid or test: the split of a data set of the hub that names none.

    Raises:
        CorpusError: there is no such file; suggests the nearest name.
    """
    found: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        if name.startswith(_HUB):
            found.append(Path(name if "@" in name else f"{name}@{_HUB_SPLITS[side]}"))
            continue
        path = Path(files.folder) / name
        matches = [path] if path.exists() else _matches(path, files)
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


def _matches(pattern: Path, files: DataFiles) -> list[Path]:
    found = list_glob(pattern, follow_symlinks=files.follow_symlinks, skip=files.skip)
    notify(pattern, found)
    return found.files


def read_records(path: Path, files: DataFiles) -> Iterator[Record]:
    """Read every record of a file, folder or data set of the hub.

    Raises:
        CorpusError: a record cannot be read, or the file does not have this format.
    """
    if str(path).startswith(_HUB):
        yield from _explode(_read_hub(str(path)), files)
        return
    found, limits = _format_of(path, files), files.read_limits
    if files.explode and found in ("folders", "csv", "tsv", "conll"):
        raise CorpusError(
            "has no lists whose items could become rows",
            where=path,
            found=f"data.explode = {json.dumps(files.explode, ensure_ascii=False)}",
            expected="JSON or Parquet",
            fix="Remove data.explode, or set data.format.",
        )
    if found == "folders":
        yield from read_folders(path, files)
    elif found == "parquet":
        rows = iter_parquet(path, limits=limits)
        yield from _explode(((f"{path}#{number - 1}", record) for number, record in rows), files)
    else:
        is_json = found == "json" and not _is_json_lines(path, files)
        with open_compressed(path, limits=limits) as file:
            if found in ("csv", "tsv"):
                yield from _read_table(path, file, files, found)
            elif is_json:
                yield from _read_json(path, file, files)
            elif found == "conll":
                yield from iter_sentences(_read_lines(path, file, files), path)
            else:
                records = iter_json_lines(_read_lines(path, file, files), path, allow_truncated=True)
                yield from _explode(((f"{path}:{number}", record) for number, record in records), files)


def has_quoted_fields(path: Path, files: DataFiles) -> bool:
    """Whether a file is a table without a convention for quotes, and its first lines show that they enclose fields.

    Raises:
        CorpusError: a line cannot be decoded.
    """
    if str(path).startswith(_HUB) or files.max_fields is not None or _format_of(path, files) != "tsv":
        return False
    with open_compressed(path, limits=files.read_limits) as file:
        return sniff_quotes(_read_lines(path, file, files, quiet=True), files.delimiter or "\t")[0].quoting


def _format_of(path: Path, files: DataFiles) -> str:
    if files.format != "auto":
        return files.format
    return "folders" if path.is_dir() else FORMATS.get(inner_suffix(path), "tsv")


def _read_table(path: Path, file: BinaryIO, files: DataFiles, file_format: str) -> Iterator[Record]:
    """Read a delimited table; its last row is truncated where it has too few fields and no line break."""
    last_line = [""]
    named, lines = read_sep_line(_read_lines(path, file, files))
    delimiter = files.delimiter or named or ("," if file_format == "csv" else "\t")
    quoting, lines = files.quotes or False, _remember(lines, last_line)
    if files.max_fields is None:
        quotes = True if files.quotes is None and file_format == "csv" else files.quotes
        quoting, lines = resolve_quotes(
            lines, path, delimiter=delimiter, quotes=quotes, key="data", notify=progress.notice
        )
    rows = iter_rows(
        lines,
        path,
        delimiter=delimiter,
        quoting=quoting,
        max_fields=files.max_fields,
        limits=files.read_limits,
        allow_truncated=True,
        fix="Double the quotes within a field, or set data.quotes = false; where the file is cut off, remove that row.",
    )
    header: list[str] | None = None
    style, width = KeptQuotes(quoting=quoting), 0
    row, following = next(rows, None), next(rows, None)
    while row is not None:
        number, fields = row
        where = f"{path}:{number}"
        if isinstance(fields, Truncated):
            yield where, TRUNCATED
        elif files.header and header is None:
            check_header(fields, where)
            header = fields
            width = len(header)
        else:
            width = width or len(fields)
            if following is None and len(fields) < width and not last_line[0].endswith("\n"):
                yield where, TRUNCATED
                return
            check_width(fields, width, where, fix=_advise_width(header or fields, delimiter))
            if fields == header:
                progress.notice(f"{where}: left out, since it repeats the header")
            else:
                style.add(fields)
                yield where, fields if header is None else dict(zip(header, fields, strict=True))
        row, following = following, next(rows, None)
    remark = style.describe()
    if remark:
        progress.notice(f"{path}: {remark}")


def _advise_width(first: list[str], delimiter: str) -> str:
    """Say what to set where rows differ in width: the delimiter that a first row of one field seems to have."""
    other = other_delimiter(first, delimiter)
    if other is None:
        return _FIX_ROW
    return f"Set data.delimiter = {json.dumps(other, ensure_ascii=False)}, if that separates the columns."


def _remember(lines: Iterator[str], last: list[str]) -> Iterator[str]:
    for line in lines:
        last[0] = line
        yield line


def _read_lines(path: Path, file: BinaryIO, files: DataFiles, *, quiet: bool = False) -> Iterator[str]:
    return iter_lines(file, path, files.decoding(path, quiet=quiet), limits=files.read_limits)


def _is_json_lines(path: Path, files: DataFiles) -> bool:
    """Whether the first line of a .json file is a whole object, so that each line is one."""
    if files.format == "json" or files.field:
        return False
    try:
        with open_compressed(path, limits=files.read_limits) as file:
            first = next(_read_lines(path, file, files, quiet=True), "")
        return first.lstrip().startswith("{") and isinstance(parse_json(first, path), dict)
    except CorpusError:  # its reader reports what is wrong
        return False


def _read_json(path: Path, file: BinaryIO, files: DataFiles) -> Iterator[Record]:
    text = iter_text(file, path, files.decoding(path))
    records = enumerate(_listed(JsonStream(text, path, limits=files.read_limits), path, files))
    yield from _explode(((f"{path}#{number}", record) for number, record in records), files)


def _listed(stream: JsonStream, path: Path, files: DataFiles) -> Iterator[Any]:
    """Yield the records of a list, which is the whole file, or what ``data.field`` names in it."""
    if stream.peek() == "[" and not files.field:
        yield from stream.iter_items()
    else:
        value = stream.value()
        value = follow(value, files.field, str(path)) if files.field else value
        if not isinstance(value, list):
            raise CorpusError(
                "is not a list of records", where=path, found=type(value).__name__, fix="Name the list with data.field."
            )
        yield from value
    if stream.peek():
        raise CorpusError("is not valid JSON: it has data after its end", where=path)


def _explode(records: Iterator[Record], files: DataFiles) -> Iterator[Record]:
    """Make a row of each item of a list within each record; it has the columns of both."""
    if not files.explode:
        yield from records
        return
    for where, record in records:
        if record is TRUNCATED:
            yield where, record
            return
        items = follow(record, files.explode, where)
        if not isinstance(items, list):
            raise CorpusError("is not a list", where=f"{where}: {files.explode}", found=type(items).__name__)
        for number, item in enumerate(items):
            yield f"{where}.{number}", ExplodedRow(record, item)


def _read_hub(name: str) -> Iterator[Record]:
    rest, _, split = name.removeprefix(_HUB).partition("@")
    dataset, _, config = rest.partition(":")
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
