"""Firstlight: pre-train, adapt, understand and use your own GPT.

The functions here are those behind the commands; each is loaded, and torch with it, when first used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

_STAGES = {
    "evaluate": "evaluate",
    "finetune": "finetune",
    "generate": "generate",
    "load": "generate",
    "predict": "predict",
    "prepare": "data",
    "pretrain": "pretrain",
    "probe": "probe",
    "quickstart": "quickstart",
}


def __getattr__(name: str) -> Any:
    if name not in _STAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SHARED:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.stages.{_STAGES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__]


# Names that are a function of ours and also a room: the room can be called, and is then the function.
_SHARED = frozenset({"evaluate"})


class _CallableRoom(ModuleType):
    """A room that bears the name of a command, such as ``firstlight.evaluate``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the stage of the room's name."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"{__name__}.stages.{name}"), name)(*args, **kwargs)


class _Package(ModuleType):
    """This package: the import system binds a room to it, and a shared room becomes callable then."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _SHARED and isinstance(value, ModuleType):
            value.__class__ = _CallableRoom
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
