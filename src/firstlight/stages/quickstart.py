"""``quickstart``: the whole way on the embedded corpus, minutes on a laptop."""

from collections.abc import Sequence
from pathlib import Path

from firstlight.stages.pretrain import PretrainResult, pretrain

CORPUS = ("python-docs", "python-code")
PRESET = "quickstart"


def quickstart(
    corpus: Sequence[str] = (), *, out: str | Path = "runs/quickstart", overrides: Sequence[str] = ()
) -> PretrainResult:
    """Train a small GPT on the reference text and the sources that every Python has, or on ``corpus``.

    Goes on where a run was cut off.

    Args:
        corpus: as for ``pretrain``; empty for the embedded corpora.
        out: the run directory.
        overrides: ``key=value`` words.
    """
    return pretrain(list(corpus) or list(CORPUS), out=out, preset=PRESET, resume=True, overrides=overrides)
