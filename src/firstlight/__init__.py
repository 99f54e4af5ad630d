"""Firstlight: pre-train, adapt, understand and use your own GPT.

The functions here are those behind the commands; each is loaded, and torch with it, when first used.
"""

from typing import TYPE_CHECKING

from firstlight.lazy import attach

if TYPE_CHECKING:
    from firstlight.stages.data import prepare
    from firstlight.stages.evaluate import evaluate
    from firstlight.stages.finetune import finetune
    from firstlight.stages.generate import generate, load
    from firstlight.stages.predict import predict
    from firstlight.stages.pretrain import pretrain
    from firstlight.stages.probe import probe
    from firstlight.stages.quickstart import quickstart

__all__ = [
    "__version__",
    "evaluate",
    "finetune",
    "generate",
    "load",
    "predict",
    "prepare",
    "pretrain",
    "probe",
    "quickstart",
]

__version__ = "0.1.0"

__getattr__, __dir__ = attach(
    __name__,
    {
        "stages.data": ["prepare"],
        "stages.evaluate": ["evaluate"],
        "stages.finetune": ["finetune"],
        "stages.generate": ["generate", "load"],
        "stages.predict": ["predict"],
        "stages.pretrain": ["pretrain"],
        "stages.probe": ["probe"],
        "stages.quickstart": ["quickstart"],
    },
)
