"""Firstlight: pre-train, fine-tune, evaluate and use GPT models.

The functions of this package are those behind the commands, with typed results. Each one, and torch with it, is
imported on first use::

    import firstlight

    firstlight.pretrain("mybooks", out="runs/mine", overrides=["train.steps=300"])
    firstlight.generate("runs/mine", "Once upon a time", max_new_tokens=40)

Errors are those of ``firstlight.errors``: ``FirstlightError`` is what all of them derive from.
"""

import os
import sys

# ``python -m firstlight``, as torchrun runs it, puts the current folder first on the import path. Files there, perhaps
# downloaded, must not be imported in place of a library: it is removed before anything else is imported.
if (
    sys.argv[:1] == ["-m"]
    and any(argument in ("firstlight", "-mfirstlight") for argument in sys.orig_argv[1:])
    and not sys.flags.safe_path
    and sys.path[:1] in ([""], [os.getcwd()])  # noqa: PTH109
):
    del sys.path[0]

from typing import TYPE_CHECKING  # noqa: E402

from firstlight.lazy import attach  # noqa: E402

if TYPE_CHECKING:
    from firstlight import config, errors
    from firstlight.stages.data import prepare
    from firstlight.stages.evaluate import evaluate
    from firstlight.stages.finetune import finetune
    from firstlight.stages.finetune_search import finetune_search
    from firstlight.stages.finetune_seeds import finetune_seeds
    from firstlight.stages.generate import generate, load
    from firstlight.stages.metrics import metrics
    from firstlight.stages.predict import predict
    from firstlight.stages.pretrain import pretrain
    from firstlight.stages.probe import probe
    from firstlight.stages.quickstart import quickstart
    from firstlight.stages.transfer import transfer

__all__ = [
    "__version__",
    "config",
    "errors",
    "evaluate",
    "finetune",
    "finetune_search",
    "finetune_seeds",
    "generate",
    "load",
    "metrics",
    "predict",
    "prepare",
    "pretrain",
    "probe",
    "quickstart",
    "transfer",
]

__version__ = "0.1.0"

__getattr__, __dir__ = attach(
    __name__,
    {
        "stages.data": ["prepare"],
        "stages.evaluate": ["evaluate"],
        "stages.finetune": ["finetune"],
        "stages.finetune_search": ["finetune_search"],
        "stages.finetune_seeds": ["finetune_seeds"],
        "stages.generate": ["generate", "load"],
        "stages.metrics": ["metrics"],
        "stages.predict": ["predict"],
        "stages.pretrain": ["pretrain"],
        "stages.probe": ["probe"],
        "stages.quickstart": ["quickstart"],
        "stages.transfer": ["transfer"],
    },
    modules=["config", "errors"],
)
