"""Ids decoded one by one give the text that they give together."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from firstlight.tokenizer import Tokenizer
from messy_text import NAMES, messy_text, texts


def _joined(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.stream_decoder()
    return "".join([decoder.push(i) for i in ids]) + decoder.flush()


def _sentence_piece() -> Tokenizer:
    """A tokenizer in Llama 2's manner: marks for spaces, bytes for what it does not know."""
    tokens = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁a", "b", "▁the", "cat", "é"]
    inner = Inner(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    inner.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(inner, eot="</s>", unk="<unk>")


def _gpt1() -> Tokenizer:
    tokens = ["<unk>", "the</w>", "c", "at</w>", ".</w>", "<|endoftext|>"]
    inner = Inner(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens(["<unk>", "<|endoftext|>"])
    return Tokenizer(inner, eot="<|endoftext|>", unk="<unk>")


OTHERS = {"sentence-piece": _sentence_piece(), "gpt1": _gpt1()}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@settings(deadline=None)
@given(data=st.data())
def test_the_pieces_are_the_whole_for_any_ids(trained: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = {**trained, **OTHERS}[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=120))
    assert _joined(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(text=texts)
def test_the_pieces_are_the_whole_for_a_text(trained: dict[str, Tokenizer], name: str, text: str) -> None:
    ids = trained[name].encode(text)
    assert _joined(trained[name], ids) == trained[name].decode(ids)


@pytest.mark.parametrize("name", ["bpe-qwen2", "byte"])
def test_no_broken_character_is_shown(trained: dict[str, Tokenizer], name: str) -> None:
    decoder = trained[name].stream_decoder()
    shown = [decoder.push(i) for i in trained[name].encode("é😀字")]
    assert "".join(shown) == "é😀字"
    assert all("\ufffd" not in piece for piece in shown)


def test_bytes_of_a_character_are_held_back() -> None:
    tokenizer = _sentence_piece()
    ids = [tokenizer.tokens().index(f"<0x{b:02X}>") for b in "字".encode()]
    decoder = tokenizer.stream_decoder()
    assert [decoder.push(i) for i in [*ids, tokenizer.tokens().index("cat")]] == ["", "", "", "字cat"]


@pytest.mark.parametrize("name", ["byte", "bpe-qwen2", "sentence-piece"])
@pytest.mark.parametrize("text", ["é😀字", "b字", "字字"])
def test_half_a_character_at_the_end_can_be_left_out(trained: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = {**trained, **OTHERS}[name]
    vocab = tokenizer.tokens()
    ids = (
        [vocab.index(f"<0x{byte:02X}>") for byte in text.encode()]
        if name == "sentence-piece"
        else tokenizer.encode(text)
    )
    for n in range(len(ids) + 1):
        decoder = tokenizer.stream_decoder()
        shown = "".join([decoder.push(i) for i in ids[:n]]) + decoder.flush(keep_incomplete=False)
        assert text.startswith(shown)
        assert "\ufffd" not in shown
    assert shown == text


def test_invalid_bytes_in_the_middle_are_shown(trained: dict[str, Tokenizer]) -> None:
    ids = [*trained["byte"].encode("字")[:2], *trained["byte"].encode("a")]
    decoder = trained["byte"].stream_decoder()
    assert "".join(map(decoder.push, ids)) + decoder.flush(keep_incomplete=False) == "\ufffda"


def test_special_tokens_show_nothing(trained: dict[str, Tokenizer]) -> None:
    for tokenizer in [*trained.values(), *OTHERS.values()]:
        assert tokenizer.stream_decoder().push(tokenizer.eot_id) == ""


@pytest.mark.parametrize("name", ["word", "gpt1"])
def test_long_texts_take_no_longer_a_token(trained: dict[str, Tokenizer], name: str) -> None:
    tokenizer = {**trained, **OTHERS}[name]
    ids = (tokenizer.encode(messy_text(3, 400) + "the cat.") * 4000)[:8000]
    longest = 0

    def counted(recent: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(recent))
        return decode(recent)

    decoder = tokenizer.stream_decoder()
    decode, decoder._to_text = decoder._to_text, counted
    begun = time.perf_counter()
    text = "".join(decoder.push(i) for i in ids) + decoder.flush()
    assert text == tokenizer.decode(ids)
    assert longest < 100
    assert time.perf_counter() - begun < 10


def test_tokens_with_marks_stand_for_about_their_text() -> None:
    tokenizer = OTHERS["sentence-piece"]
    lengths = dict(zip(tokenizer.tokens(), tokenizer.byte_lengths().tolist(), strict=True))
    found = [lengths[t] for t in ("</s>", "<unk>", "<0xE5>", "▁", "▁the", "cat", "é")]
    assert found == [0, 0, 1, 1, 4, 3, 2]
    tokenizer = OTHERS["gpt1"]
    lengths = dict(zip(tokenizer.tokens(), tokenizer.byte_lengths().tolist(), strict=True))
    assert [lengths[t] for t in ("<unk>", "<|endoftext|>", "the</w>", "c", ".</w>")] == [0, 0, 4, 1, 2]
