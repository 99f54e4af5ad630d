"""The base classes of settings, and the mark of a field whose class a name selects."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import core_schema

from firstlight.config.objects import load_object


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown keys, with validated defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    former_names: ClassVar[Mapping[str, str]] = {}
    """Earlier names of keys -> the present ones. The earlier ones are refused; the error suggests the present one."""

    def unused_settings(self) -> Mapping[str, str]:
        """Return the settings that have no effect with the present values of the others, and why.

        A class with such settings overrides this. ``resolve`` refuses them where they are given, and leaves out those
        of a preset; ``dump_toml`` leaves them out. A setting that asks for nothing (a ratio of 0) has its effect.

        Returns:
            Keys of this table, or dotted keys below it; that of a table stands for all its keys. Each with a clause
            that follows the key in a message: "applies to kind word, not char".
        """
        return {}


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
