"""Lazy exports: a package's public names, each imported from its submodule on first access (PEP 562).

Used only where an eager import would load torch, or a library of an extra, before it is needed.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, exports: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the package's ``__name__``; its ``__all__`` lists every public name.
        exports: names to export, by submodule.
        modules: public submodules, which are found before anything has imported them.

    Example:
        ``__getattr__, __dir__ = attach(__name__, {"sampling": ["GenerateSettings"]})``
    """
    module_of = {name: module for module, names in exports.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(importlib.import_module(package).__all__)

    return __getattr__, __dir__
