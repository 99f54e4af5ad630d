"""Similarity and analogies: by hand, and beside gensim's own figures on the standard sets."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.errors import TokenizerError
from firstlight.vectors import WordVectors, read_vectors
from firstlight.vectors.evaluation import evaluate_word_analogies, evaluate_word_pairs

GRID = {
    "king": (3, 1),
    "queen": (3, -1),
    "man": (1, 1),
    "woman": (1, -1),
    "apple": (-2, 0.1),
    "Oslo": (0.2, 3),
}


@pytest.fixture
def vectors() -> WordVectors:
    return WordVectors(list(GRID), np.array(list(GRID.values()), np.float32), Path("v"))


def test_an_analogy_by_hand(vectors: WordVectors, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(
        ": people\nman king woman queen\nMan King Woman Queen\nman king woman Oslo\n: gram1\nman king nobody queen\n"
    )
    found = {
        section.name: section for section in evaluate_word_analogies(vectors, tmp_path / "q.txt", restrict_vocab=100)
    }
    assert list(found) == ["people", "gram1", "semantic", "syntactic", "total"]
    assert (found["people"].correct, found["people"].evaluated) == (2, 3)
    assert (found["gram1"].evaluated, found["gram1"].skipped, found["gram1"].accuracy) == (0, 1, None)
    assert found["total"].accuracy == pytest.approx(2 / 3)
    assert [s.evaluated for s in evaluate_word_analogies(vectors, tmp_path / "q.txt", restrict_vocab=2)] == [0] * 5


def test_a_section_may_begin_with_a_full_width_colon(vectors: WordVectors, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("：人物\nman king woman queen\n", encoding="utf-8")
    found = evaluate_word_analogies(vectors, tmp_path / "q.txt", restrict_vocab=100)
    assert (found[0].name, found[0].correct) == ("人物", 1)


def test_similarity_by_hand(vectors: WordVectors, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("# a remark\nking\tqueen\t8\nking\tman\t5\nking\tapple\t1\nking\tnobody\t9\n")
    found = evaluate_word_pairs(vectors, tmp_path / "p.tsv")
    assert (found.evaluated, found.skipped, found.spearman) == (3, 1, pytest.approx(0.5))
    (tmp_path / "s.txt").write_text(
        "word1\tword2\tPOS\tSimLex999\nking\tqueen\tN\t1\nking\tman\tN\t2\nman\tapple\tN\t0\n"
    )
    assert evaluate_word_pairs(vectors, tmp_path / "s.txt").evaluated == 3
    (tmp_path / "few.csv").write_text("king,queen,1\n")
    assert evaluate_word_pairs(vectors, tmp_path / "few.csv").spearman is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p", "king\tqueen\t1\nking\tqueen\n", "p:2: is not a word pair with a score"),
        ("p", "king\tqueen\t1\nking\tqueen\tmuch\n", "p:2: is not a word pair with a score"),
        ("q", ": a\nking queen man\n", "q:2: is not an analogy question of four words"),
    ],
)
def test_a_line_that_is_none(vectors: WordVectors, name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TokenizerError) as caught:
        evaluate_word_pairs(vectors, tmp_path / name) if name == "p" else evaluate_word_analogies(
            vectors, tmp_path / name, restrict_vocab=10
        )
    assert says in caught.value.message


@pytest.mark.data
def test_figures_are_gensims(shared_data: Path, tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    folder = shared_data / "vectors"
    ours = read_vectors(folder / "glove.6B.50d.top30k.txt.gz")
    theirs = models.KeyedVectors(ours.width)
    theirs.add_vectors(ours.words, ours.matrix)
    for name in ("wordsim353.tsv", "simlex999.txt"):
        _, spearman, missing = theirs.evaluate_word_pairs(str(folder / name))
        found = evaluate_word_pairs(ours, folder / name)
        assert found.spearman == pytest.approx(spearman.statistic, abs=1e-6)
        assert 100 * found.skipped / (found.evaluated + found.skipped) == pytest.approx(missing)
    lines = (folder / "questions-words.txt").read_text().splitlines()
    # Every twentieth question: gensim asks them one by one.
    file = tmp_path / "questions.txt"
    file.write_text("\n".join(line for i, line in enumerate(lines) if line.startswith(":") or i % 20 == 0) + "\n")
    _, sections = theirs.evaluate_word_analogies(str(file), case_insensitive=True)
    found = {section.name: section for section in evaluate_word_analogies(ours, file, restrict_vocab=300_000)}
    for section in sections:
        name = "total" if section is sections[-1] else section["section"]
        right, wrong = len(section["correct"]), len(section["incorrect"])
        assert (found[name].correct, found[name].evaluated) == (right, right + wrong), name
    assert found["total"].evaluated > 500
