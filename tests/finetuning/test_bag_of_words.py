"""The bag of words that a fine-tuned model is compared with, and what is said where the model is no better."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.cli.app import run as command
from firstlight.cli.finetune import _print_metrics
from firstlight.finetuning import EncodedExample, TaskMetrics, bag_of_words, diagnose, fit_bag_of_words, head_of
from firstlight.finetuning.kinds import TaskHead
from firstlight.lm import LM
from firstlight.statistics import METRICS, bootstrap_interval
from small_task import model, spec, tokenizer, write_task

WORDS = ["good", "bad", "film", "song", "day", "the", "一", "好", "Berlin", "rain"]


def ids(text: str) -> np.ndarray:
    return np.array([WORDS.index(word) for word in text.split()], dtype=np.int32)


def texts_of(sequence: np.ndarray) -> list[str]:
    """A negative id separates texts."""
    parts = np.split(sequence, np.flatnonzero(sequence < 0))
    return [" ".join(WORDS[i] for i in part if i >= 0) for part in parts]


def row(label: object, *texts: str, choices: tuple[int, ...] = ()) -> EncodedExample:
    sequences = tuple(ids(text) for text in texts)
    return EncodedExample(sequences, (0,), label, "x:1", choices=choices)  # type: ignore[arg-type]


def head(kind: str, **more: object) -> TaskHead:
    found = head_of(spec(kind, **more))
    assert found is not None
    return found


def test_words_decide_the_class() -> None:
    rows = [row(1, "good film"), row(0, "bad film"), row(1, "good day"), row(0, "bad day")] * 3
    baseline = fit_bag_of_words(head("classification"), rows, texts_of)
    assert baseline is not None and baseline.model == "logistic regression" and baseline.n_rows == 12
    assert baseline.predict([row(None, "the good song"), row(None, "the bad song")]) == [1, 0]


def test_it_equals_scikit_learn_on_the_same_features() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    source = np.random.default_rng(0)
    texts = [" ".join(source.choice(WORDS[:6], 5)) for _ in range(60)]
    labels = [int(text.count("good") > text.count("bad")) for text in texts]
    reference = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10))
    reference.fit(texts[:40], labels[:40])
    baseline = fit_bag_of_words(
        head("classification"), [row(n, t) for n, t in zip(labels[:40], texts[:40], strict=True)], texts_of
    )
    assert baseline is not None
    assert baseline.predict([row(None, t) for t in texts[40:]]) == reference.predict(texts[40:]).tolist()


def test_a_regression_that_has_not_converged_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_of_words, "_ITERATIONS", 1)
    rows = [row(1, "good film"), row(0, "bad film"), row(1, "the song day"), row(0, "day")] * 3
    assert fit_bag_of_words(head("classification"), rows, texts_of) is not None


def test_characters_of_chinese_are_words() -> None:
    rows = [row(1, "好"), row(0, "一")] * 4
    baseline = fit_bag_of_words(head("classification"), rows, texts_of)
    assert baseline is not None and baseline.predict([row(None, "一 好 好 好"), row(None, "一 一")]) == [1, 0]


def test_scores_are_learned_by_a_ridge_regression() -> None:
    rows = [row(1.0, "good film"), row(0.0, "bad film"), row(0.5, "film")] * 5
    baseline = fit_bag_of_words(head("regression"), rows, texts_of)
    assert baseline is not None and baseline.model == "ridge regression"
    good, bad = baseline.predict([row(None, "good"), row(None, "bad")])
    assert good > 0.5 > bad  # type: ignore[operator]


def test_an_answer_is_chosen_by_its_words_and_those_of_the_question() -> None:
    rows = [row(i % 2, *["good", "bad"][:: 1 - 2 * (i % 2)], choices=(0, 1)) for i in range(8)]
    baseline = fit_bag_of_words(head("multiple_choice"), rows, texts_of)
    assert baseline is not None
    answers = [row(None, "bad", "the good", choices=(0, 2)), row(None, "good day", "bad", "film", choices=(0, 1, 3))]
    assert baseline.predict(answers) == [2, 0]


def test_two_texts_are_compared() -> None:
    sequence = lambda a, b: np.concatenate([ids(a), [-1], ids(b)]).astype(np.int32)  # noqa: E731
    same = [sequence(word, word) for word in ("good", "bad", "film", "song", "day", "rain")]
    different = [sequence(a, b) for a, b in zip(WORDS[:6], WORDS[1:7], strict=True)]
    rows = [EncodedExample((s,), (0,), label, "x") for label, part in enumerate((different, same)) for s in part]
    baseline = fit_bag_of_words(head("pair"), rows * 3, texts_of)
    assert baseline is not None
    unseen = [EncodedExample((s,), (0,), None, "x") for s in (sequence("Berlin", "Berlin"), sequence("Berlin", "the"))]
    assert baseline.predict(rows) == [row.label for row in rows]
    assert baseline.predict(unseen)[1] == 0


@pytest.mark.parametrize(
    "rows", [[], [row(0, "good"), row(0, "bad")], [row(0, ""), row(1, "")]], ids=["none", "one class", "no words"]
)
def test_nothing_to_fit(rows: list[EncodedExample]) -> None:
    assert fit_bag_of_words(head("classification"), rows, texts_of) is None


def test_a_label_per_word_has_no_bag_of_words() -> None:
    assert fit_bag_of_words(head("token_classification"), [row((0, 1), "good bad")], texts_of) is None


def metrics(value: float, low: float, high: float, **more: object) -> TaskMetrics:
    return TaskMetrics("accuracy", value, low, high, {}, 0.5, 100, **more)  # type: ignore[arg-type]


MAJORITY = {"label": "no", "value": 0.6}


def test_nothing_is_said_of_a_good_model() -> None:
    words = {"model": "logistic regression", "value": 0.8, "rows": 9, "p_value": 0.01}
    valid = metrics(0.9, 0.8, 1.0, majority=MAJORITY, bag_of_words=words)
    test = metrics(0.85, 0.8, 0.9, majority=MAJORITY, bag_of_words=words)
    assert diagnose(valid, test, ["no", "yes"]) == []
    assert diagnose(valid, None, ["no", "yes"]) == []


def test_a_model_below_the_majority_class_and_what_to_try() -> None:
    collapsed = metrics(0.4, 0.3, 0.5, majority=MAJORITY, confusion=[[0, 6], [0, 4]])
    (said,) = diagnose(collapsed, None, ["no", "yes"])
    assert said.startswith("accuracy 0.400 on the validation rows does not beat always predicting 'no' (0.600), and")
    assert "every row is predicted as 'yes'" in said and "run.seed" in said and "--search" in said
    (said,) = diagnose(metrics(0.65, 0.58, 0.7, majority=MAJORITY), None, ["no", "yes"])
    assert "not beyond chance: its interval begins at 0.580" in said


def test_a_bag_of_words_that_is_ahead() -> None:
    words = {"model": "logistic regression", "value": 0.95, "rows": 9, "p_value": 0.02}
    test = metrics(0.85, 0.8, 0.9, bag_of_words=words)
    (said,) = diagnose(metrics(0.85, 0.8, 0.9), test, [])
    assert said == (
        "a bag of words (logistic regression on TF-IDF, of the tokens that the model reads) has accuracy 0.950 on the "
        "test rows, the model 0.850 (p = 0.02): the task may need no more than words, or the model more pre-training "
        "text, updates (--search) or rows"
    )
    test = metrics(0.85, 0.8, 0.96, bag_of_words={**words, "p_value": 0.125})
    (said,) = diagnose(metrics(0.85, 0.8, 0.9), test, [])
    assert said.endswith("the model 0.850: a difference within chance (p = 0.12)")


def test_splits_that_differ_by_more_than_chance() -> None:
    (said,) = diagnose(metrics(0.85, 0.8, 0.9), metrics(0.55, 0.5, 0.6), [])
    assert "is 0.850 on the validation rows and 0.550 on the test rows: they differ by more than chance" in said
    assert "validation rows may resemble training rows" in said
    (said,) = diagnose(metrics(0.55, 0.5, 0.6), metrics(0.85, 0.8, 0.9), [])
    assert "test rows may resemble training rows more" in said
    assert diagnose(metrics(0.75, 0.65, 0.85), metrics(0.65, 0.6, 0.7), []) == []


def of(metric: str, value: float, low: float, high: float, n: int, **more: object) -> TaskMetrics:
    return TaskMetrics(metric, value, low, high, {}, 0.5, n, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("metric", "true"), [("accuracy", 0.9), ("matthews", 0.8), ("accuracy", 0.7)])
@pytest.mark.parametrize("n", [2, 5, 10, 20, 50, 100])
def test_splits_of_one_distribution_hardly_ever_differ(metric: str, true: float, n: int) -> None:
    generator, said = np.random.default_rng(n), 0
    function = METRICS[metric]
    for _ in range(40):
        splits = []
        for size in (n, 500):
            labels = generator.integers(0, 2, size)
            guess = np.where(generator.random(size) < true, labels, 1 - labels)
            interval = bootstrap_interval(function, guess, labels, n_bootstrap=60)
            splits.append(of(metric, function(guess, labels), *interval, size))
        said += len(diagnose(*splits, [])) if splits[1].low > 0 else 0
    assert said <= 2, "at 1 %, three of forty come once in 130 times"


def test_splits_without_an_interval_that_differ_are_told() -> None:
    for metric in ("accuracy", "pearson", "matthews"):
        said = diagnose(of(metric, 1.0, 1.0, 1.0, 60), of(metric, 0.0, 0.0, 0.0, 60), [])
        assert any("differ by more than chance" in text for text in said), metric


def test_the_best_constant_may_be_another_than_the_majority_of_the_training_rows() -> None:
    found = of(
        "accuracy", 0.53, 0.48, 0.58, 100, majority={"label": "no", "value": 0.45}, confusion=[[20, 25], [22, 33]]
    )
    (said,) = diagnose(found, None, ["no", "yes"])
    assert said.startswith("accuracy 0.530 on the validation rows does not beat always predicting 'yes' (0.550)")


def test_rows_of_one_label_say_nothing() -> None:
    found = of("accuracy", 1.0, 0.34, 1.0, 2, majority={"label": "no", "value": 1.0}, confusion=[[2, 0], [0, 0]])
    assert diagnose(found, None, ["no", "yes"]) == [
        "every one of the validation rows has the label 'no', so they say nothing about the others"
    ]


def test_scores_without_skill_are_told() -> None:
    (said,) = diagnose(of("pearson", 0.046, -0.09, 0.18, 200), None, [])
    assert said.startswith("pearson 0.046 on the validation rows is not above 0 beyond chance")
    assert diagnose(of("pearson", 0.3, 0.1, 0.5, 200), None, []) == []


def test_a_run_says_it_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tokenizer()
    LM(model(words.vocab_size), words).save(tmp_path / "base")
    toml = write_task(tmp_path / "data")
    arguments = ["finetune", str(tmp_path / "base"), str(toml), "--out", str(tmp_path / "run")]
    assert command([*arguments, "train.steps=1", "optim.lr=1e-9", "hardware.device=cpu"]) == 0
    printed = capsys.readouterr()
    assert "; bag of words 1.0000)" in printed.out
    assert "of the tokens that the model reads) has accuracy 1.000 on the test" in printed.err
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["test"]["mood"]["bag_of_words"] == {
        "model": "logistic regression",
        "value": 1.0,
        "rows": 80,
        "p_value": 2 / 2**9,
    }
    assert any("a bag of words" in warning for warning in evaluation["warnings"]["mood"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "mood: a bag of words" in page and "side by side" in page


def test_the_result_of_an_earlier_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    table = {"metric": "accuracy", "value": 0.9, "low": 0.8, "high": 1.0, "n": 10, "others": {}, "majority": None}
    _print_metrics("valid", {"mood": table})
    assert capsys.readouterr().out == "mood, valid: accuracy 0.9000 (95 % interval 0.8000 to 1.0000; n 10)\n"


def test_words_of_a_sentence_are_not_independent() -> None:
    """Fisher's test knows no sentences; the interval, which resamples them, does."""
    valid, test = of("accuracy", 0.90, 0.84, 0.96, 2000), of("accuracy", 0.94, 0.90, 0.97, 2000)
    assert diagnose(valid, test, []) == []
