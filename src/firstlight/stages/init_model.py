"""Load the model that a run starts from; where a resumed run no longer finds it, say how to name its new place."""

from pathlib import Path

from firstlight.errors import UsageError
from firstlight.lm import LM
from firstlight.runs import RunDirectory


def load_init_model(run: RunDirectory, name: str) -> LM:
    """Load the model that a run starts from.

    Args:
        run: the run directory.
        name: of the model, as its settings have it.

    Raises:
        UsageError: it is not there.
        CheckpointError: it is damaged.
    """
    try:
        return LM.load_fp32(name)
    except UsageError as error:
        if not run.exists or Path(name).exists():
            raise
        raise UsageError(
            "the model that the run started from is not there",
            where=f"{run.settings_file}: run.init_from",
            found=name,
            fix="Put it back, or add its new place to the command, as run.init_from=MODEL.",
        ) from error
