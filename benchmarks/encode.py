"""Compare encoding of one text by Firstlight, tokenizers and tiktoken: MB/s, with equal token ids.

python benchmarks/encode.py TEXT FOLDER ROUNDS
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import tokenizer
from firstlight.tokenizer import TokenizerSettings
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.types import Document


def _firstlight(folder: Path, pieces: list[str]) -> Callable[[], Any]:
    loaded = tokenizer.load(folder)
    return lambda: loaded.encode_batch(pieces)[0]


def _tokenizers(folder: Path, pieces: list[str]) -> Callable[[], Any]:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda: [i for e in loaded.encode_batch_fast(pieces) for i in e.ids]


def _tiktoken(trained: tokenizer.Tokenizer, pattern: str, pieces: list[str]) -> Callable[[], Any]:
    import tiktoken

    ranks = {trained.decode_bytes([i]): i for i in range(trained.vocab_size) if i != trained.eot_id}
    loaded = tiktoken.Encoding("bench", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    return lambda: [i for ids in loaded.encode_ordinary_batch(pieces, num_threads=2) for i in ids]


def main() -> None:
    """Train a BPE tokenizer on the text, then measure each system in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text file; its first 64 million characters are used")
    parser.add_argument("folder", type=Path, help="folder for the tokenizer")
    parser.add_argument("rounds", type=int, help="repetitions of each measurement")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")[: 64 << 20]
    pieces = [text[i : i + 5000] for i in range(0, len(text), 5000)]
    settings = TokenizerSettings(vocab_size=16_384)
    began = time.perf_counter()
    trained = tokenizer.train([Document(p, "text") for p in pieces], settings)
    size = len(text.encode("utf-8")) / 1e6
    training = size / (time.perf_counter() - began)
    trained.save(args.folder)
    # Loaded again for each round, since all three cache the words that they have seen.
    systems: dict[str, Callable[[], Callable[[], Any]]] = {"Firstlight": lambda: _firstlight(args.folder, pieces)}
    try:
        import tiktoken  # noqa: F401

        systems["tiktoken"] = lambda: _tiktoken(trained, settings.pattern, pieces)
    except ImportError:
        print("skipped: tiktoken, which is not installed", file=sys.stderr)
    systems["tokenizers"] = lambda: _tokenizers(args.folder, pieces)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    ids = {}
    for _ in range(args.rounds):
        for name, load in systems.items():
            encode = load()
            began = time.perf_counter()
            ids[name] = encode()
            seconds[name].append(time.perf_counter() - began)
    ours = seconds["Firstlight"]
    answer: dict[str, Any] = {"BPE training of 16,384 tokens, MB/s": round(training, 1)}
    for name, taken in seconds.items():
        answer[f"{name}, MB/s"] = round(size / statistics.median(taken), 1)
        if name != "Firstlight":
            ratios = [b / a for a, b in zip(ours, taken, strict=True)]
            answer[f"Firstlight over {name}"] = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
            answer[f"ids equal {name}'s"] = bool(np.array_equal(ids[name], ids["Firstlight"]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
