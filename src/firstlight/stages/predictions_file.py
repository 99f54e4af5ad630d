"""Predictions in a file of JSON lines that can be continued, and ``FILE.meta.json``: what they were made from."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from firstlight import progress
from firstlight.errors import UsageError
from firstlight.files import check_output, is_stream, storage_errors, write_atomic
from firstlight.files.output import STDOUT, open_stream
from firstlight.finetuning import Example
from firstlight.runs.directory import read_json_object

META_SUFFIX = ".meta.json"


class PredictionsFile:
    """A file with one line of JSON for each row of the input, in order.

    A file that was made from the same model, task, settings and input is continued after its last whole line. Any other
    file is replaced only with ``overwrite``. Pipes and devices are written through, and have no metadata.

    Args:
        path: the file.
        made_from: what determines the predictions; compared with the metadata of a file that exists.
        overwrite: start again if the file exists.

    Raises:
        UsageError: the file exists, and was not made from the same.
    """

    def __init__(self, path: Path, made_from: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path, self._overwrite = path, overwrite
        self._meta_file = path.with_name(path.name + META_SUFFIX)
        self._made_from = dict(made_from)
        self._stream: BinaryIO | None = None
        if is_stream(path):
            self._stream = open_stream(path)
        elif not overwrite:
            self._check_origin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None and self.path != STDOUT:
            self._stream.close()

    def remaining(self, rows: Iterator[Example], chunk_rows: int) -> Iterator[Example]:
        """Return the rows that have no line yet; an incomplete line is removed from the end of the file.

        So that the file has the same bytes as an uninterrupted one, the rows of the last chunk come again unless it is
        complete: how rows are batched changes the last digits of their predictions.

        Args:
            rows: all rows of the input.
            chunk_rows: rows that are predicted together.

        Raises:
            UsageError: a line is not the prediction for its row.
        """
        if self._stream is not None:
            return rows
        if self._overwrite or not self.path.exists():
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # In this order, a process that dies in between leaves no metadata with predictions of something else.
                self._meta_file.unlink(missing_ok=True)
                self.path.write_bytes(b"")
            write_atomic(self._meta_file, json.dumps(self._made_from, ensure_ascii=False, indent=1) + "\n")
            return rows
        n = end = chunk_end = 0
        chunk: list[Example] = []
        with storage_errors(self.path), self.path.open("r+b") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                row = next(rows, None)
                self._check_line(line, row, n + 1)
                assert row is not None, "checked with its line"
                if len(chunk) == chunk_rows:
                    chunk, chunk_end = [], end
                chunk.append(row)
                n, end = n + 1, end + len(line)
            following = next(rows, None)
            if following is None or len(chunk) == chunk_rows:
                chunk, chunk_end = [], end
            lines.truncate(chunk_end)
        if n := n - len(chunk):
            progress.notice(f"{self.path} contains {n:,} rows already: continuing after them")
        return itertools.chain(chunk, () if following is None else (following,), rows)

    def append(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines of some rows; afterwards they are on the disk, or with the reader of a pipe."""
        data = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results).encode("utf-8")
        if self._stream is not None:
            with storage_errors(self.path):
                self._stream.write(data)
                self._stream.flush()
            return
        with storage_errors(self.path), self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _check_origin(self) -> None:
        """Refuse a file that exists and was not made from the same."""
        if not self._meta_file.exists():
            check_output(self.path)
            return
        meta = read_json_object(self._meta_file)
        changed = [name for name, value in self._made_from.items() if value is None or meta.get(name) != value]
        if changed or meta.keys() != self._made_from.keys():
            raise UsageError(
                "already exists, and was made from something else",
                where=self.path if self.path.exists() else self._meta_file,
                found=f"another {', another '.join(changed)}" if changed else None,
                fix="Choose another --out, or add --overwrite to replace it.",
            )

    def _check_line(self, line: bytes, row: Example | None, number: int) -> None:
        try:
            found = json.loads(line)
            where = found["where"] if len(found) > 1 else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            where = None
        # Folders are left out: the same file may have been named relative to another one.
        if row is None or not isinstance(where, str) or Path(where).name != Path(row.where).name:
            raise UsageError(
                "is not the prediction for its row",
                where=f"{self.path}:{number}",
                found=line[:60].decode("utf-8", "replace").strip(),
                expected="no such line" if row is None else f"a line for {row.where}",
                fix="Choose another --out, or add --overwrite to start again.",
            )
