"""Input transformations: GPT-1's figure, token for token, and what happens to texts that are too long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.errors import UsageError
from firstlight.finetuning import DELIMITER, EXTRACT, PAD, START, Example, Preprocessor, chat_template, special_tokens
from firstlight.tokenizer import Tokenizer
from small_task import spec, tokenizer


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return tokenizer()


@pytest.fixture(scope="module")
def marked(plain: Tokenizer) -> Tokenizer:
    return plain.with_special_tokens(
        special_tokens([spec("classification"), spec("chat")]), extra_config={"pad_token": PAD}
    )


def tokens(made: Tokenizer, row) -> list[list[str]]:
    names = made.tokens()
    return [[names[i] for i in sequence] for sequence in row.sequences]


def test_one_text(marked: Tokenizer) -> None:
    (row,) = Preprocessor(spec(), marked, 48)([Example(("the day",), 1, "x:1")])
    body = [marked.tokens()[i] for i in marked.encode("the day")]
    assert tokens(marked, row) == [[START, *body, EXTRACT]]
    assert row.positions == (len(body) + 1,) and row.label == 1


def test_a_pair_has_a_delimiter_between(marked: Tokenizer) -> None:
    (row,) = Preprocessor(spec("pair"), marked, 48)([Example(("the day", "the film"), 0, "x:1")])
    first, second = ([marked.tokens()[i] for i in marked.encode(t)] for t in ("the day", "the film"))
    assert tokens(marked, row) == [[START, *first, DELIMITER, *second, EXTRACT]]


def test_similarity_is_encoded_in_both_orders(marked: Tokenizer) -> None:
    (row,) = Preprocessor(spec("similarity"), marked, 48)([Example(("the day", "the film"), 0.75, "x")])
    first, second = ([marked.tokens()[i] for i in marked.encode(t)] for t in ("the day", "the film"))
    assert tokens(marked, row) == [
        [START, *first, DELIMITER, *second, EXTRACT],
        [START, *second, DELIMITER, *first, EXTRACT],
    ]
    assert row.label == 0.75


def test_each_answer_is_a_sequence_of_its_own(marked: Tokenizer) -> None:
    (row,) = Preprocessor(spec("multiple_choice"), marked, 48)([Example(("the day", "was fine", "was dull"), 1, "x")])
    assert [s[-1] for s in tokens(marked, row)] == [EXTRACT, EXTRACT]
    assert len(row.sequences) == len(row.positions) == 2


def test_without_tokens_of_their_own_the_marks_are_end_of_text(plain: Tokenizer) -> None:
    (row,) = Preprocessor(spec("pair"), plain, 48)([Example(("the day", "the film"), 0, "x")])
    ids = row.sequences[0].tolist()
    end = plain.eot_id
    assert ids == [end, *plain.encode("the day"), end, *plain.encode("the film"), end]


def test_words_are_labelled_at_their_last_token(marked: Tokenizer) -> None:
    words = ("the", " film", " was", " lovely")
    (row,) = Preprocessor(spec("token_classification"), marked, 48)([Example(words, (0, 1, 0, 1), "x")])
    (ids,) = row.sequences
    sizes = np.cumsum([len(marked.encode(w)) for w in words])
    assert row.positions == tuple(sizes.tolist())
    assert marked.decode(ids[1 : row.positions[1] + 1]) == "the film"


def test_of_a_chat_only_what_the_assistant_says_is_learnt(marked: Tokenizer) -> None:
    chat = Example(("be kind", "the day", "was fine"), None, "x", ("system", "user", "assistant"))
    (row,) = Preprocessor(spec("chat"), marked, 48)([chat])
    ids, loss_mask = row.sequences[0].tolist(), row.loss_mask
    said = [i for i, marks in zip(ids, loss_mask, strict=True) if marks]
    assert said == [*marked.encode("was fine"), marked.eot_id], "the answer, and that it then ends"
    assert ids[0] == marked.eot_id and len(ids) == len(loss_mask)


@pytest.mark.parametrize("with_roles", [True, False])
def test_the_chat_template_builds_what_was_trained_on(
    plain: Tokenizer, marked: Tokenizer, with_roles: bool, tmp_path
) -> None:
    from transformers import AutoTokenizer

    made = marked if with_roles else plain
    made = made.with_special_tokens([], extra_config={"chat_template": chat_template(made)})
    made.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "the day"}, {"role": "assistant", "content": "was fine"}]
    chat = Example(("the day", "was fine"), None, "x", ("user", "assistant"))
    (row,) = Preprocessor(spec("chat"), made, 48)([chat])
    assert theirs.apply_chat_template(messages)["input_ids"] == row.sequences[0].tolist()
    asked = theirs.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    assert row.sequences[0].tolist()[: len(asked)] == asked


LONG = "the film was lovely and warm and bright and fine and the song was dull and grim and cold"


@pytest.mark.parametrize(("truncation", "kept"), [("tail", "the film"), ("head", "and cold")])
def test_what_is_cut_away_from_a_long_text(marked: Tokenizer, truncation: str, kept: str) -> None:
    transform = Preprocessor(spec(truncation=truncation), marked, 12)
    (row,) = transform([Example((LONG,), 0, "x:7")])
    text = marked.decode(row.sequences[0])
    assert len(row.sequences[0]) == 12 and transform.n_truncated == 1
    assert text.startswith(kept) if truncation == "tail" else text.endswith(kept)


def test_the_middle_is_cut_away(marked: Tokenizer) -> None:
    (row,) = Preprocessor(spec(truncation="middle"), marked, 12)([Example((LONG,), 0, "x")])
    ids, whole = row.sequences[0].tolist()[1:-1], marked.encode(LONG)
    assert ids == whole[:5] + whole[-5:]


def test_a_long_text_may_be_refused(marked: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"x:7: is longer than the model's block size .*expected at most 10"):
        Preprocessor(spec(truncation="error"), marked, 12)([Example((LONG,), 0, "x:7")])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 40), st.sampled_from(["tail", "head", "middle"]))
def test_pairs_of_any_length_fit_and_the_longer_part_gives_first(a: int, b: int, T: int, truncation: str) -> None:
    made = _SHARED
    first, second = " ".join(["day"] * a), " ".join(["film"] * b)
    sizes = [len(made.encode(t)) for t in (first, second)]
    (row,) = Preprocessor(spec("pair", truncation=truncation), made, T)([Example((first, second), 0, "x")])
    ids = row.sequences[0].tolist()
    assert len(ids) == min(T, sum(sizes) + 3)
    at = ids.index(made.token_to_id(DELIMITER))
    kept = [at - 1, len(ids) - at - 2]
    if sum(sizes) + 3 > T:
        longer, shorter = (0, 1) if sizes[0] >= sizes[1] else (1, 0)
        assert kept[shorter] == sizes[shorter] or abs(kept[0] - kept[1]) <= 1


_SHARED = tokenizer().with_special_tokens(special_tokens([spec("pair")]))
