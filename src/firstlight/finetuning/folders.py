"""Reader of a folder per label, with a file per text."""

import io
from collections.abc import Iterator
from pathlib import Path

from firstlight import progress
from firstlight.errors import CorpusError
from firstlight.files.compression import inner_suffix
from firstlight.files.file_types import ARROW_FIX
from firstlight.files.folders import Listing, list_folder
from firstlight.files.limits import read_bounded
from firstlight.files.text_lines import iter_text
from firstlight.files.zips import open_zip
from firstlight.finetuning.spec import DataFiles

_MAX_NAMED = 3
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".jsonlines", ".parquet")


def read_folders(path: Path, files: DataFiles) -> Iterator[tuple[str, dict[str, str]]]:
    """Read every file as a text, with the name of its folder as its label.

    Args:
        path: a folder, or a zip of one.
        files: with the encoding of the texts.

    Raises:
        CorpusError: the zip is damaged or expands too far, a text does not have the encoding, or texts are at several
            depths.
    """
    if path.is_dir():
        inside = [p.relative_to(path).as_posix() for p in list_inside(path, files)]
        for name in _texts_of_labels(inside, path):
            yield _read_text(f"{path}/{name}", name, read_bounded(path / name, limits=files.read_limits), files)
        return
    with open_zip(path, limits=files.read_limits) as archive:
        if archive.links:
            shown = ", ".join(archive.links[:_MAX_NAMED]) + (", …" if len(archive.links) > _MAX_NAMED else "")
            progress.warn(f"{path}: symbolic links in a zip file are not followed: {shown}")
        if archive.unknown_names:
            shown = ", ".join(archive.unknown_names[:_MAX_NAMED])
            progress.warn(f"{path}: names, and so labels, are not in UTF-8 ({shown}): unpack it, and name the folder")
        for name in _texts_of_labels(sorted(archive.names), path):
            yield _read_text(f"{path}!{name}", name, archive.read(name), files)


def list_inside(folder: Path, files: DataFiles) -> list[Path]:
    """List the files of a folder; notices say what is skipped, and name the links that are left out."""
    found = list_folder(folder, follow_symlinks=files.follow_symlinks, skip=files.skip)
    notify(folder, found, labelled=True)
    return found.files


def notify(name: Path, found: Listing, *, labelled: bool = False) -> None:
    """Say what is skipped and left out of a folder, or of what a pattern matches."""
    skipped = found.describe_skipped("data.skip = false")
    if skipped:
        progress.notice(f"{name}: {skipped}")
    for remark in found.remarks("data.follow_symlinks = true", labelled=labelled):
        progress.warn(f"{name}: {remark}")


def _texts_of_labels(names: list[str], path: Path) -> list[str]:
    """Leave out hidden files, and those next to the label folders, such as a README.

    Raises:
        CorpusError: a text is a table, of whose rows one text would be made; or some texts are at a lower depth than
            others, and would be left out as if they were READMEs.
    """
    seen = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    deepest = max((name.count("/") for name in seen), default=0)
    texts = [name for name in seen if name.count("/") == deepest and deepest > 0]
    table = next((name for name in texts or seen if inner_suffix(Path(name)) in _TABLES), None)
    if any(name.endswith(".arrow") for name in seen):
        raise CorpusError("is a data set that the library datasets saved", where=path, fix=f"{ARROW_FIX}.")
    if table is not None:
        raise CorpusError(
            "is a table, not the text of one row",
            where=f"{path}: {table}",
            expected="a folder per label with a file per text",
            fix=f"Name the tables themselves in the task{'' if path.is_dir() else ', unpacked'}.",
        )
    above = {"/".join(name.split("/")[:depth]) for name in texts for depth in range(deepest)}
    for name in seen:
        folder = name.rpartition("/")[0]
        if name.count("/") < deepest and folder not in above:
            raise CorpusError(
                "is not as deep as the texts of other labels",
                where=f"{path}: {name}",
                expected=f"a path like {texts[0]}",
                fix="Put the texts of each label into one folder, all at the same depth.",
            )
    if texts and len(texts) < len(seen):
        others = [name for name in seen if name.count("/") < deepest]
        shown = ", ".join(others[:_MAX_NAMED]) + (", …" if len(others) > _MAX_NAMED else "")
        progress.notice(f"{path}: left out, since not in the folder of a label: {shown}")
    return texts


def _read_text(where: str, name: str, data: bytes, files: DataFiles) -> tuple[str, dict[str, str]]:
    text = "".join(iter_text(io.BytesIO(data), Path(where), files.decoding(where)))
    return where, {"text": text, "label": name.split("/")[-2] if "/" in name else ""}
