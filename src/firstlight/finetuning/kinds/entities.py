"""Entities that the labels of words mark: B-TYPE begins one, I-TYPE continues it, O is outside.

Also E-TYPE, which ends one, and S-TYPE, an entity of one word. As in conlleval (CoNLL 2000) and seqeval's default mode,
an I- or E- label after O or another type begins an entity, too; one is right if its first word, last word and type are.
"""

import re
from collections.abc import Sequence

import numpy as np

ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")

_MARKED = re.compile(r"([BIES])-(.+)", re.DOTALL)
_OUTSIDE = ("O", "")


def mark_entities(labels: Sequence[str]) -> bool:
    """Whether all labels are O or mark words of an entity, and there are some of both."""
    marks = [_MARKED.fullmatch(label) for label in labels]
    return any(marks) and "O" in labels and all(m or label == "O" for m, label in zip(marks, labels, strict=True))


def entity_counts(
    labels: Sequence[str], predicted: Sequence[Sequence[int]], true: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Count the entities of each row.

    Args:
        labels: names of the classes.
        predicted: classes of the words of each row.
        true: the same, of the labels.

    Returns:
        (N, 2) for the predictions, right entities and predicted ones; and (N, 2) for the labels, right and true ones.
    """
    tags = [m.groups() if (m := _MARKED.fullmatch(label)) else _OUTSIDE for label in labels]
    counts = np.zeros((2, len(true), 2), dtype=np.int64)
    for i, (guess, row) in enumerate(zip(predicted, true, strict=True)):
        found, there = (_entities([tags[c] for c in classes]) for classes in (guess, row))
        right = len(found & there)
        counts[0, i], counts[1, i] = (right, len(found)), (right, len(there))
    return counts[0], counts[1]


def _entities(tags: Sequence[tuple[str, ...]]) -> set[tuple[str, int, int]]:
    """Return type, first word and word after the last of each entity of a row."""
    found: set[tuple[str, int, int]] = set()
    begin: int | None = None
    before: tuple[str, ...] = _OUTSIDE
    for i, (mark, kind) in enumerate([*tags, _OUTSIDE]):
        continues = mark in ("I", "E") and before[0] in ("B", "I") and kind == before[1]
        if not continues:
            if begin is not None:
                found.add((before[1], begin, i))
            begin = None if mark == "O" else i
        before = (mark, kind)
    return found
