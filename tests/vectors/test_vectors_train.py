"""Training vectors: counts against a count by hand, the same seed twice, and words of a kind come to stand together."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from firstlight import progress
from firstlight.errors import MissingExtra, TokenizerError
from firstlight.types import Document
from firstlight.vectors import VectorSettings
from firstlight.vectors.corpus_words import read_corpus_words
from firstlight.vectors.glove import cooccurrences
from firstlight.vectors.training import train

KINDS = {"animal": ["cat", "dog", "cow", "hen", "fox"], "place": ["barn", "yard", "hill", "lake", "town"]}


def sentences(n: int, seed: int = 0) -> list[Document]:
    """Return sentences in which animals stand with animals' verbs and places with places'."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        a, b = (random.choice(KINDS[kind]) for kind in ("animal", "place"))
        made.append(Document(f"the {a} eats and sleeps . a {b} lies far away !", "x"))
    return made


def text(*documents: str, **settings):
    wanted = VectorSettings(**{"min_count": 1, **settings})
    return read_corpus_words([Document(content, "x") for content in documents], wanted, None)


def test_words_by_number_the_commonest_first() -> None:
    made = text("b a b c", "a B b")
    assert made.words == ["b", "a", "B", "c"]
    assert made.counts.tolist() == [3, 2, 1, 1]
    assert made.ids.tolist() == [0, 1, 0, 3, 1, 2, 0]
    assert made.starts.tolist() == [0, 4]
    assert [s.tolist() for s in made.sentences()] == [[0, 1, 0, 3], [1, 2, 0]]


def test_rare_words_are_left_out_and_case_may_be() -> None:
    made = text("x b a b c", "a B b", min_count=2)
    assert made.words == ["b", "a"]
    assert [s.tolist() for s in made.sentences()] == [[0, 1, 0], [1, 0]]
    assert text("A a b b", lower=True).words == ["a", "b"]
    assert text("a a b b c", max_words=2).words == ["a", "b"]
    with pytest.raises(TokenizerError, match="too few frequent words"):
        text("a b c", min_count=2)


def test_pieces_of_a_document_are_one_text_and_long_texts_are_cut() -> None:
    made = read_corpus_words(
        [Document("a b ", "x", continues=True), Document("c d", "x"), Document("e", "y")],
        VectorSettings(min_count=1),
        None,
    )
    assert [len(s) for s in made.sentences()] == [4, 1]
    assert [len(s) for s in text("a b " * 12_000).sentences()] == [10_000, 10_000, 4_000]


@pytest.mark.parametrize("window", [1, 3, 50])
def test_meetings_as_counted_by_hand(window: int) -> None:
    made = text("a b a c a b", "b a", "c c c c")
    expected: dict[tuple[int, int], float] = defaultdict(float)
    for ids in made.sentences():
        for i in range(len(ids)):
            for j in range(i + 1, min(len(ids), i + window + 1)):
                pair = tuple(sorted((int(ids[i]), int(ids[j]))))
                expected[pair] += (2 if pair[0] == pair[1] else 1) / (j - i)
    keys, sums = cooccurrences(made, window)
    found = {(int(k) // 3, int(k) % 3): s for k, s in zip(keys, sums, strict=True)}
    assert found == pytest.approx(dict(expected))


def test_meetings_do_not_depend_on_how_the_text_is_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    made = text(*(d.content for d in sentences(40)))
    whole = cooccurrences(made, 4)
    monkeypatch.setattr("firstlight.vectors.glove._CHUNK_PAIRS", 100)
    parts = cooccurrences(made, 4)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1])


@pytest.mark.parametrize("method", ["cbow", "skipgram", "glove"])
def test_words_of_a_kind_stand_together_and_the_same_seed_gives_the_same(method: str) -> None:
    if method != "glove":
        pytest.importorskip("gensim")
    epochs = 60 if method == "glove" else 30
    asked = VectorSettings(method=method, width=16, window=3, epochs=epochs, min_count=1, sample=0)
    one, n = train(sentences(400), asked, n_bytes=None, out=Path("a"))
    again, _ = train(sentences(400), asked, n_bytes=None, out=Path("b"))
    assert one.words == again.words
    assert one.matrix.tobytes() == again.matrix.tobytes()
    assert n == 400 * 12
    other, _ = train(sentences(400), asked.model_copy(update={"seed": 2}), n_bytes=None, out=Path("c"))
    assert other.matrix.tobytes() != one.matrix.tobytes()
    units = one.matrix / np.linalg.norm(one.matrix, axis=1, keepdims=True)
    animals, places = (units[[one.rows[w] for w in KINDS[kind]]] for kind in ("animal", "place"))
    within = ((animals @ animals.T).mean() + (places @ places.T).mean()) / 2
    assert within > (animals @ places.T).mean() + 0.2


def test_the_counted_vocabulary_is_trained_as_gensim_trains_its_own() -> None:
    models = pytest.importorskip("gensim.models")
    made, _ = train(
        sentences(200),
        VectorSettings(method="cbow", width=8, window=2, epochs=2, min_count=1),
        n_bytes=None,
        out=Path("a"),
    )
    lists = [d.content.split() for d in sentences(200)]
    order = {word: i for i, word in enumerate(made.words)}
    # gensim's own order of equally common words is that of their coming, ours that of the alphabet.
    model = models.Word2Vec(vector_size=8, window=2, min_count=1, workers=1, seed=1, sg=0, negative=5, alpha=0.05)
    counts = {word: sum(line.count(word) for line in lists) for word in order}
    model.build_vocab_from_freq(counts)
    model.train(lists, total_words=sum(map(len, lists)), epochs=2)
    np.testing.assert_array_equal(made.matrix, model.wv.vectors[[model.wv.key_to_index[w] for w in made.words]])


def test_progress_is_shown() -> None:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        train(sentences(20), VectorSettings(method="glove", width=4, epochs=2, min_count=1), n_bytes=99, out=Path("a"))
    tasks = {event.task for event in events}
    assert {"read", "count", "glove"} <= tasks
    assert any("epoch 2" in event.text for event in events)


def test_word2vec_without_gensim_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(MissingExtra, match=r"pip install .*gensim"):
        train(iter(()), VectorSettings(method="cbow"), n_bytes=None, out=Path("a"))


def test_one_word_after_another_cannot_co_occur_beyond_its_document() -> None:
    with pytest.raises(TokenizerError, match="no two words of the text co-occur"):
        train(
            [Document("a", "x"), Document("b", "x")],
            VectorSettings(method="glove", min_count=1),
            n_bytes=1,
            out=Path("a"),
        )
