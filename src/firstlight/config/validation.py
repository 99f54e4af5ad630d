"""Merge layers of settings as plain tables, validate them once, and report errors by key."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from firstlight.config.objects import load_object
from firstlight.errors import ConfigError, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown keys, with validated defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    former_names: ClassVar[Mapping[str, str]] = {}
    """Earlier names of keys -> the present ones. The earlier ones are refused; the error suggests the present one."""


class TaggedSettings(Settings):
    """Base of the members of a tagged union of settings: ``name`` is the tag.

    A class in the union's table declares its name (``name: str = "muon"``); that of a class from another package is
    ``package.module:Class``, set by itself.
    """

    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not (values.get("name") or cls.model_fields["name"].default):
            return {**values, "name": f"{cls.__module__}:{cls.__qualname__}"}
        return values


@dataclass(frozen=True, slots=True)
class TaggedUnion:
    """Mark a field as an open union: its ``name`` is an entry of a table, or ``package.module:Class``.

    ``optim: Annotated[OptimizerSettings, TaggedUnion(OPTIMIZERS, kind="optimizer")] = Muon()``: the annotated class is
    the base of all members, and a TaggedSettings; without a name a table takes that of the field's default.

    Args:
        table: name -> class of settings, or ``"package.module:Class"``, imported on first use.
        kind: the kind of members, for messages.
    """

    table: Mapping[str, type[TaggedSettings] | str]
    kind: str

    def member(self, base: type[BaseModel], name: str, where: str | None = None) -> type[BaseModel]:
        """Return the class of settings of that name.

        Raises:
            UnknownName: neither an entry of the table nor of the form ``package.module:Class``.
            ConfigError: it cannot be loaded, or does not derive from ``base``.
        """
        found: type[BaseModel] = load_object(name, self.table, kind=self.kind, interface=base, where=where)
        return found

    def __get_pydantic_core_schema__(self, base: Any, handler: pydantic.GetCoreSchemaHandler) -> core_schema.CoreSchema:
        del handler

        def validate(value: Any) -> BaseModel:
            if isinstance(value, base):
                return typing.cast(BaseModel, value)
            if not isinstance(value, Mapping):
                raise ValueError(f"Input should be a table of {self.kind} settings")
            if not isinstance(value.get("name"), str):
                raise ValueError(f"A table of {self.kind} settings needs a name: {', '.join(self.table)}")
            return self.member(base, value["name"]).model_validate(dict(value))

        # "any" serializes by the class of the value, not by the annotated base class.
        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.simple_ser_schema("any")
        )


S = TypeVar("S", bound=Settings)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; later layers win, lists are replaced whole."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                old = merged.get(key)
                merged[key] = merge(old if isinstance(old, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def resolve(root: type[S], *layers: Mapping[str, Any]) -> S:
    """Merge ``layers`` over the defaults of ``root`` and validate once.

    A TaggedUnion (``optim``) takes the defaults of the class that the merged table names (``optim.name``), or of the
    field's default where no layer names one.

    Raises:
        ConfigError: names the dotted key, what was found, what is allowed, and the nearest right name.
    """
    table = _with_tags(root, merge(*layers), "")
    try:
        return root.model_validate(table)
    except pydantic.ValidationError as error:
        raise _explain(root, table, error) from error


def _with_tags(cls: type[BaseModel], table: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Add the default name to tables of tagged unions, and load the classes of all names that are given."""
    for name, field in cls.model_fields.items():
        value = table.get(name)
        if not isinstance(value, dict):
            continue
        union = _tagged_union(field)
        if union is not None and "name" not in value:
            value = {"name": field.get_default(call_default_factory=True).name, **value}
        inner = _class_of(field, value, f"{prefix}{name}.")
        table = {**table, name: _with_tags(inner, value, f"{prefix}{name}.") if inner else value}
    return table


def _tagged_union(field: FieldInfo) -> TaggedUnion | None:
    return next((m for m in field.metadata if isinstance(m, TaggedUnion)), None)


def _class_of(field: FieldInfo, value: Any, prefix: str = "") -> type[BaseModel] | None:
    """Return the class of settings that the table ``value`` of a field belongs to, or None."""
    base = next(_models(field.annotation), None)
    union = _tagged_union(field)
    if base is None or union is None:
        return base
    name = value.get("name") if isinstance(value, Mapping) else None
    return union.member(base, name, f"{prefix}name") if isinstance(name, str) else base


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _explain(root: type[BaseModel], table: Mapping[str, Any], error: pydantic.ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    keys, cls = _path(root, table, first["loc"])
    key = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = sorted(cls.model_fields) if cls else []
        former = cls.former_names if cls is not None and issubclass(cls, Settings) else {}
        near = former.get(keys[-1]) or nearest(keys[-1], known)
        elsewhere = None if near else _elsewhere(root, keys[-1])
        hint = f"Did you mean {'.'.join([*keys[:-1], near])}?" if near else None
        hint = hint or (f"Did you mean {elsewhere}?" if elsewhere else None)
        return ConfigError("unknown setting", where=key, expected=f"one of {', '.join(known)}", fix=hint)
    # A value of a union type has one error per type; together they list what is allowed.
    same = [e for e in error.errors(include_url=False) if ".".join(_path(root, table, e["loc"])[0]) == key]
    message = ", or ".join(dict.fromkeys(_lower(e["msg"].removeprefix("Value error, ")) for e in same))
    found = first["input"]
    shown = None if isinstance(found, Mapping | BaseModel) else repr(found)
    return ConfigError(message, where=key or None, found=shown)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _path(
    root: type[BaseModel], table: Mapping[str, Any], location: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel] | None]:
    """Return the dotted key of an error's location, and the class of the table where its last part is."""
    keys: list[str] = []
    table_class: type[BaseModel] | None = None
    cls: type[BaseModel] | None = root
    value: Any = table
    for part in location:
        if isinstance(part, str) and cls is None:
            continue  # the name of one of several types that a value may have
        table_class = cls
        keys.append(str(part))
        field = cls.model_fields.get(str(part)) if cls else None
        value = value.get(part) if isinstance(value, Mapping) else None
        cls = _class_of(field, value) if field else None
    return keys, table_class


def _elsewhere(root: type[BaseModel], name: str, prefix: str = "") -> str | None:
    """Find a setting of nearly that name in another table: ``lr`` for ``optim.lr``."""
    for field_name, field in root.model_fields.items():
        union = _tagged_union(field)
        members = [c for c in union.table.values() if isinstance(c, type)] if union else []
        for cls in (*_models(field.annotation), *members):
            near = nearest(name, cls.model_fields)
            if near:
                return f"{prefix}{field_name}.{near}"
            deeper = _elsewhere(cls, name, f"{prefix}{field_name}.")
            if deeper:
                return deeper
    return None
