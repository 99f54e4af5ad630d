"""Texts in folders that are named after their labels."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import CorpusError
from firstlight.finetuning.spec import Files


def folders(path: Path, files: Files) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a text a file, with the name of its folder as its label.

    Args:
        path: a folder, or a zip of one.
        files: how the texts are written.

    Raises:
        CorpusError: the zip is damaged, a text has other bytes than the encoding, or texts lie at several depths.
    """
    if path.is_dir():
        inside = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        for name in _labelled(inside, path):
            yield _of_folder(f"{path}/{name}", name, (path / name).read_bytes(), files)
        return
    try:
        with zipfile.ZipFile(path) as packed:
            inside = sorted(info.filename for info in packed.infolist() if not info.is_dir())
            for name in _labelled(inside, path):
                yield _of_folder(f"{path}!{name}", name, packed.read(name), files)
    except (OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"is no readable zip file: {error}", where=path) from error


def _labelled(names: list[str], path: Path) -> list[str]:
    """Leave out hidden files, and those beside the folders that are labels, such as a README.

    Raises:
        CorpusError: a folder of texts lies higher than others, so that its texts would be left out with the READMEs.
    """
    seen = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    deepest = max((name.count("/") for name in seen), default=0)
    texts = [name for name in seen if name.count("/") == deepest and deepest > 0]
    above = {"/".join(name.split("/")[:depth]) for name in texts for depth in range(deepest)}
    for name in seen:
        folder = name.rpartition("/")[0]
        if name.count("/") < deepest and folder not in above:
            raise CorpusError(
                "lies higher than the texts of other labels",
                where=f"{path}: {name}",
                expected=f"a path like {texts[0]}",
                fix="Put every label's texts into one folder, all at the same depth.",
            )
    return texts


def _of_folder(where: str, name: str, data: bytes, files: Files) -> tuple[str, dict[str, str]]:
    try:
        text = data.decode(files.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"is not {files.encoding}",
            where=where,
            found=data[error.start : error.start + 4].hex(" "),
            fix="Set data.encoding.",
        ) from error
    return where, {"text": text, "label": name.split("/")[-2] if "/" in name else ""}
