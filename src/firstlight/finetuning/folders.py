"""Reader of a folder per label, with a file per text."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import CorpusError
from firstlight.finetuning.spec import DataFiles


def read_folders(path: Path, files: DataFiles) -> Iterator[tuple[str, dict[str, str]]]:
    """Read every file as a text, with the name of its folder as its label.

    Args:
        path: a folder, or a zip of one.
        files: with the encoding of the texts.

    Raises:
        CorpusError: the zip is damaged, a text does not have the encoding, or texts are at several depths.
    """
    if path.is_dir():
        inside = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        for name in _texts_of_labels(inside, path):
            yield _read_text(f"{path}/{name}", name, (path / name).read_bytes(), files)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sorted(info.filename for info in archive.infolist() if not info.is_dir())
            for name in _texts_of_labels(inside, path):
                yield _read_text(f"{path}!{name}", name, archive.read(name), files)
    except (OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"cannot be read as a zip file: {error}", where=path) from error


def _texts_of_labels(names: list[str], path: Path) -> list[str]:
    """Leave out hidden files, and those next to the label folders, such as a README.

    Raises:
        CorpusError: some texts are at a lower depth than others, and would be left out as if they were READMEs.
    """
    seen = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    deepest = max((name.count("/") for name in seen), default=0)
    texts = [name for name in seen if name.count("/") == deepest and deepest > 0]
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
    return texts


def _read_text(where: str, name: str, data: bytes, files: DataFiles) -> tuple[str, dict[str, str]]:
    try:
        text = data.decode(files.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"is not valid {files.encoding}",
            where=where,
            found=data[error.start : error.start + 4].hex(" "),
            fix="Set data.encoding.",
        ) from error
    return where, {"text": text, "label": name.split("/")[-2] if "/" in name else ""}
