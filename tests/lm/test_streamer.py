import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import KINDS, TEXT, tokenizer

from firstlight.lm.streamer import TextStreamer


def write(
    kind: str, ids: list[int], stops: list[str], prompt: list[int] | None = None
) -> tuple[TextStreamer, list[str]]:
    """Push ids until the text ends; return it and its pieces as they became sure."""
    words = tokenizer(kind)
    streamer, pieces = TextStreamer(words, prompt or [words.eot_id], stops, {words.eot_id}), []
    for token in ids:
        streamer.put(token)
        pieces.append(streamer.take())
        if streamer.finish_reason:
            break
    streamer.end()
    return streamer, [*pieces, streamer.take()]


def cut(text: str, stops: list[str]) -> str:
    """The text before the stop that is complete first."""
    for end in range(len(text) + 1):
        begins = [end - len(s) for s in stops if s and text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return text


STOPS = st.lists(st.text("ab子说。\n", max_size=4), max_size=3)


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
@given(text=st.text("abc子曰说。\n ", max_size=40), stops=STOPS)
@settings(max_examples=60, deadline=None)
def test_a_text_ends_at_the_stop_that_is_complete_first(kind, text, stops):
    ids = tokenizer(kind).encode(text)
    text = tokenizer(kind).decode(ids)  # characters that were not trained on are gone
    streamer, pieces = write(kind, ids, stops)
    assert streamer.text == "".join(pieces) == cut(text, stops)
    assert streamer.finish_reason == ("stop" if cut(text, stops) != text else None)
    assert streamer.ids == ids[: len(streamer.ids)]


def test_a_stop_is_found_across_tokens_and_inside_one():
    ids = tokenizer("byte").encode("one\n\ntwo")
    streamer, pieces = write("byte", ids, ["\n\n"])
    assert (streamer.text, streamer.finish_reason, len(streamer.ids)) == ("one", "stop", 5)
    assert pieces == ["o", "n", "e", "", "", ""], "the first line end is held back"
    bpe = tokenizer("bpe")
    (inside,) = [t for t in [" the"] if len(bpe.encode(t)) == 1]
    streamer, _ = write("bpe", bpe.encode(f"sun{inside} sea"), ["th"])
    assert streamer.text == "sun "
    assert bpe.decode(streamer.ids) == "sun the", "the ids keep the token that completed the stop"


def test_of_two_stops_in_one_token_the_one_that_is_complete_first_counts():
    bpe = tokenizer("bpe")
    assert len(bpe.encode(" the")) == 1
    streamer, _ = write("bpe", bpe.encode("sun the"), [" the", "h"])
    assert streamer.text == "sun t"
    by_bytes, _ = write("byte", tokenizer("byte").encode("sun the"), [" the", "h"])
    assert by_bytes.text == streamer.text


def test_what_was_held_back_is_given_when_it_is_no_stop():
    ids = tokenizer("byte").encode("ab\nc\n")
    streamer, pieces = write("byte", ids, ["\n\n"])
    assert pieces == ["a", "b", "", "\nc", "", "\n"]
    assert streamer.finish_reason is None


def test_chinese_bytes_are_held_back_until_a_character_is_whole():
    ids = tokenizer("byte").encode("子曰")
    streamer, pieces = write("byte", ids, [])
    assert pieces == ["", "", "子", "", "", "曰", ""]
    streamer, pieces = write("byte", ids[:5], [])
    assert pieces == ["", "", "子", "", "", ""], "half a character at the end is no text"
    streamer, pieces = write("byte", [*ids[:4], *ids[:3]], [])
    assert pieces == ["", "", "子", "", "\ufffd", "", "子", ""], "one in the middle is invalid"
    streamer, _ = write("byte", ids, ["曰"])
    assert (streamer.text, streamer.finish_reason) == ("子", "stop")


@pytest.mark.parametrize("kind", KINDS)
def test_end_of_text_ends_and_is_no_id_of_the_text(kind):
    words = tokenizer(kind)
    ids = words.encode("The sun")
    streamer, _ = write(kind, [*ids, words.eot_id, *ids], ["zzz"])
    assert (streamer.ids, streamer.finish_reason) == (ids, "eos")
    assert streamer.text == words.decode(ids)


def test_end_of_text_gives_what_was_held_back():
    words = tokenizer("byte")
    streamer, _ = write("byte", [*words.encode("ab"), words.eot_id], ["bc"])
    assert (streamer.text, streamer.finish_reason) == ("ab", "eos")


def test_a_word_is_written_as_it_stands_after_the_prompt():
    words = tokenizer("word")
    whole = words.encode("The sun goes down, and rises")
    for n in range(len(whole) + 1):
        streamer, pieces = write("word", whole[n:], [], prompt=whole[:n] or [words.eot_id])
        assert words.decode(whole[:n]) + streamer.text == words.decode(whole)
    assert streamer.text == ""


def test_ids_that_the_tokenizer_does_not_know_stand_for_nothing():
    words = tokenizer("byte")
    streamer, _ = write("byte", [65, words.vocab_size, words.vocab_size + 700, 66], [])
    assert (streamer.text, streamer.ids) == (words.decode([65, 66]), [65, words.vocab_size, words.vocab_size + 700, 66])


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_together_are_the_text(kind):
    words = tokenizer(kind)
    ids = words.encode(TEXT)
    streamer, pieces = write(kind, ids, ["never"])
    assert streamer.text == "".join(pieces) == words.decode(ids)
