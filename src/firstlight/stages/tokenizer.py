"""``tokenizer``: train, import, show, encode, decode, compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight import progress, tokenizer
from firstlight.config import Settings, parse_overrides, resolve
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import CompatibilityError, TokenizerError, UsageError
from firstlight.stages.tokenizer_cache import cache_key, load_cached, save_cached, train_on_corpus
from firstlight.tokenizer import Tokenizer, TokenizerSettings


class TokenizerTrainSettings(Settings):
    """Settings of ``tokenizer train``: the tables of a run that it uses."""

    corpus: CorpusSettings = CorpusSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What a tokenizer is.

    Attributes:
        lossless: decoding gives back any text exactly.
        longest: the longest tokens, by bytes.
    """

    path: Path
    kind: str
    vocab_size: int
    eot: str
    eot_id: int
    unk_id: int | None
    lossless: bool
    hash: str
    longest: list[str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's ids, and the text that each stands for."""

    ids: list[int]
    tokens: list[str]


@dataclass(frozen=True, slots=True)
class Compared:
    """How one tokenizer cuts a text; ``unknown`` counts tokens that stand for text it does not know."""

    path: Path
    kind: str
    vocab_size: int
    tokens: int
    bytes_per_token: float
    characters_per_token: float
    unknown: int


def train(corpus: Sequence[str], *, out: str | Path, overrides: Sequence[str] = ()) -> TokenizerFacts:
    """Train a tokenizer on a corpus and save it.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the folder for tokenizer.json.
        overrides: ``key=value`` words of the tables ``tokenizer`` and ``corpus``.

    Raises:
        TokenizerError: too little text for the vocabulary asked for.
        CompatibilityError: ``out`` holds another tokenizer.
    """
    settings = resolve(TokenizerTrainSettings, parse_overrides(overrides))
    if settings.tokenizer.path is not None:
        raise UsageError("a tokenizer is trained or loaded, not both", where="tokenizer.path", fix="Leave it out.")
    folder, opened = _folder(out), open_corpus(list(corpus), settings.corpus)
    key = cache_key(settings.tokenizer, opened)
    made = load_cached(folder, key)
    if made is None:
        made = train_on_corpus(opened, settings.tokenizer)
        _refuse_another(folder, made)
        save_cached(folder, made, key)
    return _facts(made, folder)


def import_(source: str | Path, *, out: str | Path) -> TokenizerFacts:
    """Make tokenizer.json from GPT-1's or GPT-2's files, a ``.tiktoken`` file or another tokenizer.json.

    Raises:
        TokenizerError: the source is none of these, or damaged.
        CompatibilityError: ``out`` holds another tokenizer.
    """
    folder = _folder(out)
    made = tokenizer.import_tokenizer(_there(source, fix="Check the path."))
    _refuse_another(folder, made)
    made.save(folder)
    return _facts(made, folder)


def show(path: str | Path) -> TokenizerFacts:
    """Return what the tokenizer at ``path`` is: a tokenizer.json, or a folder, run, store or model that has one."""
    return _facts(tokenizer.load(_there(path)), Path(path))


def encode(path: str | Path, text: str) -> Encoded:
    """Return the ids of ``text`` and what each stands for; text that the tokenizer lacks is its unknown token."""
    loaded = tokenizer.load(_there(path))
    ids = loaded.encode(text)
    return Encoded(ids, [loaded.unk or "" if i == loaded.unk_id else loaded.decode([i]) for i in ids])


def decode(path: str | Path, ids: Sequence[int]) -> str:
    """Return the text of ``ids``.

    Raises:
        TokenizerError: an id lies outside the vocabulary.
    """
    return tokenizer.load(_there(path)).decode(list(ids))


def compare(paths: Sequence[str | Path], text: Sequence[str]) -> list[Compared]:
    """Cut the same text with several tokenizers.

    Args:
        paths: tokenizers.
        text: files, folders, globs or named corpora.
    """
    loaded = [tokenizer.load(_there(path)) for path in paths]
    tokens, unknown = [0] * len(loaded), [0] * len(loaded)
    characters = n_bytes = 0
    corpus = open_corpus(list(text), CorpusSettings())
    with progress.task("compare", sum(source.n_bytes for source in corpus.sources) or None, "B") as task:
        for document in corpus:
            content = str(document.content)
            size = len(content.encode("utf-8"))
            characters, n_bytes = characters + len(content), n_bytes + size
            for number, one in enumerate(loaded):
                ids, _ = one.encode_batch([content])
                tokens[number] += len(ids)
                unknown[number] += int((ids == one.unk_id).sum()) if one.unk_id is not None else 0
            task.advance(size)
    return [
        Compared(
            Path(path), one.kind, one.vocab_size, count, n_bytes / max(count, 1), characters / max(count, 1), missed
        )
        for path, one, count, missed in zip(paths, loaded, tokens, unknown, strict=True)
    ]


def _facts(made: Tokenizer, path: Path) -> TokenizerFacts:
    lengths = made.byte_lengths()
    longest = [made.decode([int(i)]) for i in lengths.argsort()[::-1][:8] if lengths[i] > 0]
    return TokenizerFacts(
        path, made.kind, made.vocab_size, made.eot, made.eot_id, made.unk_id, made.lossless, made.hash, longest
    )


def _there(path: str | Path, *, fix: str = "Make a tokenizer: firstlight tokenizer train") -> Path:
    if not Path(path).exists():
        raise UsageError("no such file or folder", where=path, fix=fix)
    return Path(path)


def _folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=folder, expected="a folder", fix="Choose another --out.")
    return folder


def _refuse_another(folder: Path, made: Tokenizer) -> None:
    """Leave a tokenizer alone that is not ``made``: stores and models may have been made with it."""
    if not (folder / "tokenizer.json").is_file():
        return
    try:
        before = tokenizer.load(folder).hash
    except TokenizerError:
        before = "damaged"
    if before != made.hash:
        raise CompatibilityError(
            "holds another tokenizer already",
            where=folder,
            found=before[:12],
            expected=made.hash[:12],
            fix="Choose another --out, or delete it.",
        )
