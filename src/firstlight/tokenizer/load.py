"""Load a tokenizer.json, and make one from what others publish: GPT-1, GPT-2, tiktoken, Hugging Face."""

import base64
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, byte_characters

_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
_UNKNOWNS = ("<unk>", "[UNK]")
_TIKTOKEN = {"cl100k": "llama3", "r50k": "gpt2", "p50k": "gpt2", "gpt2": "gpt2"}


def load(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder (a run's, a checkpoint's, a Hugging Face directory).

    Raises:
        TokenizerError: none is there, it is damaged, or it has no end-of-text token.
    """
    path = Path(path)
    candidates = [path] if path.is_file() else [path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None:
        raise TokenizerError("no tokenizer here", where=path, expected="tokenizer.json", fix="Make one: firstlight tokenizer train")
    try:
        inner = Inner.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise TokenizerError(f"is no readable tokenizer.json: {error}", where=file) from error
    return _named(inner, file)


def _named(inner: Inner, file: Path) -> Tokenizer:
    config = file.parent / "tokenizer_config.json"
    table: dict[str, Any] = {}
    if config.is_file():
        try:
            table = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TokenizerError(f"is no JSON: {error}", where=config) from error

    def content(key: str) -> list[str]:
        value = table.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return [value] if isinstance(value, str) else []

    vocabulary = inner.get_vocab(with_added_tokens=True)
    eot = next((t for t in [*content("eos_token"), *_ENDS] if t in vocabulary), None)
    unk = next((t for t in [*content("unk_token"), *_UNKNOWNS] if t in vocabulary), None)
    if eot is None:
        raise TokenizerError(
            "has no end-of-text token", where=file, expected=f"one of {', '.join(_ENDS)}",
            fix="Name one as eos_token in tokenizer_config.json, or import it: firstlight tokenizer import",
        )  # fmt: skip
    return Tokenizer(inner, eot=eot, unk=unk)


def import_tokenizer(source: str | Path) -> Tokenizer:
    """Make a tokenizer from GPT-1's or GPT-2's files, a ``.tiktoken`` file, or any tokenizer.json.

    A tokenizer.json without an end-of-text token is given ``<|endoftext|>`` at the end of its vocabulary.

    Raises:
        TokenizerError: the source is none of these, or damaged.
    """
    path = Path(source)
    try:
        if (path / "encoder_bpe_40000.json").is_file():
            return _gpt1(path)
        if (path / "encoder.json").is_file() and (path / "vocab.bpe").is_file():
            return _gpt2(path / "encoder.json", path / "vocab.bpe")
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return _gpt2(path / "vocab.json", path / "merges.txt")
        if path.suffix == ".tiktoken" and path.is_file():
            return _tiktoken(path)
    except (ValueError, KeyError, OSError) as error:
        raise TokenizerError(f"cannot be read: {error}", where=path) from error
    try:
        return load(path)
    except TokenizerError as error:
        if error.problem != "has no end-of-text token":
            raise
        inner = Inner.from_file(str(error.where))
        inner.add_special_tokens([END_OF_TEXT])
        progress.notice(f"{path} has no end-of-text token: {END_OF_TEXT} is added as id {inner.token_to_id(END_OF_TEXT)}")
        return _named(inner, Path(str(error.where)))


def _merges(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return [(a, b) for a, b in pairs]


def _gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    inner = Inner(models.BPE(vocab=json.loads(vocabulary.read_text(encoding="utf-8")), merges=_merges(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _gpt1(folder: Path) -> Tokenizer:
    """GPT-1: lower case, accents off, words and signs apart, ``</w>`` at the end of a word; no end-of-text of its own."""
    vocabulary = json.loads((folder / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    inner = Inner(
        models.BPE(
            vocab=vocabulary, merges=_merges(folder / "vocab_40000.bpe"), end_of_word_suffix="</w>", unk_token="<unk>"  # noqa: S106
        )
    )
    inner.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens(["<unk>"])
    inner.add_special_tokens([END_OF_TEXT])
    progress.notice(f"GPT-1 has no end-of-text token: {END_OF_TEXT} is added as id {inner.token_to_id(END_OF_TEXT)}")
    return Tokenizer(inner, eot=END_OF_TEXT, unk="<unk>")


def _tiktoken(path: Path) -> Tokenizer:
    """Read ranks of byte strings; the merges are found by undoing each token's last merge."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        token, _, rank = line.partition(" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise TokenizerError("is no line of a tiktoken file", where=f"{path}:{number}", found=line[:40]) from error
    pattern = next((p for start, p in _TIKTOKEN.items() if path.name.startswith(start)), None)
    if pattern is None:
        raise TokenizerError("has a name that tells no split pattern", where=path, expected=f"a name like {', '.join(_TIKTOKEN)}")
    table = byte_characters()

    def written(data: bytes) -> str:
        return "".join(table[b] for b in data)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _last_merge(token, rank, ranks)
            merges.append((written(left), written(right)))
    inner = Inner(models.BPE(vocab={written(t): r for t, r in ranks.items()}, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Merge a token's bytes by rank as an encoder would, until two parts are left."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        joined = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
        best, at = min(joined)
        if best >= rank:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) != 2:
        raise TokenizerError("a token is no merge of two others", found=repr(token))
    return parts[0], parts[1]
