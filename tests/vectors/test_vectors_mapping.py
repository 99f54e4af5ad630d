"""Vectors onto vocabularies: words, BPE with and without marks of a word's edge, pieces, coverage."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from vector_files import some

from firstlight.config import resolve
from firstlight.errors import ConfigError, TokenizerError
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document
from firstlight.vectors import WordVectors, compute_coverage, map_to_vocab, select_words, write_vectors
from firstlight.vectors.mapping import MATCH_KINDS
from firstlight.vectors.token_text import iter_merges, token_texts

TEXT = "The cat sat on the mat. the dog sat, un happy; unhappy 猫 l'été\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_vectors(
        some(3, ["the", "cat", "un", "happy", "mat", "t", ",", "猫", "zebra", "of", "a-b"]), tmp_path / "v.txt"
    )
    return tmp_path / "v.txt"


def byte_level(*words: str) -> Tokenizer:
    """Return a byte-level BPE whose merges make each word from its left to its right."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    inner = Inner(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(inner, eot="<|endoftext|>", unk=None)


def joined(tokenizer: Tokenizer, first: str, second: str) -> Tokenizer:
    """Return the tokenizer with one more merge."""
    import json

    table = json.loads(json.dumps(tokenizer.definition))
    end = table["added_tokens"][0]["id"]
    table["model"]["vocab"][first + second] = end
    table["model"]["merges"].append([first, second])
    table["added_tokens"][0]["id"] = end + 1
    return Tokenizer(Inner.from_str(json.dumps(table)), eot="<|endoftext|>", unk=None)


def way(found, tokenizer: Tokenizer, token: str) -> str:
    return MATCH_KINDS[found.match_kinds[tokenizer.token_to_id(token)]]


def test_tokens_have_the_vector_of_their_surface_form(file: Path) -> None:
    tokenizer = byte_level("Ġthe", "ĠThe", "cat", "Ġdog")
    found = map_to_vocab(tokenizer, file)
    vectors = some(3, ["the", "cat"]).matrix
    for token, kind, row in (("Ġthe", "exact", 0), ("ĠThe", "lower", 0), ("cat", "exact", 1)):
        assert way(found, tokenizer, token) == kind
        np.testing.assert_array_equal(found.matrix[tokenizer.token_to_id(token)], vectors[row])
    assert way(found, tokenizer, "Ġdog") == "none"
    assert way(found, tokenizer, "<|endoftext|>") == "special"
    assert way(found, tokenizer, "t") == "exact"
    assert not found.matrix[~found.has_vector].any()


def test_tokens_without_a_form_of_their_own_have_the_mean_of_their_pieces(file: Path) -> None:
    tokenizer = joined(byte_level("Ġun", "happy"), "Ġun", "happy")
    found = map_to_vocab(tokenizer, file)
    un, happy = some(3, ["the", "cat", "un", "happy"]).matrix[2:]
    assert way(found, tokenizer, "Ġunhappy") == "pieces"
    expected = (un.astype(np.float64) * 2 + happy.astype(np.float64) * 5) / 7
    np.testing.assert_allclose(found.matrix[tokenizer.token_to_id("Ġunhappy")], expected, rtol=1e-6)
    # "happ" has no vector, nor pieces but single letters, whose vectors are those of words of one letter.
    assert way(found, tokenizer, "happ") == "none"


def test_pieces_of_pieces_and_signs(file: Path) -> None:
    tokenizer = joined(joined(byte_level("Ġun", "happy", "mat"), "Ġun", "happy"), "Ġunhappy", "mat")
    found = map_to_vocab(tokenizer, file)
    un, happy, mat = some(3, ["the", "cat", "un", "happy", "mat"]).matrix[2:].astype(np.float64)
    expected = (un * 2 + happy * 5 + mat * 3) / 10
    np.testing.assert_allclose(found.matrix[tokenizer.token_to_id("Ġunhappymat")], expected, rtol=1e-6)
    tokenizer = joined(byte_level("x"), ",", "t")
    found = map_to_vocab(tokenizer, file)
    np.testing.assert_allclose(
        found.matrix[tokenizer.token_to_id(",t")], found.matrix[tokenizer.token_to_id(",")], rtol=1e-6
    )


def test_merges_that_cut_a_character_give_the_mean_of_the_characters(tmp_path: Path) -> None:
    write_vectors(some(3, ["，", "必", "吾", "a"]), tmp_path / "v.txt")
    vectors = some(3, ["，", "必", "吾", "a"]).matrix
    inner = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens = {text: inner.pre_tokenize_str(text)[0][0] for text in ("，必", "吾等", "a必", "等之")}
    tokenizer = byte_level(*tokens.values())  # byte by byte, so that the parts of "，必" are "，å" and so on
    found = map_to_vocab(tokenizer, tmp_path / "v.txt")
    expected = {"，必": (vectors[0] + vectors[1]) / 2, "吾等": vectors[2], "a必": vectors[1]}
    for text, mean in expected.items():
        assert way(found, tokenizer, tokens[text]) == "pieces"
        np.testing.assert_allclose(found.matrix[tokenizer.token_to_id(tokens[text])], mean, rtol=1e-5)
    assert way(found, tokenizer, tokens["等之"]) == "none"


def test_surfaces_of_every_kind(trained: dict[str, Tokenizer]) -> None:
    for name, tokenizer in trained.items():
        forms = token_texts(tokenizer)
        assert len(forms) == tokenizer.vocab_size
        assert forms[tokenizer.eot_id] is None
        for i, form in enumerate(forms):
            if form is not None and name != "word":
                assert tokenizer.decode([i]).removeprefix(" ") == form
    for whole, (first, second) in iter_merges(trained["bpe-qwen2"]):
        tokens = trained["bpe-qwen2"].tokens()
        assert tokens[whole] == tokens[first] + tokens[second]
    assert list(iter_merges(trained["word"])) == []


