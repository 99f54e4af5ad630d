"""Text that a tokenizer has no tokens for: byte fallback of characters, and counts where there is none."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from firstlight import progress
from firstlight.tokenizer import NATS_PER_BYTE, TextBytes, Tokenizer, TokenizerSettings, build_char_level, load, train
from firstlight.types import Document, UnknownText
from messy_text import NAMES, messy_text, texts

ANY_TEXT = texts | st.text(st.characters(exclude_categories=["Cs"]))


def wordpiece() -> Tokenizer:
    tokens = ["[UNK]", "[SEP]", "the", "cat", "##s", "."]
    inner = Inner(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(["[UNK]", "[SEP]"])
    return Tokenizer(inner, eot="[SEP]", unk="[UNK]")


def unigram(**options: Any) -> Tokenizer:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), ("▁the", -2.0), ("c", -3.0), ("a", -3.0), ("t", -3.0)]
    inner = Inner(models.Unigram(pieces, unk_id=0, **options))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(inner, eot="</s>", unk="<unk>")


def bpe(unk: str | None, *, byte_level: bool = False) -> Tokenizer:
    tokens = ["</s>", *([unk] if unk and unk != "</s>" else []), "a", "b", "c", "Ã" if byte_level else "é"]
    inner = Inner(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token=unk))
    if byte_level:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["</s>"])
    return Tokenizer(inner, eot="</s>", unk=unk)


def split_accents() -> Tokenizer:
    tokenizer = build_char_level("ab")
    tokenizer._inner.normalizer = normalizers.NFD()
    return Tokenizer(tokenizer._inner, eot="<|endoftext|>", unk="<unk>")


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_every_string_comes_back_with_byte_fallback(text: str) -> None:
    tokenizer = build_char_level(["a", "é", "中", "\n"], byte_fallback=True)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_fast_path_gives_the_ids_of_the_library(trained: dict[str, Tokenizer]) -> None:
    for name in ("char", "char-unk"):
        batch = ["", "\x00\u0301😀", *(messy_text(seed, 50) + "\U0001f999貓" for seed in range(30)), "x"]
        fast, slow = trained[name].encode_batch(batch), trained[name]._encode_with_tokenizers(batch)
        assert fast[0].tolist() == slow[0].tolist()
        assert fast[1].tolist() == slow[1].tolist()


def test_rare_characters_are_spelled_in_bytes_so_that_byte_tokens_are_trained() -> None:
    heard: list[str] = []
    with progress.listen(lambda event: heard.append(event.text)):
        tokenizer = train([Document("aab b中c", "x")], TokenizerSettings(kind="char"))
    assert [t for t in tokenizer.tokens() if len(t) == 1] == ["a", "b"]
    assert [tokenizer.tokens()[i] for i in tokenizer.encode("中a")] == ["<0xE4>", "<0xB8>", "<0xAD>", "a"]
    assert any("3 of 7 characters of the text (42.9 %), 3 different ones, are not in" in text for text in heard)
    assert (tokenizer.unk_id, tokenizer.has_unknown, tokenizer.lossless, tokenizer.kind) == (None, False, True, "char")


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"min_frequency": 1}, " abc中"),
        ({"byte_fallback": False}, " abc中"),
        ({"byte_fallback": False, "min_frequency": 2}, "ab"),
        ({"min_frequency": 3}, ""),
    ],
)
def test_which_characters_become_tokens(options: dict[str, Any], tokens: str) -> None:
    tokenizer = train([Document("aab b中c", "x")], TokenizerSettings(kind="char", **options))
    assert "".join(t for t in tokenizer.tokens() if len(t) == 1) == tokens


def test_a_character_tokenizer_of_before_loads_unchanged(tmp_path: Path) -> None:
    before = build_char_level(["<|endoftext|>", "<unk>", "a", "b"])
    before.save(tmp_path)
    again = load(tmp_path)
    assert again.encode("abc中") == [2, 3, 1, 1]
    assert (again.kind, again.unk_id, again.unknown_id, again.lossless) == ("char", 1, 1, False)


def test_any_ids_are_decoded_as_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = build_char_level(["a", "é", "中"], byte_fallback=True)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(9))]
        ids += tokenizer.encode("文😀")[: rng.randrange(8)]
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        text = tokenizer.decode(ids)
        assert tokenizer.encode(text) == theirs(text)["input_ids"]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(batch=st.lists(ANY_TEXT, max_size=4))
def test_counting_does_not_change_the_ids(trained: dict[str, Tokenizer], name: str, batch: list[str]) -> None:
    ids, counts = trained[name].encode_batch(batch)
    found = trained[name].encode_counted(batch)
    assert (found.ids.tolist(), found.counts.tolist()) == (ids.tolist(), counts.tolist())
    n = 0 if trained[name].unknown_id is None else int((ids == trained[name].unknown_id).sum())
    assert len(found.unk_bytes) == found.unknown.tokens == n
    assert found.unknown_counts(trained[name].unknown_id).sum() == found.unknown.count
    if name == "char-unk":
        known = int(trained[name].byte_lengths()[ids].sum())
        assert known + found.unknown.n_bytes == len("".join(batch).encode())


@pytest.mark.parametrize(
    ("tokenizer", "text", "unknown"),
    [
        (build_char_level("ab"), "a中é😀", UnknownText(3, 9, examples=("中", "é", "😀"))),
        (wordpiece(), "The cats é 中文 .", UnknownText(3, 8, examples=("é", "中", "文"))),
        (unigram(), "the cat 中文 x", UnknownText(2, 7, examples=("中文", "x"))),
        (bpe("<unk>"), "ab中c", UnknownText(1, 3, examples=("中",))),
        (bpe(None), "ab中c中é", UnknownText(n_dropped=2, dropped_bytes=6, examples=("中",))),
        (bpe(None, byte_level=True), "aé中", UnknownText(n_dropped=2, dropped_bytes=4, examples=("é", "中"))),
        (bpe("<unk>", byte_level=True), "aé中", UnknownText(4, 4, examples=("é", "中"))),
        (split_accents(), "aé中e\u0301", UnknownText(5, 8, examples=("é", "中", "e", "\u0301"))),
        (bpe("</s>"), "a中", UnknownText(n_dropped=1, dropped_bytes=3, examples=("中",))),
    ],
    ids=[
        "char",
        "WordPiece",
        "Unigram",
        "BPE",
        "BPE without unk",
        "bytes without unk",
        "bytes",
        "NFD",
        "unk is end-of-text",
    ],
)
def test_what_is_unknown_is_counted(tokenizer: Tokenizer, text: str, unknown: UnknownText) -> None:
    assert tokenizer.has_unknown
    assert tokenizer.encode_counted([text]).unknown == unknown
    assert tokenizer.encode_counted(["a", text]).dropped.sum(1).tolist()[0] == 0


def test_words_are_counted_with_their_bytes() -> None:
    tokenizer = train([Document("the cat sat", "x")], TokenizerSettings(kind="word"))
    found = tokenizer.encode_counted(["the dog", "sat naïvely"])
    assert found.unk_bytes.tolist() == [3, 8]
    assert found.unknown.to_json(4) == {"unk_tokens": 2, "unk_bytes": 11, "unk_fraction": 0.5}


def test_the_token_that_is_named_unknown_need_not_be_one(trained: dict[str, Tokenizer]) -> None:
    gpt2 = Tokenizer(trained["bpe-gpt2"]._inner, eot="<|endoftext|>", unk="<|endoftext|>")
    assert (gpt2.unk_id, gpt2.unknown_id, gpt2.has_unknown) == (gpt2.eot_id, None, False)
    assert gpt2.count_unknown(["中"]) == UnknownText()


def test_unknown_bytes_cost_eight_bits_each() -> None:
    lengths = np.array([1, 3, 0, 0])
    characters = np.array([1, 1, 0, 0])
    found = TextBytes.of(lengths, characters, 2, UnknownText(4, 10), 20)
    assert found is not None
    assert found.lengths.tolist() == [1, 3, 2.5, 0]
    assert found.nats.tolist() == [0, 0, 2.5 * NATS_PER_BYTE, 0]
    assert found.characters is None
    alone = TextBytes.of(lengths, characters, 2, UnknownText(4, 10), 20, one_character=True)
    assert alone is not None and alone.characters is not None and alone.characters.tolist() == [1, 1, 1, 0]
    dropped = TextBytes.of(lengths, characters, None, UnknownText(n_dropped=3, dropped_bytes=6), 12)
    assert dropped is not None and dropped.characters is not None
    assert dropped.characters.tolist() == [1.25, 1.25, 0, 0]
    assert dropped.lengths.tolist() == [1.5, 3.5, 0, 0]
    assert TextBytes.of(lengths, characters, 2, UnknownText(4, None), 20) is None


def test_a_text_that_follows_bytes_starts_with_its_own() -> None:
    """The last bytes of a prompt may begin within a character, which spoiled those that followed."""
    tokenizer = build_char_level(["a"], byte_fallback=True)
    for prompt in ("中文中文中文", "a" * 20 + "中文中文中文", "中", ""):
        decoder = tokenizer.stream_decoder()
        decoder.start_after(tokenizer.encode(prompt))
        shown = [decoder.push(i) for i in tokenizer.encode("é中a")]
        assert "".join(shown) + decoder.flush() == "é中a"
