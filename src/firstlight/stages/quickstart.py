"""``quickstart``: train a small GPT in minutes on a laptop, on text that every Python installation has."""

from collections.abc import Sequence
from pathlib import Path

from firstlight.stages.pretrain import PretrainResult, pretrain

CORPUS = ("python-docs", "python-code")
PRESET = "quickstart"


def quickstart(
    corpus: Sequence[str] = (), *, out: str | Path = "runs/quickstart", overrides: Sequence[str] = ()
) -> PretrainResult:
    """Train a small GPT on Python's own documentation and source code, or on ``corpus``.

    Resumes a run that was interrupted.

    Args:
        corpus: as for ``pretrain``; empty for the embedded corpora.
        out: the run directory.
        overrides: settings as ``key=value``.
    """
    return pretrain(list(corpus) or list(CORPUS), out=out, preset=PRESET, resume=True, overrides=overrides)
