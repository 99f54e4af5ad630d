"""Files, tokenizers and the store together: the ids of a streamed file are those of the whole, in bounded memory."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstlight import progress
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.store import DataSettings, TokenStore, prepare
from firstlight.tokenizer import PATTERNS, Tokenizer, TokenizerSettings, train
from firstlight.types import Document

PIECES = [
    *(
        "word",
        "Another",
        " and",
        " the",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "don't",
        "'LL",
        "12345",
        "7",
        ".",
        ",",
        "!?",
    ),
    *(
        "你好",
        "世界",
        "。",
        "，",
        "é",
        "e\u0301",
        "😀",
        "<|endoftext|>",
        "\u00a0",
        "_",
        "/",
        "x1y2",
        "\u200b",
        " (",
        ") ",
    ),
]


def _untidy(n: int) -> str:
    return "".join(random.Random(7).choices(PIECES, k=n))


def _ids(store: TokenStore) -> np.ndarray:
    return np.concatenate([store.train.tokens, store.valid.tokens]).astype(np.int64)


@pytest.mark.parametrize(
    "kind", [*(f"bpe {p}" for p in PATTERNS), pytest.param("word", marks=pytest.mark.slow), "char", "byte"]
)
def test_a_streamed_file_has_the_ids_of_its_text(tmp_path: Path, kind: str) -> None:
    text = _untidy(800_000)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert path.stat().st_size > 2 << 20
    name, _, pattern = kind.partition(" ")
    settings = TokenizerSettings.model_validate({"kind": name, **({"pattern": pattern} if pattern else {})})
    tokenizer = train([Document(text[:100_000], "a")], settings)
    warned: list[progress.Event] = []
    with progress.listen(warned.append):
        sources = open_corpus([str(path)], CorpusSettings(newlines="keep")).sources
        store = prepare(tmp_path / "s", sources, tokenizer, DataSettings(), seed=1)
    assert np.array_equal(_ids(store), [*tokenizer.encode(text), tokenizer.eot_id])
    assert not [event for event in warned if event.level == "warning"]
    if tokenizer.lossless:
        assert store.train.n_bytes + store.valid.n_bytes == len(text.encode())
        assert tokenizer.decode_bytes(_ids(store)) == text.encode()


def test_what_cannot_be_cut_is_streamed_all_the_same(tmp_path: Path) -> None:
    text = "".join(random.Random(3).choices("acgt", k=2_500_000))
    (tmp_path / "dna.txt").write_text(text)
    tokenizer = train([Document(text[:5_000], "dna")], TokenizerSettings(vocab_size=300))
    warned: list[progress.Event] = []
    with progress.listen(warned.append):
        store = prepare(
            tmp_path / "s", open_corpus([str(tmp_path / "dna.txt")]).sources, tokenizer, DataSettings(), seed=1
        )
    assert tokenizer.decode(_ids(store)) == text
    assert ["dna.txt" in event.text for event in warned if event.level == "warning"] == [True]


def test_lines_of_a_json_file_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"text of record {i} <|endoftext|>" for i in range(100)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    tokenizer = train([Document(t, "") for t in texts], TokenizerSettings())
    store = prepare(tmp_path / "s", open_corpus([str(path)]).sources, tokenizer, DataSettings(), seed=1)
    for split in (store.train, store.valid):
        for document in range(split.n_documents):
            ids = split.tokens[split.bounds[document] : split.bounds[document + 1]]
            line = int(split.document_name(document).rpartition(":")[2])
            assert ids[-1] == tokenizer.eot_id
            assert tokenizer.decode(ids) == texts[line - 1]


def test_chinese_is_cut_without_spaces(tmp_path: Path) -> None:
    lines = ["".join(random.Random(i).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=40)) for i in range(30_000)]
    text = "。\n".join(lines)
    (tmp_path / "zh.txt").write_text(text, encoding="utf-8")
    tokenizer = train([Document(text[:30_000], "zh")], TokenizerSettings(vocab_size=600))
    warned: list[progress.Event] = []
    with progress.listen(warned.append):
        store = prepare(
            tmp_path / "s", open_corpus([str(tmp_path / "zh.txt")]).sources, tokenizer, DataSettings(), seed=1
        )
    assert np.array_equal(_ids(store), [*tokenizer.encode(text), tokenizer.eot_id])
    assert not [event for event in warned if event.level == "warning"]


_MEASURED = """
import sys
from pathlib import Path
from firstlight import parallel, tokenizer
from firstlight.corpus import open_corpus
from firstlight.store import DataSettings, prepare
made = tokenizer.load(sys.argv[2])
if sys.argv[4] == "slow":
    made.__dict__["_fast"] = None
prepare(Path(sys.argv[3]), open_corpus([sys.argv[1]]).sources, made, DataSettings(), seed=1)
print(parallel.peak_memory(parallel.resolve_hardware(parallel.HardwareSettings(device="cpu"))))
"""


def _peak_mb(text: Path, tokenizer: Path, store: Path, how: str) -> float:
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, text, tokenizer, store, how], capture_output=True, text=True, check=True
    )
    return int(run.stdout) / 1e6


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text of some megabytes that looks like prose, and the folder of a tokenizer trained on it."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randrange(2, 9))) for _ in range(5000)]
    folder = tmp_path_factory.mktemp("english")
    (folder / "a.txt").write_text(". ".join(" ".join(source.choices(words, k=14)) for _ in range(60_000)))
    made: Tokenizer = train(open_corpus([str(folder / "a.txt")]), TokenizerSettings(vocab_size=4096))
    made.save(folder / "tokenizer")
    return folder / "a.txt", folder / "tokenizer"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource")
@pytest.mark.parametrize(("how", "times", "most"), [("fast", 62, 700), ("slow", 12, 900)])
def test_memory_does_not_grow_with_the_text(
    tmp_path: Path, english: tuple[Path, Path], how: str, times: int, most: float
) -> None:
    text, tokenizer = english
    data = text.read_bytes()
    with (tmp_path / "large.txt").open("wb") as file:
        for _ in range(times):
            file.write(data)
    small = _peak_mb(text, tokenizer, tmp_path / "small", how)
    large = _peak_mb(tmp_path / "large.txt", tokenizer, tmp_path / "large", how)
    assert large < most
    assert large < small + 250
