"""Scores of entities, and of rows of words: as seqeval and conlleval count them."""

import numpy as np
import pytest

from firstlight.errors import ConfigError
from firstlight.finetuning import EncodedExample, Prediction, compute_metrics, head_of
from firstlight.finetuning.examples import RawExample
from firstlight.finetuning.kinds.entities import entity_counts, mark_entities
from firstlight.statistics import METRICS, bootstrap_interval
from small_task import spec

LABELS = ["O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-A"]


@pytest.mark.parametrize(
    ("true", "predicted", "counts"),
    [
        # The values are those of seqeval 1.2.2: true, predicted and right entities.
        ("B-A I-A O B-B", "B-A I-A O B-B", (2, 2, 2)),
        ("B-A I-A O B-B", "B-A O O B-B", (2, 2, 1)),  # another end
        ("B-A I-A O B-B", "B-B I-B O B-B", (2, 2, 1)),  # another type
        ("I-A I-A O I-B", "B-A I-A O B-B", (2, 2, 2)),  # IOB1: I- begins after O
        ("B-A I-B I-B O", "B-A B-B I-B O", (2, 2, 2)),  # another type begins
        ("B-A B-A I-A O", "B-A I-A I-A O", (2, 1, 0)),
        ("B-A I-A E-A S-A", "B-A I-A I-A S-A", (2, 2, 2)),
        ("O O", "O O", (0, 0, 0)),
        ("B-A I-A E-A I-A", "S-A I-A E-A E-A", (2, 3, 1)),
    ],
)
def test_entities_are_counted_as_by_seqeval(true: str, predicted: str, counts: tuple[int, int, int]) -> None:
    rows = [[[LABELS.index(tag) for tag in tags.split()]] for tags in (predicted, true)]
    guessed, there = entity_counts(LABELS, *rows)
    assert (there[0, 1], guessed[0, 1], guessed[0, 0]) == counts
    assert guessed[0, 0] == there[0, 0]


def test_entities_end_with_their_sentence() -> None:
    guessed, _ = entity_counts(LABELS, [(1,), (2, 0)], [(1,), (2, 0)])
    assert guessed.tolist() == [[1, 1], [1, 1]]


def test_labels_that_mark_entities() -> None:
    assert mark_entities(["B-PER", "I-PER", "O"])
    assert not mark_entities(["NOUN", "VERB", "O"])
    assert not mark_entities(["B-PER", "I-PER"])
    assert not mark_entities(["O"])


def _row(label: tuple[int, ...]) -> EncodedExample:
    return EncodedExample((np.arange(len(label)),), tuple(range(len(label))), label, "rows:1")


def test_f1_of_entities_selects_the_checkpoint_of_such_a_task() -> None:
    task = spec("token_classification", labels=LABELS, label_values=LABELS)
    rows = [_row((1, 2, 0, 0)), _row((0, 0, 0, 3))]
    predictions = [Prediction(label, np.full((4, 1), 0.9), 1.0) for label in ((1, 0, 0, 0), (0, 0, 0, 3))]
    found = compute_metrics(task, rows, predictions, train=rows, n_bootstrap=20)
    assert (found.metric, found.value, found.n) == ("entity_f1", 0.5, 8)
    assert found.others["entity_precision"] == found.others["entity_recall"] == 0.5
    assert found.others["accuracy"] == 7 / 8
    assert found.majority == {"label": "O", "value": 0.0}
    assert found.low <= 0.5 <= found.high


def test_words_that_mark_nothing_have_no_entities() -> None:
    head = head_of(spec("token_classification", labels=["NOUN", "VERB"], label_values=["NOUN", "VERB"]))
    assert head is not None
    assert "entity_f1" not in head.reported_metrics(
        spec("token_classification", labels=["NOUN", "VERB"], label_values=["NOUN", "VERB"])
    )
    asked = spec("token_classification", metric="entity_f1", labels=[], label_values=[])
    with pytest.raises(ConfigError, match="where entities begin"):
        head.fit_labels(asked, [RawExample(("a", "b"), ("NOUN", "VERB"), "rows:1")], [])


def test_the_words_of_a_sentence_are_resampled_together() -> None:
    lengths = np.array([1, 3, 2])
    true = np.array([5, 7, 7, 7, 9, 9])

    def by_sentence(predicted: np.ndarray, drawn: np.ndarray) -> float:
        counts = np.bincount(drawn, minlength=10)
        assert counts[7] % 3 == counts[9] % 2 == 0 and (predicted == drawn).all()
        return counts[5] + counts[7] // 3 + counts[9] // 2

    assert bootstrap_interval(by_sentence, true, true, n_bootstrap=30, lengths=lengths) == (3, 3)
    # Sentences that are wholly right or wrong: as wide as of the 20 sentences, not of the 200 words.
    right, lengths = np.repeat(np.arange(20) % 2, 10), np.full(20, 10)
    low, high = bootstrap_interval(METRICS["accuracy"], right, np.ones(200), lengths=lengths)
    assert high - low > 0.3


def test_scores_have_a_mean_absolute_error_in_their_own_scale() -> None:
    task = spec("regression", scale=(1.0, 5.0))
    rows = [EncodedExample((np.arange(2),), (1,), label, "rows:1") for label in (0.0, 0.5, 1.0)]
    predictions = [Prediction(score, np.zeros(0), 0.1) for score in (0.25, 0.5, 0.5)]
    assert compute_metrics(task, rows, predictions).others["mae"] == pytest.approx((1 + 0 + 2) / 3)
