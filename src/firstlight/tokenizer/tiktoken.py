"""Read a ``.tiktoken`` file: byte strings in base 64, each with its rank, which is its id."""

import base64
from pathlib import Path

from tokenizers import Tokenizer as Inner
from tokenizers import models

from firstlight.errors import TokenizerError
from firstlight.tokenizer.bpe import byte_level
from firstlight.tokenizer.merges import last_merge
from firstlight.tokenizer.tokenizer_json import byte_characters

_END = "<|endoftext|>"

# What the file leaves out, by the beginning of its name: split pattern, and id of end-of-text.
_ENCODINGS = {
    "cl100k": ("llama3", 100_257),
    "o200k": ("gpt4o", 199_999),
    "r50k": ("gpt2", 50_256),
    "p50k": ("gpt2", 50_256),
    "gpt2": ("gpt2", 50_256),
}


def read_tiktoken(path: Path) -> Inner:
    """Return the tokenizer of a published ``.tiktoken`` file, with the ids that tiktoken gives.

    Raises:
        TokenizerError: a line is damaged, a byte has no rank, or the file's name is not one of those published.
    """
    known = next((facts for start, facts in _ENCODINGS.items() if path.name.startswith(start)), None)
    if known is None:
        raise TokenizerError(
            "has a name that tells no split pattern",
            where=path,
            expected=f"a name that begins with {', '.join(_ENCODINGS)}",
        )
    pattern, eot_id = known
    ranks = _ranks(path)
    if eot_id in ranks.values():
        raise TokenizerError("gives the id of end-of-text to a text", where=path, found=f"rank {eot_id}")
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pair = last_merge(token, rank, ranks)
        if pair is not None:
            merges.append((_written(pair[0]), _written(pair[1])))
    vocabulary = {_written(token): rank for token, rank in ranks.items()} | {_END: eot_id}
    # A word that is a token is that token, whatever its merges: so does tiktoken.
    inner = byte_level(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True), pattern)
    inner.add_special_tokens([_END])
    return inner


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            shown = line[:40].decode("ascii", "backslashreplace")
            raise TokenizerError("is no line of a tiktoken file", where=f"{path}:{number}", found=shown) from error
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise TokenizerError(
            "is cut short: it has no token for some bytes", where=path, found=f"{len(missing)} missing"
        )
    return ranks


def _written(data: bytes) -> str:
    return "".join(byte_characters()[b] for b in data)
