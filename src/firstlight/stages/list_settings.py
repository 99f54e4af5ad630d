"""``settings``: list every setting of the commands, read from the classes that declare them."""

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from firstlight.config import Settings, TaggedUnion
from firstlight.errors import UsageError, nearest
from firstlight.shell import command_line
from firstlight.stages.data import PrepareSettings
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.probe_images import ProbeSettings
from firstlight.stages.score_sequences import EvaluateSettings
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.tokenizer import CompareSettings, TokenizerTrainSettings
from firstlight.stages.vectors import VectorsTrainSettings

# The settings of each command that takes key=value arguments.
ROOTS: dict[str, type[Settings]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "data prepare": PrepareSettings,
    "tokenizer train": TokenizerTrainSettings,
    "tokenizer compare": CompareSettings,
    "tokenizer vectors train": VectorsTrainSettings,
    "evaluate": EvaluateSettings,
    "probe": ProbeSettings,
}
_BOUNDS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "multiple_of": "multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
}
_POWERS = {2**31: "2**31", 2**32: "2**32", 2**63: "2**63", 2**64: "2**64"}


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting.

    Attributes:
        key: dotted, as in run.toml and on the command line.
        default: None if it is not set by default.
        values: type with range, or choices.
        description: meaning.
        commands: commands that take it.
        only_with: choices of a table that have it, such as ``optim.name=muon``; empty: all have it.
        required: it has no default and must be given in its table.
    """

    key: str
    default: Any
    values: str
    description: str
    commands: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    required: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    def default_text(self) -> str:
        """Format the default as it is written on the command line."""
        if self.required:
            return "required"
        if self.default is None:
            return "not set"
        return self.default if isinstance(self.default, str) and self.default else json.dumps(self.default)


def list_settings(prefix: str | None = None, *, roots: Mapping[str, type[Settings]] = ROOTS) -> list[SettingInfo]:
    """List the settings of all commands, or those below a prefix such as ``optim`` or ``optim.schedule``.

    A setting that several commands have in common is listed once.

    Raises:
        UsageError: no setting has that prefix.
    """
    found = [
        replace(setting, commands=(command,)) for command, root in roots.items() for setting in _walk(root, None, "")
    ]
    found = _merge(found, "commands")
    # In the order in which tables and keys are declared, with the variants of a key next to each other.
    keys = list(dict.fromkeys(setting.key for setting in found))
    tables = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    found.sort(key=lambda setting: (tables.index(setting.key.partition(".")[0]), keys.index(setting.key)))
    if prefix is None:
        return found
    prefix = prefix.rstrip(".")
    below = [setting for setting in found if setting.key == prefix or setting.key.startswith(f"{prefix}.")]
    if not below:
        known = sorted({key.rpartition(".")[0] for key in keys} | set(keys))
        near = next((key for key in keys if key.endswith(f".{prefix}")), None) or nearest(prefix, known)
        fix = f"Did you mean {near}?" if near else f"List all settings: {command_line('settings')}"
        raise UsageError("unknown setting", where=prefix, expected=f"one of {', '.join(tables)}", fix=fix)
    return below


def _walk(cls: type[BaseModel], instance: BaseModel | None, prefix: str) -> Iterator[SettingInfo]:
    """Yield the settings of a class.

    ``instance`` is the default of the field that holds the class; its values are the defaults.
    """
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        default = field.get_default(call_default_factory=True) if instance is None else getattr(instance, name)
        tables = _tables(field.annotation)
        union = next((item for item in field.metadata if isinstance(item, TaggedUnion)), None)
        if not tables:
            yield _leaf(key, field, default)
        elif union is not None:
            yield from _walk_union(key, union, {name: union.member(tables[0], name) for name in union.table}, default)
        else:
            for table in tables:
                yield from _walk(table, default if isinstance(default, table) else None, f"{key}.")


def _walk_union(
    key: str, union: TaggedUnion, tables: Mapping[str, type[BaseModel]], default: Any
) -> Iterator[SettingInfo]:
    """Yield the name of a tagged union, then the settings of its members; those that all members have come once."""
    values = " | ".join([*tables, "package.module:Class"])
    description = f"the {union.kind} that [{key}] configures"
    yield SettingInfo(f"{key}.name", getattr(default, "name", None), values, description)
    found = [
        replace(setting, only_with=(f"{key}.name={name}",))
        for name, table in tables.items()
        for setting in _walk(table, default if isinstance(default, table) else None, f"{key}.")
        if setting.key != f"{key}.name"
    ]
    for setting in _merge(found, "only_with"):
        yield replace(setting, only_with=()) if len(setting.only_with) == len(tables) else setting


def _merge(settings: Iterable[SettingInfo], field: Literal["commands", "only_with"]) -> list[SettingInfo]:
    """Merge settings that differ in ``field`` only, and join what they have there."""
    merged: dict[str, SettingInfo] = {}
    for setting in settings:
        identity = json.dumps({**asdict(setting), field: None}, default=str)
        known = merged.get(identity)
        if known is None:
            merged[identity] = setting
        elif field == "commands":
            merged[identity] = replace(known, commands=known.commands + setting.commands)
        else:
            merged[identity] = replace(known, only_with=known.only_with + setting.only_with)
    return list(merged.values())


def _leaf(key: str, field: FieldInfo, default: Any) -> SettingInfo:
    required = default is PydanticUndefined
    description = " ".join((field.description or "").split())
    return SettingInfo(key, None if required else default, _values(field), description, required=required)


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that a field holds, alone or in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        return [table for part in typing.get_args(annotation) for table in _tables(part)]
    return []


def _values(field: FieldInfo) -> str:
    """Describe what a field takes: ``int >= 1``, ``float > 0, < 1``, ``auto | fp32 | bf16``."""
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, metadata: Sequence[Any]) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner = [m for extra in parts[1:] for m in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return _describe(parts[0], [*inner, *metadata])
    if origin in (typing.Union, types.UnionType):
        # Bounds of the field belong to its numbers and lists, not to None and not to choices.
        described = [_describe(part, metadata if _takes_bounds(part) else ()) for part in parts if part is not _NONE]
        return " | ".join(described)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    bounds = _bounds(metadata)
    if origin in (list, set, frozenset):
        return f"list of {_describe(parts[0], ())}{bounds}"
    if origin is tuple:
        inside = ", ".join(_describe(part, ()) for part in parts if part is not Ellipsis)
        return f"list of {inside}{bounds}" if Ellipsis in parts else f"[{inside}]"
    if origin is not None and issubclass(origin, Mapping):
        return f"table of {_describe(parts[1], ())}{bounds}"
    if annotation is bool:
        return "true | false"
    return f"{getattr(annotation, '__name__', 'any').lower()}{bounds}"


_NONE = type(None)


def _takes_bounds(annotation: Any) -> bool:
    return typing.get_origin(annotation) not in (Literal, Annotated)


def _bounds(metadata: Sequence[Any]) -> str:
    found = []
    for item in metadata:
        for name, sign in _BOUNDS.items():
            if getattr(item, name, None) is not None:
                found.append(f"{sign} {_POWERS.get(getattr(item, name), getattr(item, name))}")
        if getattr(item, "pattern", None) is not None:
            found.append(f"matching {item.pattern}")
    return f" {', '.join(found)}" if found else ""
