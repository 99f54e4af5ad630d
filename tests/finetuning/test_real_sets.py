"""Published sets as people have them, read by the examples: every row, every label, every defect."""

from pathlib import Path

import pytest

from firstlight.errors import CorpusError
from firstlight.finetuning import TaskData, head_of, load_task, read_spec, read_unlabelled

pytestmark = pytest.mark.data

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"

# Rows of (train, valid, test); the number of labels, 0 for scores and answers.
SIZES = {
    "ag_news": ((9387, 1042, 7600), 4),
    "cola": ((8551, 527, 516), 2),
    "copa": ((70, 30, 0), 0),
    "dream": ((6116, 2040, 2041), 0),
    "emotion": ((16000, 2000, 2000), 6),
    "hellaswag": ((700, 300, 0), 0),
    "movie_reviews": ((1800, 200, 0), 2),
    "mrpc": ((3669, 407, 1725), 2),
    "rte": ((2490, 277, 0), 2),
    "sst2": ((6920, 872, 1821), 2),
    "sst5": ((8544, 1101, 2210), 5),
    "stsb": ((5749, 1500, 1379), 0),
    "trec": ((4906, 546, 500), 6),
    "zh_chid": ((202, 202, 2002), 0),
    "zh_hotel": ((6989, 776, 0), 2),
    "zh_ocnli": ((160, 160, 2520), 3),
    "zh_stsb": ((5749, 1500, 1379), 0),
    "zh_tnews": ((1185, 1098, 2010), 15),
    "zh_waimai": ((10788, 1199, 0), 2),
}


def folder_of(name: str, shared_data: Path) -> Path:
    return shared_data / ("zero-shot" if name in ("copa", "hellaswag") else "tasks")


def task(name: str, shared_data: Path) -> TaskData:
    return load_task(read_spec(EXAMPLES / f"{name}.toml", data=folder_of(name, shared_data)), seed=0)


def test_every_example_is_read_here() -> None:
    assert sorted(SIZES) == sorted(path.stem for path in EXAMPLES.glob("*.toml"))


QUICK = {"cola", "copa", "rte", "sst5", "trec", "zh_chid", "zh_ocnli", "zh_tnews"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(SIZES)]
)
def test_every_row_and_label(name: str, shared_data: Path) -> None:
    made = task(name, shared_data)
    sizes, n_labels = SIZES[name]
    assert (len(made.train), len(made.valid), len(made.test)) == sizes
    assert len(made.spec.labels) == n_labels
    rows = [*made.train, *made.valid, *made.test]
    assert len({row.where for row in rows}) == len(rows)
    assert all(text.strip() == text != "" for row in rows for text in row.texts)
    if not head_of(made.spec).has_classes and made.spec.kind != "multiple_choice":
        assert all(0.0 <= row.label <= 1.0 for row in rows)
    elif made.spec.kind == "multiple_choice":
        assert all(0 <= row.label < len(row.texts) - 1 for row in rows)
    else:
        for side in (made.train, made.valid, made.test):
            assert {row.label for row in side} in (set(), set(range(n_labels)))


@pytest.mark.parametrize(
    ("name", "texts", "label"),
    [
        ("cola", ("Our friends won't buy this analysis, let alone the next one we propose.",), 1),
        ("rte", ("No Weapons of Mass Destruction Found in Iraq Yet.", "Weapons of Mass Destruction Found in Iraq."), 1),
        ("trec", ("What is the full form of .com ?",), 2),
        pytest.param("stsb", ("A plane is taking off.", "An air plane is taking off."), 1.0, marks=pytest.mark.slow),
        pytest.param("emotion", ("i didnt feel humiliated",), 4, marks=pytest.mark.slow),
        ("zh_tnews", ("孩子跟谁睡，就是谁的孩子",), 11),
        (
            "copa",
            (
                "The man turned on the faucet, therefore",
                "the toilet filled with water.",
                "water flowed from the spout.",
            ),
            1,
        ),
    ],
)
def test_a_row_as_the_file_has_it(name: str, texts: tuple[str, ...], label: float, shared_data: Path) -> None:
    made = task(name, shared_data)
    assert {row.label for row in [*made.train, *made.valid] if row.texts == texts} == {label}


@pytest.mark.slow
def test_the_last_row_of_ag_news_is_cut_off_and_its_parts_are_joined(shared_data: Path) -> None:
    made = task("ag_news", shared_data)
    assert [note for note in made.notes if "train.csv.gz:10430: the last row is cut off" in note]
    first = next(row for row in made.train if row.where.endswith("train.csv.gz:1"))
    assert first.texts[0].startswith("Wall St. Bears Claw Back Into the Black (Reuters)\nReuters - Short-sell")
    assert made.spec.labels[int(first.label)] == "Business"


@pytest.mark.slow
def test_quotes_of_mrpc_are_letters(shared_data: Path) -> None:
    made = task("mrpc", shared_data)
    first = next(row for row in [*made.train, *made.valid] if row.where.endswith("train.txt:2"))
    assert 'whom he called "the witness", of' in first.texts[0]


@pytest.mark.slow
def test_questions_of_dream_come_behind_their_dialogue(shared_data: Path) -> None:
    made = task("dream", shared_data)
    assert {len(row.texts) for row in made.train} == {4}
    first = made.train[0]
    *dialogue, question = first.texts[0].split("\n")
    assert dialogue[0].startswith("M: I am considering dropping my dancing class.")
    assert question.endswith("?") and first.texts[1 + int(first.label)] == "Continue her dancing class."


@pytest.mark.slow
def test_an_empty_hotel_review_is_told(shared_data: Path) -> None:
    assert any("1 rows without text" in note and ":6376" in note for note in task("zh_hotel", shared_data).notes)


@pytest.mark.parametrize(
    ("name", "file"),
    [("sst5", "sst5/stsa.fine.dev"), pytest.param("movie_reviews", "movie_reviews.zip", marks=pytest.mark.slow)],
)
def test_inputs_are_read_one_by_one(name: str, file: str, shared_data: Path) -> None:
    made = task(name, shared_data)
    path = shared_data / "tasks" / file
    rows = list(read_unlabelled(made.spec, path))
    known = {r.where: r.texts for r in [*made.train, *made.valid]}
    assert rows and all(row.texts == known[row.where] and row.label is None for row in rows)


def test_the_line_is_named_where_utf_8_does_not_fit(shared_data: Path) -> None:
    spec = read_spec(
        EXAMPLES / "trec.toml", data=folder_of("trec", shared_data), overrides={"data": {"encoding": "utf-8"}}
    )
    with pytest.raises(CorpusError, match=r"TREC.train.all:\d+: is not UTF-8 \(found f0\).*set data.encoding = "):
        load_task(spec, seed=0)
