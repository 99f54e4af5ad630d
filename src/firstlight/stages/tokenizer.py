"""``tokenizer``: train, import, show, compare tokenizers; encode and decode text."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress, tokenizer
from firstlight.config import Settings, parse_overrides, resolve
from firstlight.corpus import CorpusSettings, open_corpus, unused_by_readers
from firstlight.errors import FirstlightError, TokenizerError, UsageError
from firstlight.files import MANIFEST, check_output, run_layout
from firstlight.files.run_names import artifact_path
from firstlight.shell import command_line
from firstlight.stages.tokenizer_cache import CACHE_KEY, cache_key, load_cached, save_cached, train_on_corpus
from firstlight.tokenizer import (
    TextCoverage,
    Tokenizer,
    TokenizerSettings,
    VocabCoverage,
    is_byte_token,
    report_unknown,
    text_coverage,
    vocab_coverage,
)
from firstlight.types import Paths, UnknownText, as_list

_COUNTED_TOKENS, _CHUNK = 1 << 26, 1 << 22  # of a training text, and at once


class TokenizerTrainSettings(Settings):
    """Settings of ``tokenizer train``: the tables of a run that it uses."""

    corpus: CorpusSettings = CorpusSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()


class CompareSettings(Settings):
    """Settings of ``tokenizer compare``: how the text is read."""

    corpus: CorpusSettings = CorpusSettings()


@dataclass(frozen=True, slots=True)
class TokenizerSummary:
    """The properties of a tokenizer.

    Attributes:
        unk_id: of the token that is named so.
        has_unknown: there is text that it has no tokens for, which becomes the unknown token or is left out.
        lossless: decoding restores every text exactly.
        longest: the longest tokens, in bytes.
        tokens: by the characters in them.
        texts: how the characters of texts are divided into tokens: of the training text of a run or store, and of
            those that are named.
    """

    path: Path
    kind: str
    vocab_size: int
    eot: str
    eot_id: int
    unk_id: int | None
    has_unknown: bool
    lossless: bool
    hash: str
    longest: list[str]
    tokens: VocabCoverage
    texts: list[TextCoverage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """The ids of a text, the text of each id, and what is unknown in it."""

    ids: list[int]
    tokens: list[str]
    unknown: UnknownText = UnknownText()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"ids": self.ids, "tokens": self.tokens, **self.unknown.to_json(len(self.ids))}


@dataclass(frozen=True, slots=True)
class CompareResult:
    """How one tokenizer encodes a text, and what of it is unknown."""

    path: Path
    kind: str
    vocab_size: int
    tokens: int
    bytes_per_token: float
    characters_per_token: float
    unknown: UnknownText

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        table = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "unknown"}
        return table | self.unknown.to_json(self.tokens)


def train(
    corpus: Paths, *, out: str | Path, overrides: str | Sequence[str] = (), overwrite: bool = False
) -> TokenizerSummary:
    """Train a tokenizer on a corpus and save it.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the folder for tokenizer.json.
        overrides: ``key=value`` arguments of the tables ``tokenizer`` and ``corpus``.
        overwrite: whether files of another tokenizer in ``out`` are replaced.

    Raises:
        TokenizerError: too little text for the requested vocabulary.
        UsageError: ``out`` holds files of another tokenizer.
    """
    names = as_list(corpus)
    settings = resolve(
        TokenizerTrainSettings,
        parse_overrides(overrides),
        unused=lambda settings: unused_by_readers(names, settings.corpus),
    )
    if settings.tokenizer.path is not None:
        raise UsageError("a tokenizer is trained or loaded, not both", where="tokenizer.path", fix="Leave it out.")
    folder, opened = _folder(out, overwrite), open_corpus(names, settings.corpus)
    key = cache_key(settings.tokenizer, opened)
    trained = load_cached(folder, key)
    if trained is None:
        trained = train_on_corpus(opened, settings.tokenizer, settings.corpus.on_bad_bytes)
        if not overwrite:
            _check_same(folder, trained)
        save_cached(folder, trained, key)
    return _summarize(trained, folder)


def import_(source: str | Path, *, out: str | Path, overwrite: bool = False) -> TokenizerSummary:
    """Import the files of a published tokenizer as tokenizer.json.

    Args:
        source: the file or folder.
        out: the folder for tokenizer.json.
        overwrite: whether files of another tokenizer in ``out`` are replaced.

    Raises:
        TokenizerError: an unrecognised format, or a damaged file.
        UsageError: ``out`` holds files of another tokenizer.
    """
    folder = _folder(out, overwrite)
    imported = tokenizer.import_tokenizer(_existing(source, fix="Check the path."))
    if not overwrite:
        _check_same(folder, imported)
    imported.save(folder)
    return _summarize(imported, folder)


def show(path: str | Path, text: Paths = (), *, overrides: str | Sequence[str] = ()) -> TokenizerSummary:
    """Summarize the tokenizer at ``path``, and how it divides the characters of texts into tokens.

    Args:
        path: a tokenizer.json, or a folder, run, store or model that has one; that of a run or store includes its
            training text.
        text: files, folders or named corpora.
        overrides: settings of how the texts are read, as ``corpus.encoding=gb18030``.
    """
    text = as_list(text)
    reading = _reading(text, overrides)
    found = _existing(path)
    loaded = tokenizer.load(found)
    texts = _trained_coverage(loaded, found) if not text else []
    for source in open_corpus(text, reading, separate=True).sources if text else ():
        counts, unknown = np.zeros(loaded.vocab_size, dtype=np.int64), UnknownText()
        for document in source.documents():
            encoded = loaded.encode_counted([str(document.content)])
            counts += np.bincount(encoded.ids, minlength=loaded.vocab_size)
            unknown += encoded.unknown
        report_unknown(source.name, unknown, int(counts.sum()))
        texts.append(text_coverage(loaded, source.name, counts, unknown.count))
    return replace(_summarize(loaded, Path(path)), texts=texts)


def _trained_coverage(loaded: Tokenizer, path: Path) -> list[TextCoverage]:
    """Return the coverage of the training text of a run or store, of the start of a long one."""
    from firstlight.stages.unknown_text import split_unknown  # loads torch, as the store does
    from firstlight.store import TokenStore

    folder = next((f for f in (path / run_layout.DATA, path) if (f / MANIFEST).is_file()), None)
    try:
        train = None if folder is None else TokenStore.open(folder, tokenizer_hash=loaded.hash).train
    except FirstlightError:  # a checkpoint has a manifest, too; a damaged store is the matter of data verify
        return []
    if train is None:
        return []
    n = min(train.n_tokens, _COUNTED_TOKENS)
    name = "training text" if n == train.n_tokens else f"first {n:,} tokens of the training text"
    unknown = split_unknown(train, loaded).count if n == train.n_tokens else 0
    counts = np.zeros(loaded.vocab_size, dtype=np.int64)
    for first in range(0, n, _CHUNK):
        counts += np.bincount(train.tokens[first : min(first + _CHUNK, n)], minlength=loaded.vocab_size)
    if n < train.n_tokens and loaded.unknown_id is not None:
        unknown = int(counts[loaded.unknown_id : loaded.unknown_id + 1].sum())
    return [text_coverage(loaded, name, counts, unknown)]


def _reading(text: Sequence[str], overrides: str | Sequence[str]) -> CorpusSettings:
    given = parse_overrides(overrides)
    return resolve(CompareSettings, given, unused=lambda settings: unused_by_readers(text, settings.corpus)).corpus


def encode(path: str | Path, text: str) -> EncodeResult:
    """Encode ``text``; text outside the vocabulary becomes the unknown token, or is left out, and is counted."""
    loaded = tokenizer.load(_existing(path))
    encoded = loaded.encode_counted([text])
    ids, unknown = encoded.ids.tolist(), encoded.unknown
    report_unknown("the text", unknown, len(ids))
    names = loaded.tokens()
    tokens = [names[i] if i == loaded.unknown_id or is_byte_token(names[i]) else loaded.decode([i]) for i in ids]
    return EncodeResult(ids, tokens, unknown)


def decode(path: str | Path, ids: Sequence[int]) -> str:
    """Decode ``ids`` to text.

    Raises:
        TokenizerError: an id outside the vocabulary.
    """
    return tokenizer.load(_existing(path)).decode(list(ids))


def compare(paths: Paths, text: Paths, *, overrides: str | Sequence[str] = ()) -> list[CompareResult]:
    """Encode the same text with several tokenizers.

    Args:
        paths: tokenizers.
        text: files, folders, globs or named corpora.
        overrides: settings of how the text is read, as ``corpus.encoding=gb18030``.
    """
    paths, text = as_list(paths), as_list(text)
    reading = _reading(text, overrides)
    loaded = [tokenizer.load(_existing(path)) for path in paths]
    tokens, unknown = [0] * len(loaded), [UnknownText()] * len(loaded)
    characters = n_bytes = 0
    corpus = open_corpus(text, reading)
    with progress.task("compare", sum(source.n_bytes for source in corpus.sources) or None, "B") as task:
        for document in corpus:
            content = str(document.content)
            size = len(content.encode("utf-8"))
            characters, n_bytes = characters + len(content), n_bytes + size
            for i, candidate in enumerate(loaded):
                encoded = candidate.encode_counted([content])
                tokens[i] += len(encoded.ids)
                unknown[i] += encoded.unknown
            task.advance(size)
    return [
        CompareResult(
            Path(path), one.kind, one.vocab_size, count, n_bytes / max(count, 1), characters / max(count, 1), missed
        )
        for path, one, count, missed in zip(paths, loaded, tokens, unknown, strict=True)
    ]


def _summarize(loaded: Tokenizer, path: Path) -> TokenizerSummary:
    lengths = loaded.byte_lengths()
    # Bytes that are no characters have no text to show.
    texts = (loaded.decode([int(i)]) for i in lengths.argsort()[::-1] if lengths[i] > 0)
    longest = list(islice((text for text in texts if "\ufffd" not in text), 8))
    return TokenizerSummary(
        path,
        loaded.kind,
        loaded.vocab_size,
        loaded.eot,
        loaded.eot_id,
        loaded.unk_id,
        loaded.has_unknown,
        loaded.lossless,
        loaded.hash,
        longest,
        vocab_coverage(loaded),
    )


def _existing(path: str | Path, *, fix: str | None = None) -> Path:
    found = artifact_path(path)
    if not found.exists():
        fix = fix or f"How to train one: {command_line('tokenizer', 'train', '--help')}"
        raise UsageError("no such file or folder", where=path, fix=fix)
    return found


def _folder(out: str | Path, overwrite: bool) -> Path:
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=folder, expected="a folder", fix="Choose another --out.")
    if not (folder / "tokenizer.json").is_file():  # otherwise the tokenizers are compared
        for name in ("tokenizer_config.json", CACHE_KEY):
            check_output(folder / name, overwrite=overwrite)
    return folder


def _check_same(folder: Path, new: Tokenizer) -> None:
    """Refuse to replace another tokenizer, on which stores and models may depend, or other settings of the same one."""
    if not (folder / "tokenizer.json").is_file():
        return
    try:
        existing = tokenizer.load(folder).hash
    except TokenizerError:
        existing = "damaged"
    if existing != new.hash:
        raise UsageError(
            "already has another tokenizer",
            where=folder,
            found=existing[:12],
            expected=new.hash[:12],
            fix="Choose another --out, or add --overwrite to replace it.",
        )
    with tempfile.TemporaryDirectory() as written:
        new.save(Path(written))
        for file in sorted(Path(written).iterdir()):
            if (folder / file.name).is_file() and (folder / file.name).read_bytes() != file.read_bytes():
                check_output(folder / file.name)
