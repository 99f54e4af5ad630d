"""``quickstart``: train a small GPT in minutes on a laptop, on text that every Python installation has."""

from collections.abc import Sequence
from pathlib import Path

from firstlight.runs import RunDirectory
from firstlight.stages.pretrain import PretrainResult, pretrain
from firstlight.types import Paths, as_list

CORPUS = ("python-docs", "python-code")
PRESET = "quickstart"


def quickstart(
    corpus: Paths = (), *, out: str | Path = "runs/quickstart", overrides: str | Sequence[str] = ()
) -> PretrainResult:
    """Train a small GPT on Python's own documentation and source code, or on ``corpus``.

    Resumes a run that was interrupted.

    Args:
        corpus: as for ``pretrain``; empty for the embedded corpora.
        out: the run directory.
        overrides: settings as ``key=value``.
    """
    return pretrain(
        as_list(corpus) or CORPUS, out=out, preset=PRESET, resume=RunDirectory(Path(out)).exists, overrides=overrides
    )
