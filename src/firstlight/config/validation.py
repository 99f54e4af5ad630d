"""Merge layers as plain tables, validate once, and name the key of what is wrong."""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from firstlight.errors import ConfigError, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, strict about unknown keys, validated also where defaults apply."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


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

    A field that is a union of settings told apart by a tag (``optim.name``) takes the defaults of
    the class that the merged tag names, or of the field's default where no layer names one.

    Raises:
        ConfigError: names the dotted key, what was found, what is allowed, and the nearest right name.
    """
    table = _with_tags(root, merge(*layers))
    try:
        return root.model_validate(table)
    except pydantic.ValidationError as error:
        raise _explain(root, error) from error


def _with_tags(cls: type[BaseModel], table: dict[str, Any]) -> dict[str, Any]:
    """Add the default tag to tables of tagged unions, since pydantic asks for it before defaults apply."""
    for name, field in cls.model_fields.items():
        value = table.get(name)
        if not isinstance(value, dict):
            continue
        if field.discriminator and field.discriminator not in value:
            default = field.get_default(call_default_factory=True)
            if isinstance(default, BaseModel):
                value = {str(field.discriminator): getattr(default, str(field.discriminator)), **value}
        inner = next((c for c in _classes(field) if _matches(c, field, value)), None)
        table = {**table, name: _with_tags(inner, value) if inner else value}
    return table


def _classes(field: FieldInfo) -> list[type[BaseModel]]:
    return list(_models(field.annotation))


def _models(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _matches(cls: type[BaseModel], field: FieldInfo, value: Mapping[str, Any]) -> bool:
    tag = str(field.discriminator) if field.discriminator else None
    if tag is None:
        return True
    return value.get(tag) in typing.get_args(cls.model_fields[tag].annotation)


def _explain(root: type[BaseModel], error: pydantic.ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    keys, known = _path(root, first["loc"])
    key = ".".join(keys)
    if first["type"] == "extra_forbidden":
        near = nearest(keys[-1], known)
        elsewhere = None if near else _elsewhere(root, keys[-1])
        hint = f"Did you mean {'.'.join([*keys[:-1], near])}?" if near else None
        hint = hint or (f"Did you mean {elsewhere}?" if elsewhere else None)
        return ConfigError("unknown setting", where=key, expected=f"one of {', '.join(sorted(known))}", fix=hint)
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = first.get("ctx", {})
        tag = str(context.get("discriminator", "name")).strip("'")
        return ConfigError(
            "unknown choice", where=f"{key}.{tag}", found=context.get("tag"), expected=context.get("expected_tags")
        )
    # A value that may be of several types has one error a type; together they say what is allowed.
    same = [e for e in error.errors(include_url=False) if ".".join(_path(root, e["loc"])[0]) == key]
    message = ", or ".join(dict.fromkeys(_lower(e["msg"].removeprefix("Value error, ")) for e in same))
    found = first["input"]
    shown = None if isinstance(found, Mapping | BaseModel) else repr(found)
    return ConfigError(message, where=key or None, found=shown)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _path(root: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the dotted key of an error's location without union tags, and the names known beside its last part."""
    keys: list[str] = []
    classes = [root]
    known: list[str] = []
    for part in location:
        named = [c for c in classes if str(part) in c.model_fields]
        tagged = [c for c in classes if part in _tags(c)]
        if isinstance(part, str) and not named and tagged and len(classes) > 1:
            classes = tagged
            continue
        if isinstance(part, str) and not classes:
            continue  # the name of one of several types that a value may have
        known = sorted({n for c in classes for n in c.model_fields})
        keys.append(str(part))
        classes = [m for c in named for m in _classes(c.model_fields[str(part)])]
    return keys, known


def _tags(cls: type[BaseModel]) -> set[Any]:
    return {
        value
        for f in cls.model_fields.values()
        if typing.get_origin(f.annotation) is typing.Literal
        for value in typing.get_args(f.annotation)
    }


def _elsewhere(root: type[BaseModel], name: str, prefix: str = "") -> str | None:
    """Find a setting of nearly that name in another table: ``lr`` for ``optim.lr``."""
    for field_name, field in root.model_fields.items():
        for cls in _classes(field):
            near = nearest(name, cls.model_fields)
            if near:
                return f"{prefix}{field_name}.{near}"
            deeper = _elsewhere(cls, name, f"{prefix}{field_name}.")
            if deeper:
                return deeper
    return None
