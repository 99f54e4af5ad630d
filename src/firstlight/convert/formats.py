"""The formats that models are exported to and imported from: two tables, and what an entry declares.

To add a format, write one module that defines an ``EXPORTER`` or an ``IMPORTER``, and add one line to the table here.
A format of another package needs no line: it is named ``package.module:NAME`` on the command line.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight import progress
from firstlight.config import load_object, trust_references
from firstlight.convert.errors import missing_library, wrap_errors
from firstlight.errors import CheckpointError, MissingExtra, UsageError
from firstlight.files import (
    apply_umask,
    atomic_directory,
    check_output,
    is_stream,
    output_temporary,
    publish_file,
    read_json_object,
    storage_errors,
)
from firstlight.shell import is_installed

if TYPE_CHECKING:
    from firstlight.convert.imported_model import ImportedModel
    from firstlight.lm import LM


_MAX_LISTED = 4
# Classes of transformers with another head than that of the language model, or with one besides it.
_HEAD = re.compile(r"For(?!CausalLM)\w+|DoubleHeads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A format that models are exported to.

    Attributes:
        title: name of the format in messages.
        write: ``write(lm, path, dtype)`` writes the model to ``path`` and returns the paths of the files by a short
            description. It raises UsageError where the format cannot hold the model. It writes to a temporary folder,
            whose files are moved to their final place together when it has returned: ``path`` is a new file in that
            folder, next to which it may write others, or the folder itself if ``is_folder``.
        dtypes: data types of the weights that the user can choose from, the default first.
        extra: extra of this package with the libraries that ``write`` imports, if any.
        modules: the modules of that extra that ``write`` imports, which are looked for before the model is loaded.
        suffix: suffix that the file's name must have, if any.
        is_folder: whether the format is a folder of files.
        name_in_folder: name of the file if the user specifies a folder: a path without a suffix.
        any_architecture: whether ``write`` also supports models that no transformers class can express: those with
            other positions, norms or MLPs than their family's.
        holds_heads: whether ``write`` writes the heads of fine-tuned tasks; models with heads are refused otherwise.
        holds_codec: whether it writes the codec of ids that are not text; a notice says so otherwise.
    """

    title: str
    write: "Callable[[LM, Path, str | None], Mapping[str, Path]]"
    dtypes: tuple[str, ...] = ()
    extra: str | None = None
    modules: tuple[str, ...] = ()
    suffix: str | None = None
    is_folder: bool = False
    name_in_folder: str | None = None
    any_architecture: bool = False
    holds_heads: bool = False
    holds_codec: bool = False

    def check(self, out: Path, dtype: str | None = None, *, overwrite: bool = False) -> None:
        """Check the arguments of ``export``, before the model is loaded.

        A folder that is not empty is never replaced, since it may hold files of the user.

        Raises:
            UsageError: the path is in use or has the wrong suffix, or the format does not have the data type.
            MissingExtra: a library that writes the format is not installed.
        """
        if self.extra is not None and not all(map(is_installed, self.modules)):
            raise MissingExtra(f"writing {self.title}", self.extra)
        if dtype is not None and dtype not in self.dtypes:
            expected = ", ".join(self.dtypes) or "no data type, since it has only one"
            raise UsageError(f"unsupported data type for {self.title}", where="--dtype", found=dtype, expected=expected)
        if self.suffix is not None and out.suffix != self.suffix and not is_stream(out):
            raise UsageError(
                f"wrong suffix for {self.title}", where=out, found=out.suffix or "none", expected=self.suffix
            )
        if not self._to_folder(out):
            check_output(out, overwrite=overwrite)
        elif is_stream(out) or out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError("already exists", where=out, expected="a new or empty folder", fix="Choose another name.")

    def export(
        self,
        lm: "LM",
        out: Path,
        dtype: str | None = None,
        *,
        overwrite: bool = False,
        without_head: bool = False,
    ) -> dict[str, str]:
        """Write a model; after an error nothing is left.

        Args:
            lm: the model.
            out: as for ``check``.
            dtype: as for ``check``.
            overwrite: whether existing files are replaced.
            without_head: export only the language model of a model with heads of fine-tuned tasks.

        Returns:
            The paths of the files, by a short description.

        Raises:
            UsageError: see ``check``, or the format cannot hold this model.
            MissingExtra: a library that writes the format is not installed.
            StorageError: the disk is full or read-only.
        """
        from firstlight.model import hf_mismatch  # loads torch, which a list of the formats does not need

        self.check(out, dtype, overwrite=overwrite)
        if not self.any_architecture and (mismatch := hf_mismatch(lm.config)) is not None:
            raise UsageError(f"{self.title} does not support {mismatch}", where=lm.source)
        lm = self._check_heads(lm, without_head)
        if lm.codec is not None and not self.holds_codec:
            progress.notice(f"{self.title} has no place for {lm.codec.FILE}, which says what the ids mean: keep it")
        dtype = dtype or next(iter(self.dtypes), None)
        with _written_together(out, folder=self._to_folder(out), overwrite=overwrite) as folder:
            name = self.name_in_folder if self._to_folder(out) else out.name
            try:
                files = self.write(lm, folder if self.is_folder else folder / (name or out.name), dtype)
            except ImportError as error:
                raise missing_library(f"writing {self.title}", self.extra, error) from error
        final = out if self._to_folder(out) else out.parent
        return {description: str(final / file.relative_to(folder)) for description, file in files.items()}

    def _check_heads(self, lm: "LM", without_head: bool) -> "LM":
        """Return the model to write: without a head that it may lose, or with those that the format has a place for."""
        heads = describe_heads(lm)
        if heads is None:
            if without_head:
                raise UsageError("the model has no head", where="--without-head", found=lm.source, fix="Leave it out.")
            return lm
        if without_head:
            progress.notice(
                f"only the language model is exported, without {heads}; its tokenizer is that of the fine-tuned model"
            )
            return lm.without_heads()
        if self.holds_heads and lm.model.heads:
            return lm
        raise UsageError(
            f"an export to {self.title} would lose {heads}",
            where=lm.source,
            fix="Add --without-head to export the language model alone.",
        )

    def _to_folder(self, out: Path) -> bool:
        return self.is_folder or self.name_in_folder is not None and not out.suffix and not is_stream(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A format that models are imported from.

    Attributes:
        title: name of the format in messages.
        recognizes: whether a path, a file or a folder, is of this format: by the file's first bytes or the files in
            the folder, not by a file's own name.
        read: reads a model from such a path. It raises CheckpointError where the file is damaged or not supported; so
            does any other exception of it.
        extra: extra of this package with the libraries that ``read`` imports, if any.
    """

    title: str
    recognizes: Callable[[Path], bool]
    read: "Callable[[Path], ImportedModel]"
    extra: str | None = None

    def load(self, path: Path) -> "ImportedModel":
        """Read a model.

        Raises:
            CheckpointError: it is damaged, or uses a part of the format that is not supported.
            TokenizerError: its tokenizer is damaged.
            MissingExtra: a library that reads the format is not installed.
        """
        with wrap_errors(path, f"{self.title} model", self.extra):
            return self.read(path)


EXPORTERS: dict[str, str] = {
    "gguf": "firstlight.convert.gguf.write:EXPORTER",
    "hf": "firstlight.convert.huggingface:EXPORTER",
    "keras": "firstlight.convert.keras.write:EXPORTER",
    "megatron": "firstlight.convert.megatron:EXPORTER",
    "nanogpt": "firstlight.convert.nanogpt:EXPORTER",
    "onnx": "firstlight.convert.onnx:EXPORTER",
    "pt2": "firstlight.convert.pt2:EXPORTER",
}

# The first one that recognises a source reads it, so formats with a clear mark come first.
IMPORTERS: dict[str, str] = {
    "gguf": "firstlight.convert.gguf.read:IMPORTER",
    "llmc": "firstlight.convert.llmc:IMPORTER",
    "keras": "firstlight.convert.keras.read:IMPORTER",
    "openai-gpt1": "firstlight.convert.openai.gpt1:IMPORTER",
    "openai-gpt2": "firstlight.convert.openai.gpt2:IMPORTER",
    "megatron": "firstlight.convert.megatron:IMPORTER",
    "nanogpt": "firstlight.convert.nanogpt:IMPORTER",
    "llama2c": "firstlight.convert.llama2c:IMPORTER",
    "huggingface": "firstlight.convert.huggingface:IMPORTER",
}


def describe_heads(lm: "LM") -> str | None:
    """Describe the heads of a model that a program for language models would not have; None if there are none.

    A directory of another program may name a class with a head that is not loaded (``firstlight.lm`` reads its language
    model).
    """
    if names := list(lm.model.heads):
        listed = ", ".join(names[:_MAX_LISTED]) + (" …" if len(names) > _MAX_LISTED else "")
        return f"the head of the task {listed}" if len(names) == 1 else f"the heads of the tasks {listed}"
    if lm.source is None or not (lm.source / "config.json").is_file():
        return None
    try:
        named = read_json_object(lm.source / "config.json", CheckpointError).get("architectures")
    except CheckpointError:
        return None
    classes = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    found = next((name for name in classes if _HEAD.search(name)), None)
    return None if found is None else f"the head of a {found}"


def get_exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Args:
        name: in ``EXPORTERS``, or ``package.module:NAME``.

    Raises:
        UnknownName: there is no such format.
        ConfigError: the module cannot be loaded, or the name in it is not an Exporter.
    """
    trust_references(name)  # an argument, never read from a file
    exporter: Exporter = load_object(
        name, EXPORTERS, kind="export format", interface=_instance_of(Exporter), where="--to"
    )
    return exporter


def get_importer(name: str) -> Importer:
    """Return the importer of a format.

    Args:
        name: in ``IMPORTERS``, or ``package.module:NAME``.

    Raises:
        UnknownName: there is no such format.
        ConfigError: the module cannot be loaded, or the name in it is not an Importer.
    """
    trust_references(name)  # an argument, never read from a file
    importer: Importer = load_object(
        name, IMPORTERS, kind="import format", interface=_instance_of(Importer), where="--format"
    )
    return importer


def _instance_of(kind: type) -> Callable[[object], str | None]:
    def problem(value: object) -> str | None:
        return None if isinstance(value, kind) else f"not an instance of firstlight.convert.{kind.__name__}"

    return problem


@contextmanager
def _written_together(out: Path, *, folder: bool, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out``, or whose files are moved next to ``out``, on success."""
    if folder:
        with atomic_directory(out) as temporary:
            yield temporary
            _apply_umask(temporary)
        return
    with storage_errors(out):
        temporary = output_temporary(out)
        try:
            temporary.mkdir()
            yield temporary
            _apply_umask(temporary)
            files = sorted(temporary.iterdir(), key=lambda file: file.name == out.name)  # the model itself last
            if is_stream(out) and len(files) > 1:
                raise UsageError(
                    "cannot hold several files", where=out, found=", ".join(f.name for f in files), fix="Name a file."
                )
            for file in files:
                check_output(out.with_name(file.name), overwrite=overwrite)
            for file in files:
                publish_file(file, out.with_name(file.name), overwrite=overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _apply_umask(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            apply_umask(file)
