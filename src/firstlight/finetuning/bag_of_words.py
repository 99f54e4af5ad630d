"""A baseline for tasks on whole texts: a linear model on the TF-IDF of their words and pairs of words.

It knows no word order beyond pairs and nothing but the training rows, and is learned in seconds. A fine-tuned model
that does not beat it gains nothing from its pre-training. It reads the tokens that the model reads: of a text that was
truncated, the same part.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.finetuning.examples import EncodedExample, Label
from firstlight.finetuning.kinds import TaskHead
from firstlight.store import permute, round_keys

# The texts of one sequence of a row.
ToTexts = Callable[[np.ndarray], Sequence[str]]

# A word; of scripts without spaces between words, a character.
WORD = r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+"
MAX_ROWS = 10_000  # that it is fitted to: more take long, and hardly change the result
_MAX_COEFFICIENTS = 1_500_000  # classes x features: the solver takes minutes and gigabytes for more
_MAX_CLASSES = 1_000  # the solver has a number for each row and class
_INVERSE_REGULARIZATION = 10.0  # of the logistic regression
_ITERATIONS = 300


@dataclass(frozen=True, slots=True)
class BagOfWords:
    """A fitted baseline.

    Attributes:
        model: what it is, for people.
        n_rows: number of training rows that it was fitted to.
        predict: returns the label of each row.
    """

    model: str
    n_rows: int
    predict: Callable[[Sequence[EncodedExample]], list[Label]]


def fit_bag_of_words(head: TaskHead, rows: Sequence[EncodedExample], to_texts: ToTexts) -> BagOfWords | None:
    """Fit the baseline to training rows.

    A logistic regression for classes and for answers to choose from (whether an answer is right, given the texts of the
    question and the answer), a ridge regression for scores. Of two texts, the features are those of each, those of the
    words that both have, and how much they share.

    Args:
        head: of the task.
        rows: with labels; of more than 10,000, so many are drawn.
        to_texts: returns the texts of the ids of a sequence.

    Returns:
        The baseline; None for a label per word, and where rows have one label, more than 1,000 classes, or no words.
    """
    if head.is_per_token or not rows:
        return None
    if len(rows) > MAX_ROWS:
        drawn = permute(np.arange(MAX_ROWS), len(rows), round_keys("bag of words"))
        rows = [rows[i] for i in drawn.tolist()]
    chooses = head.has_probabilities and not head.has_classes
    texts = [texts for row in rows for texts in _texts(row, to_texts, every=chooses)]
    labels: list[Any] = [choice == row.label for row in rows for choice in row.choices] if chooses else []
    labels = labels or [row.label for row in rows]
    n_classes = len(set(labels)) if head.has_probabilities else 1
    if len(set(labels)) < 2 or n_classes > _MAX_CLASSES or len(labels) != len(texts):
        return None
    try:
        features = _Features(texts, _MAX_COEFFICIENTS // n_classes)
    except ValueError:  # not a single word
        return None
    from sklearn.exceptions import ConvergenceWarning

    if head.has_probabilities:
        from sklearn.linear_model import LogisticRegression

        name, model = "logistic regression", LogisticRegression(C=_INVERSE_REGULARIZATION, max_iter=_ITERATIONS)
    else:
        from sklearn.linear_model import Ridge

        name, model = "ridge regression", Ridge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after so many iterations it is near enough
        model.fit(features(texts), labels)

    def predict(rows: Sequence[EncodedExample]) -> list[Label]:
        found = features([texts for row in rows for texts in _texts(row, to_texts, every=chooses)])
        if not chooses:
            predicted: list[Label] = model.predict(found).tolist()
            return predicted
        scores, ends = model.decision_function(found), np.cumsum([len(row.choices) for row in rows])
        parts = np.split(scores, ends[:-1])
        return [row.choices[int(part.argmax())] for row, part in zip(rows, parts, strict=True)]

    return BagOfWords(name, len(rows), predict)


def _texts(row: EncodedExample, to_texts: ToTexts, *, every: bool) -> list[Sequence[str]]:
    """Return the texts of the first sequence of a row, as a second one has them in another order; or of every one."""
    return [to_texts(sequence) for sequence in (row.sequences if every else row.sequences[:1])]


class _Features:
    """TF-IDF of words and pairs of words of the texts of a row, as a sparse matrix; and what two texts share.

    Of more than ``most``, the most frequent ones.
    """

    def __init__(self, rows: Sequence[Sequence[str]], most: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._n = max(map(len, rows))
        self._tfidf = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=most)
        self._tfidf.fit([text for texts in rows for text in texts])

    def __call__(self, rows: Sequence[Sequence[str]]) -> Any:
        from scipy import sparse

        padded = [[*texts, *[""] * self._n][: self._n] for texts in rows]
        parts = [self._tfidf.transform([texts[i] for texts in padded]) for i in range(self._n)]
        if self._n == 2:
            both = parts[0].multiply(parts[1])
            parts += [both, sparse.csr_matrix(both.sum(1))]
        return sparse.hstack(parts).tocsr()
