"""Recognise files that are not text by their first bytes, and say what to do with each."""

import re
from pathlib import Path
from typing import NamedTuple

from firstlight.files.compression import COMPRESSED
from firstlight.shell import command_line, quote_argument, unused_path

HEAD_BYTES = 4096
_MIN_BYTES = 32
_MAX_CONTROLS = 0.1  # of the bytes of a text; tab, line breaks, form feed, backspace and escape do not count
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b")) + b"\x7f"


class FileType(NamedTuple):
    """A type of file that is not text.

    Attributes:
        name: with its article, such as "a PDF file".
        fix: what to do, in the imperative.
    """

    name: str
    fix: str


# Data sets that the library datasets saves are folders of them.
ARROW_FIX = (
    'Write it as Parquet, and name that file; in Python: datasets.load_from_disk("FOLDER").to_parquet("a.parquet")'
)
_RENAME = "Name it with its suffix: mv {path} {renamed}"
_UNPACK_ONE = "Unpack it: {tool} -dc {path} > {unpacked}"
_SHEET = "Save the sheet as CSV UTF-8, and name that file."
_TEXT = "Save it as plain text in UTF-8, and name that file."
_OFFICE = "Save it as plain text, or a sheet as CSV UTF-8, and name that file."
_UNPACK = "Unpack it, and name the folder."
_LFS = "Fetch the file that it stands for: git -C {folder} lfs pull --include={name}"
_NOT_TEXT = "Write its text as plain text, JSON lines or CSV in UTF-8, and name that file."

# First bytes, name, suffix, what to do. Sources: the formats' own specifications.
_MAGIC: tuple[tuple[bytes, str, str, str], ...] = (
    (rb"\x1f\x8b\x08", "a gzip file", ".gz", _RENAME),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", ".bz2", _RENAME),
    (rb"\xfd7zXZ\0", "an xz file", ".xz", _RENAME),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file", ".zst", _RENAME),
    (rb"PAR1[^ -~]", "a Parquet file", ".parquet", _RENAME),
    (rb"\x93NUMPY", "a NumPy array", ".npy", _RENAME),
    (rb"%PDF-\d", "a PDF file", "", "Extract its text: pdftotext {path} {text}"),
    (rb"\{\\rtf1", "a rich text (RTF) file", "", _TEXT),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.doc, .xls, .ppt)", "", _OFFICE),
    (rb"SQLite format 3\0", "an SQLite database", "", "Export the table as CSV, and name that file."),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP", "an image", "", _NOT_TEXT),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "", _NOT_TEXT),
    # A file, or a stream: its first message is the schema, whose table begins 16 bytes on.
    (rb"ARROW1\0\0|\xff{4}..\0\0\x10\0\0\0", "an Arrow file", "", ARROW_FIX),
    (rb"Obj\x01", "an Avro file", "", _NOT_TEXT),
    (rb"version https://git-lfs\.github\.com/spec/v1\n", "a Git LFS pointer", "", _LFS),
    (rb"GGUF[\x01-\x05]\0", "a GGUF model", "", "Import it as a model: {import_command}"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", "", _UNPACK),
    (rb"\x7fELF|MZ[^ -~]", "a program", "", _NOT_TEXT),
    (rb"OggS\0|ID3[\x02-\x04]|fLaC\0|RIFF....WAVE", "an audio file", "", _NOT_TEXT),
    # A pickle says its protocol, and in newer ones the size of the first frame.
    (rb"\x80[\x02-\x05](?:\x95.{8}|[\](}cXMKC)N\x8a\x8c])", "a pickle", "", _NOT_TEXT),
)
_TYPES = [(re.compile(magic, re.DOTALL), name, suffix, fix) for magic, name, suffix, fix in _MAGIC]
_ZIP = b"PK\x03\x04"
_ZIP_MEMBERS: tuple[tuple[bytes, str, str], ...] = (
    (b"word/", "a Word document", _TEXT),
    (b"xl/", "an Excel workbook", _SHEET),
    (b"ppt/", "a PowerPoint file", _TEXT),
    (b"mimetypeapplication/epub", "an EPUB book", "Unpack it, and name its HTML files."),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet", _SHEET),
    (b"mimetypeapplication/vnd.oasis", "an OpenDocument file", _TEXT),
    (b"[Content_Types].xml", "an Office file (.docx, .xlsx, .pptx)", _OFFICE),
    (b"/data.pkl", "a PyTorch file", _NOT_TEXT),
    (b".npy", "a NumPy archive", "Save its text as plain text, or its ids as .npy."),
)


def identify_binary(head: bytes, path: object) -> FileType | None:
    """Return the type of a file that is not text, by its first bytes; None for one that may be text.

    Args:
        head: the first ``HEAD_BYTES``, or the whole file where it is shorter.
        path: its name, for the commands that are advised.
    """
    for magic, name, suffix, fix in _TYPES:
        if magic.match(head):
            if suffix and Path(str(path)).suffix.lower() in COMPRESSED:
                fix = _UNPACK_ONE  # the file is in the compressed one
            return FileType(name, _fill(fix, path, suffix))
    if head.startswith(_ZIP):
        known = (FileType(name, fix) for member, name, fix in _ZIP_MEMBERS if member in head)
        return next(known, FileType("a zip archive", _UNPACK))
    if head[257:262] == b"ustar":
        return FileType("a tar archive", _UNPACK)
    n_controls = len(head) - len(head.translate(None, _CONTROLS))
    if len(head) >= _MIN_BYTES and n_controls > _MAX_CONTROLS * len(head):
        return FileType("binary data", _NOT_TEXT)
    return None


def _fill(fix: str, path: object, suffix: str) -> str:
    if "{" not in fix:
        return fix
    file = Path(str(path))
    text = file.with_suffix(".txt") if file.name else file
    names = {
        "path": file,
        "folder": file.parent,
        "name": file.name,
        "renamed": unused_path(Path(f"{file}{suffix}")),
        "unpacked": unused_path(file.with_name(f"unpacked-{file.stem}{suffix}")) if file.name else file,
        "text": unused_path(Path(f"{file}.txt") if text == file else text),
    }
    return fix.format(
        tool=COMPRESSED.get(file.suffix.lower(), ""),
        import_command=command_line("import", file, unused_path(Path("runs") / file.stem)),
        **{key: quote_argument(value) for key, value in names.items()},
    )
