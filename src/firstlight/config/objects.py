"""Resolve names in settings: an entry of a table, or third-party code written ``package.module:Name``.

Importing a module runs its code. A reference is therefore imported only if the user named it, on the command line or in
a call; one that only a file names (a run.toml, a TASK.toml, a checkpoint's config.json) is refused outside
``trust_files``, since the file may come from somebody else.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from firstlight.errors import ConfigError, UnknownName

# A Protocol or base class, or a function that returns what is wrong with an object, or None.
Interface = type | Callable[[Any], str | None]

# Modules outside this package that references have named.
_external_modules: set[str] = set()

# References that the user named in this process.
_trusted: set[str] = set()
_trusting_files = False


def trust_references(*values: Any) -> None:
    """Allow ``load_object`` to import what these values name; values of settings may be tables and lists of them."""
    for value in values:
        if isinstance(value, Mapping):
            trust_references(*value.values())
        elif isinstance(value, list | tuple):
            trust_references(*value)
        elif isinstance(value, str) and ":" in value:
            _trusted.add(value)


@contextmanager
def trust_files(trust: bool = True) -> Iterator[None]:
    """Context in which files may name code to import; the option ``--trust``.

    Args:
        trust: False changes nothing.
    """
    global _trusting_files
    before = _trusting_files
    _trusting_files = before or trust
    try:
        yield
    finally:
        _trusting_files = before


def load_object(
    reference: str, table: Mapping[str, Any], *, kind: str, interface: Interface | None = None, where: str | None = None
) -> Any:
    """Return the object that ``reference`` names, checked against an interface before anything of it is called.

    Args:
        reference: a name of ``table``, or ``package.module:Name`` of an importable module.
        table: name -> object; a string entry ``"package.module:Name"`` is imported on first use.
        kind: what the table holds, for messages: "optimizer", "tracker".
        interface: what the object must be. A Protocol: every method and attribute that it declares, where methods
            must accept its arguments; for a class these are checked on the class. Another class: a subclass or an
            instance of it that implements all its abstract methods. A function: returns the problem, or None.
        where: the key of the setting, for messages.

    Raises:
        UnknownName: neither an entry nor of the form ``package.module:Name``.
        ConfigError: only a file names the module, the module or the name in it cannot be loaded, or the object does
            not implement the interface.
    """
    label = where or kind
    if reference in table:
        entry = table[reference]
        found = _import(entry, label) if isinstance(entry, str) else entry
    elif ":" in reference:
        _check_trusted(reference, kind, label)
        found = _import(reference, label)
    else:
        raise UnknownName(kind, reference, table, where=where, alternative="package.module:Name")
    problem = None if interface is None else interface_problem(found, interface)
    if problem is not None:
        raise ConfigError(f"{reference} cannot be used as {kind}: {problem}", where=label)
    return found


def interface_problem(found: Any, interface: Interface) -> str | None:
    """Return what keeps an object from implementing an interface, or None; see ``load_object``."""
    if not isinstance(interface, type):
        return interface(found)
    if not getattr(interface, "_is_protocol", False):
        fits = issubclass(found, interface) if isinstance(found, type) else isinstance(found, interface)
        if not fits:
            return f"it is {_describe(found)}, which is not a subclass of {_full_name(interface)}"
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            return f"it does not implement {', '.join(missing)}"
        abstract = sorted(getattr(interface, "__abstractmethods__", ()))
        return next(filter(None, (_signature_problem(found, interface, m) for m in abstract)), None)
    if "__call__" in vars(interface):
        return None if callable(found) else f"it is {_describe(found)}, which cannot be called"
    members = [m for base in interface.__mro__ if getattr(base, "_is_protocol", False) for m in _members(base)]
    missing = [m for m in members if not hasattr(found, m) and m not in getattr(found, "__annotations__", {})]
    if missing:
        return f"it is {_describe(found)}, and lacks {', '.join(dict.fromkeys(missing))}"
    constructor = vars(interface).get("__init__")
    if isinstance(found, type) and constructor is not None and constructor.__module__ == interface.__module__:
        members.append("__init__")
    return next(filter(None, (_signature_problem(found, interface, m) for m in members)), None)


def external_origin(error: BaseException) -> str | None:
    """Return where third-party code raised an error, as ``module, line N``; None if no module that was named did."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if module in _external_modules:
            found = f"{module}, line {line}"
    return found


def _check_trusted(reference: str, kind: str, label: str) -> None:
    if not _trusting_files and reference not in _trusted:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ConfigError(
            f"a file names {article} {kind} outside Firstlight, whose code would run on this machine",
            where=label,
            found=reference,
            expected="a built-in name, or one given on the command line",
            fix="If you trust that code and whoever wrote the file, add --trust.",
        )


def _import(reference: str, label: str) -> Any:
    module, _, name = reference.partition(":")
    if module.partition(".")[0] != __name__.partition(".")[0]:
        _external_modules.add(module)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # the module's own code runs, and may raise anything
        problem = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"{reference} cannot be loaded: {type(error).__name__}: {problem}",
            where=label,
            fix="Install its package, or add its folder to PYTHONPATH." if isinstance(error, ImportError) else None,
        ) from error
    return found


def _members(protocol: type) -> list[str]:
    declared = [*vars(protocol), *vars(protocol).get("__annotations__", {})]
    return [m for m in dict.fromkeys(declared) if not m.startswith("_")]


def _signature_problem(found: Any, interface: type, member: str) -> str | None:
    """Return a problem where a method does not accept the arguments that the interface declares."""
    declared = inspect.getattr_static(interface, member, None)
    own = getattr(found, member, None)
    if not inspect.isfunction(declared):
        return None
    if not callable(own):
        return f"its {member} is not callable"
    parameters = inspect.signature(declared).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    bound = not isinstance(found, type) or isinstance(inspect.getattr_static(found, member), classmethod | staticmethod)
    try:
        inspect.signature(own).bind(*positional[bound:], **dict.fromkeys(keywords))
    except TypeError as error:
        return f"its {_shown(member)} does not accept ({', '.join([*positional[1:], *keywords])}): {error}"
    except ValueError:  # a method written in C may have no signature
        return None
    return None


def _shown(member: str) -> str:
    return "constructor" if member == "__init__" else member


def _describe(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {_full_name(found)}"
    return f"the function {found.__name__}" if inspect.isfunction(found) else f"of type {type(found).__name__}"


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
