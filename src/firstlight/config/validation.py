"""Merge layers of settings as plain tables, validate them once, and report errors by key."""

import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from firstlight.config.settings import Settings, TaggedUnion
from firstlight.config.tables import merge, without_keys
from firstlight.config.unused import find_unused, given_unused
from firstlight.errors import ConfigError, nearest

S = TypeVar("S", bound=Settings)


def resolve(
    root: type[S],
    *layers: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    unused: Callable[[S], Mapping[str, str]] | None = None,
) -> S:
    """Merge ``layers`` over the defaults of ``root`` and validate once.

    A TaggedUnion (``optim``) takes the defaults of the class that the merged table names (``optim.name``), or of the
    field's default where no layer names one.

    Args:
        root: class of the settings.
        layers: tables that the user wrote, of which everything must have an effect.
        base: a table below them, such as a preset, of which keys are left out that have no effect.
        unused: names further settings without an effect, as ``Settings.unused_settings`` does.

    Raises:
        ConfigError: names the dotted key, what was found, what is allowed, and the nearest right name; or a key of
            ``layers`` has no effect with the other settings.
    """
    given = merge(*layers)
    settings = validate(root, merge(used_layer(root, base, given, unused=unused) if base else {}, given))
    for key, (value, reason) in given_unused(given, _all_unused(settings, unused)).items():
        raise ConfigError(reason, where=key, found=value, fix="Leave it out.")
    return settings


def used_layer(
    root: type[S],
    base: Mapping[str, Any],
    *layers: Mapping[str, Any],
    unused: Callable[[S], Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Return a layer without the keys that have no effect where ``layers`` are merged over it; see ``resolve``.

    Where they name another member of a TaggedUnion, only the tables within its table are kept, such as the schedule of
    an optimizer: a learning rate is not that of another optimizer.
    """
    given = merge(*layers)
    kept = of_named_members(root, base, given)
    return without_keys(kept, _all_unused(validate(root, merge(kept, given)), unused))


def validate(root: type[S], table: Mapping[str, Any]) -> S:
    """Validate a merged table, whatever has no effect in it.

    Raises:
        ConfigError: as ``resolve``.
    """
    table = _with_tags(root, dict(table), "")
    try:
        return root.model_validate(table)
    except pydantic.ValidationError as error:
        raise _explain(root, table, error) from error


def _all_unused(settings: S, unused: Callable[[S], Mapping[str, str]] | None) -> dict[str, str]:
    return {**find_unused(settings), **(unused(settings) if unused is not None else {})}


def of_named_members(root: type[BaseModel], base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` without the values of members of tagged unions other than those that ``given`` names."""
    kept = dict(base)
    for name, field in root.model_fields.items():
        below, above, union = base.get(name), given.get(name), _tagged_union(field)
        if not isinstance(below, Mapping) or not isinstance(above, Mapping):
            continue
        if union is None:
            inner = next(_models(field.annotation), None)
            kept[name] = of_named_members(inner, below, above) if inner else below
        elif above.get("name", before := _member_name(field, below)) != before:
            known = _class_of(field, above, f"{name}.")
            kept[name] = {
                k: v for k, v in below.items() if isinstance(v, Mapping) and known and k in known.model_fields
            }
    return kept


def _member_name(field: FieldInfo, table: Mapping[str, Any]) -> Any:
    return table.get("name", field.get_default(call_default_factory=True).name)


def _with_tags(cls: type[BaseModel], table: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Add the default name to tables of tagged unions, and load the classes of all names that are given."""
    for name, field in cls.model_fields.items():
        value = table.get(name)
        if not isinstance(value, dict):
            continue
        union = _tagged_union(field)
        if union is not None and "name" not in value:
            value = {"name": _member_name(field, value), **value}
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
        # A setting of this very name in another table is meant, rather than one of this table that is like it.
        elsewhere = _elsewhere(root, keys[-1])
        is_named = elsewhere is not None and elsewhere.rpartition(".")[2] == keys[-1]
        near = former.get(keys[-1]) or (None if is_named else nearest(keys[-1], known))
        hint = f"Did you mean {'.'.join([*keys[:-1], near])}?" if near else None
        hint = hint or (f"Did you mean {elsewhere}?" if elsewhere else None)
        return ConfigError("unknown setting", where=key, expected=f"one of {', '.join(known)}", fix=hint)
    # A value of a union type has one error per type; together they list what is allowed.
    same = [e for e in error.errors(include_url=False) if ".".join(_path(root, table, e["loc"])[0]) == key]
    message = ", or ".join(dict.fromkeys(_lower(e["msg"].removeprefix("Value error, ")) for e in same))
    found = first["input"]
    if first["type"] in ("model_type", "model_attributes_type", "dict_type") and cls is not None:
        inner = _class_of(cls.model_fields[keys[-1]], found) if keys[-1] in cls.model_fields else None
        if inner is not None:
            inner_keys = ", ".join(f"{key}.{name}" for name in inner.model_fields)
            named = isinstance(found, str) and "name" in inner.model_fields
            fix = f"Did you mean {key}.name={found}?" if named else None
            return ConfigError("is a table of settings", where=key, found=repr(found), expected=inner_keys, fix=fix)
    shown = None if isinstance(found, Mapping | BaseModel) else repr(found)
    union = _tagged_union(cls.model_fields[keys[-1]]) if cls is not None and keys[-1] in cls.model_fields else None
    if union is not None and isinstance(found, str):  # its value is the name of a member: optim=adamw
        return ConfigError(message, where=key, found=shown, fix=f"Did you mean {key}.name={found}?")
    values = [value for e in same for value in _values(e)]
    near = nearest(found, values) if isinstance(found, str) else None
    return ConfigError(message, where=key or None, found=shown, fix=near and f"Did you mean {near!r}?")


def _values(error: ErrorDetails) -> list[str]:
    """Return the names that a value could have had."""
    if error["type"].startswith("bool"):
        return ["true", "false"]
    expected = str(error.get("ctx", {}).get("expected", "")) if error["type"] in ("literal_error", "enum") else ""
    return re.findall(r"'([^']+)'", expected)


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


def _elsewhere(root: type[BaseModel], name: str) -> str | None:
    """Find a setting of that name in another table, such as ``lr`` of ``optim.lr``; or one of nearly that name."""
    keys = list(dict.fromkeys(_keys(root)))
    last = {key.rpartition(".")[2]: key for key in reversed(keys)}
    near = name if name in last else nearest(name, last)
    return None if near is None else last[near]


def _keys(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of the settings below the tables of ``root``."""
    for field_name, field in root.model_fields.items():
        union = _tagged_union(field)
        members = [c for c in union.table.values() if isinstance(c, type)] if union else []
        for cls in (*_models(field.annotation), *members):
            yield from (f"{prefix}{field_name}.{name}" for name in cls.model_fields)
            yield from _keys(cls, f"{prefix}{field_name}.")
