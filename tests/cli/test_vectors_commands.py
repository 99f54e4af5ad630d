"""``tokenizer vectors``: what is trained can be judged, and a model can begin as it."""

import json
from pathlib import Path

import pytest
from small_world import RUN_SETTINGS, Call

from firstlight.vectors import read_vectors

PAIRS = "the\tcat\t3\nsat\ton\t5\nmat\tbird\t1\nthe\tmoon\t9\n"
QUESTIONS = ": places\nthe cat on mat\n: gram\nsat cat the moon\n"


@pytest.mark.parametrize("method", ["glove", "cbow", "skipgram"])
def test_train_judge_and_begin(method: str, world: Path, call: Call) -> None:
    if method != "glove":
        pytest.importorskip("gensim")
    (world / "pairs.tsv").write_text(PAIRS)
    (world / "asked.txt").write_text(QUESTIONS)
    words = [f"vectors.method={method}", "vectors.width=8", "vectors.epochs=2"]
    answer = call("tokenizer", "vectors", "train", "text.txt", "--out", "new.bin.gz", *words, "--json")
    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)
    assert (facts["n_words"], facts["width"], facts["text_words"]) == (12, 8, 2100)
    assert len(read_vectors("new.bin.gz")) == 12
    answer = call("tokenizer", "vectors", "eval", "new.bin.gz", "--similarity", "pairs.tsv", "--analogies", "asked.txt")
    assert answer.code == 0, answer.err
    assert "new.bin.gz: 12 words, width 8" in answer.out
    assert "pairs.tsv" in answer.out
    answer = call(
        "tokenizer", "vectors", "eval", "new.bin.gz", "--similarity", "pairs.tsv", "--analogies", "asked.txt", "--json"
    )
    table = json.loads(answer.out)
    assert (table["similarity"][0]["evaluated"], table["similarity"][0]["skipped"]) == (3, 1)
    assert [row["name"] for row in table["analogies"]] == ["places", "gram", "semantic", "syntactic", "total"]
    assert table["analogies"][-1]["evaluated"] == 1
    settings = [w for w in RUN_SETTINGS if not w.startswith("tokenizer.")]
    answer = call(
        "pretrain",
        "text.txt",
        "--out",
        "begun",
        "tokenizer.kind=word",
        "tokenizer.vocab_source=vectors",
        "model.embeddings=new.bin.gz",
        *settings,
    )
    assert answer.code == 0, answer.err
    assert "100.0 % have a vector" in answer.err


def test_the_same_command_writes_the_same_file(world: Path, call: Call) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        assert call("tokenizer", "vectors", "train", "text.txt", "--out", name, "vectors.method=glove").code == 0
    assert (world / "a.safetensors").read_bytes() == (world / "b.safetensors").read_bytes()
    assert (world / "a.vocab").read_text() == (world / "b.vocab").read_text()


@pytest.mark.parametrize(
    ("method", "setting", "applies_to"),
    [("glove", "negative=3", "word2vec"), ("glove", "threads=2", "word2vec"), ("cbow", "x_max=5", "GloVe")],
)
def test_settings_of_another_method_are_refused(
    method: str, setting: str, applies_to: str, world: Path, call: Call
) -> None:
    words = [f"vectors.method={method}", f"vectors.{setting}"]
    answer = call("tokenizer", "vectors", "train", "text.txt", "--out", "new.vec", *words)
    assert answer.code == 2
    assert f"vectors.{setting.split('=')[0]}: applies to {applies_to}, but method is {method}" in answer.err
    assert not (world / "new.vec").exists()