def test_a_suffix_and_a_prefix_mark_no_letters(file: Path) -> None:
    model = models.BPE(
        vocab={"c": 0, "a": 1, "t</w>": 2, "ca": 3, "cat</w>": 4, "<eos>": 5},
        merges=[("c", "a"), ("ca", "t</w>")],
        end_of_word_suffix="</w>",
    )
    inner = Inner(model)
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens(["<eos>"])
    tokenizer = Tokenizer(inner, eot="<eos>", unk=None)
    assert token_texts(tokenizer) == ["c", "a", "t", "ca", "cat", None]
    assert list(iter_merges(tokenizer)) == [(3, (0, 1)), (4, (3, 2))]
    assert way(map_to_vocab(tokenizer, file), tokenizer, "cat</w>") == "exact"


def test_a_word_tokenizer_takes_the_words_that_vectors_have(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("firstlight.progress.notice", said.append)
    settings = TokenizerSettings(kind="word", vocab_source=str(file))
    tokenizer = train([Document(TEXT * 3, "x")], settings, select_words=select_words)
    assert set(tokenizer.tokens()) == {"<|endoftext|>", "<unk>", "The", "cat", "the", "mat", "un", "happy", ",", "猫"}
    assert tokenizer.tokens()[2] == "the"
    told = next(line for line in said if "of the corpus's" in line)
    assert "has 8 of the corpus's 17 words" in told
    assert "'sat'" in told
    found = map_to_vocab(tokenizer, file)
    assert [MATCH_KINDS[w] for w in found.match_kinds[:2]] == ["special", "special"]
    assert found.has_vector[2:].all()


def test_a_vocabulary_of_a_given_size_is_filled_up_from_the_vectors(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(400)]
    write_vectors(some(3, ["a-b", *names]), tmp_path / "v.txt")
    settings = TokenizerSettings(kind="word", vocab_source=str(tmp_path / "v.txt"), vocab_size=300)
    tokenizer = train([Document("w399 w7 other", "x")], settings, select_words=select_words)
    # Those of the text first; "a-b" would be cut, so it can be no token.
    assert tokenizer.tokens()[2:5] == ["w399", "w7", "w0"]
    assert tokenizer.vocab_size == 300
    with pytest.raises(TokenizerError, match="too few distinct words in text and vectors"):
        train([Document("w399", "x")], settings.model_copy(update={"vocab_size": 500}), select_words=select_words)


def test_words_from_vectors_are_for_words_only() -> None:
    with pytest.raises(ConfigError, match="vocab_source: applies to kind word"):
        resolve(TokenizerSettings, {"vocab_source": "v.txt"})
    with pytest.raises(TokenizerError, match="there is no model"):
        train([Document("a b", "x")], TokenizerSettings(kind="word", vocab_source="vectors"))


def test_parts_of_characters_count_as_text_without_a_vector(tmp_path: Path) -> None:
    """With a small vocabulary most tokens of a Chinese text are bytes of a character."""
    text = "玄德曰善玄德曰然云长翼德孔明子龙"
    path = tmp_path / "zh.vec"
    path.write_text("玄德 1 0\n曰 0 1\n", encoding="utf-8")
    tokenizer = train([Document(text, "x")], TokenizerSettings(kind="bpe", vocab_size=262))
    ids, _ = tokenizer.encode_batch([text])
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    told = compute_coverage(map_to_vocab(tokenizer, path), tokenizer.tokens(), counts, tokenizer.unk_id)
    assert sum(told.tokens.values()) == len(ids)
    assert told.tokens["part"] > len(ids) / 2
    assert "% are parts of a character, which have none" in told.summary()


def test_coverage_counts_types_and_tokens_and_names_what_is_missing(file: Path) -> None:
    tokenizer = train([Document(TEXT, "x")], TokenizerSettings(kind="word"))
    found = map_to_vocab(tokenizer, file)
    ids, _ = tokenizer.encode_batch([TEXT, "sat sat zebra"])
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    told = compute_coverage(found, tokenizer.tokens(), counts, tokenizer.unk_id)
    # The text has 17 words; un, happy, the (2), cat, mat, comma and 猫 have vectors, The that of its lower case.
    assert told.types == {"exact": 7, "lower": 1, "pieces": 0, "none": 10}
    assert sum(told.tokens.values()) == len(ids)
    assert told.tokens["exact"] == 8
    assert told.missing[0] == ("sat", 4)
    assert ("<unk>", 1) in told.missing
    assert "'sat'" in told.summary()
    assert type(told)(**told.to_json()) == told


def test_wide_vocabularies_take_little_more_than_their_own_vectors(tmp_path: Path) -> None:
    write_vectors(
        WordVectors([f"w{i}" for i in range(5000)], np.ones((5000, 8), np.float32), Path("x")), tmp_path / "v.bin"
    )
    tokenizer = train([Document("w1 w2 w3", "x")], TokenizerSettings(kind="word"))
    assert map_to_vocab(tokenizer, tmp_path / "v.bin").matrix.shape == (5, 8)


def test_bytes_that_spell_characters_have_no_text() -> None:
    tokenizer = train([Document("aab ab\n", "a.txt")], TokenizerSettings(kind="char"))
    assert [text for text in token_texts(tokenizer) if text is not None and text.startswith("<")] == []
    assert {"a", "b"} <= {text for text in token_texts(tokenizer) if text}
