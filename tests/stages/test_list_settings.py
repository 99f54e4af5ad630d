"""The list of settings: every field of every root, with ranges, choices and the members of tagged unions."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from firstlight.config import Settings, TaggedSettings, TaggedUnion, flatten, parse_overrides, resolve, validate
from firstlight.errors import UsageError
from firstlight.stages.list_settings import ROOTS, list_settings


class Shape(TaggedSettings):
    size: int = Field(3, ge=1, description="of a side")


class Square(Shape):
    name: str = "square"


class Circle(Shape):
    name: str = "circle"
    size: int = Field(5, ge=1, description="of the radius")
    center: tuple[float, float] = (0.0, 0.0)


class Inner(Settings):
    steps: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="how many")
    names: list[str] = Field([], max_length=4, description="of things")
    needed: float = Field(gt=0, lt=1, description="a ratio")


class Root(Settings):
    inner: Inner = Inner(needed=0.5)
    optional: Inner | None = None
    on: bool | None = None
    shape: Annotated[Shape, TaggedUnion({"square": Square, "circle": Circle}, kind="shape")] = Circle()


@pytest.fixture(scope="module")
def found() -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
    table: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {}
    for setting in list_settings(roots={"a": Root, "b": Inner}):
        table.setdefault(setting.key, []).append((setting.default_text(), setting.values, setting.only_with))
    return table


def test_types_ranges_and_defaults(found: dict) -> None:
    assert found["inner.steps"] == [("auto", "int >= 1 | auto", ())]
    assert found["inner.names"] == [("[]", "list of str length <= 4", ())]
    assert found["inner.needed"] == [("0.5", "float > 0, < 1", ())]
    assert found["optional.needed"] == [("required", "float > 0, < 1", ())]
    assert found["on"] == [("not set", "true | false", ())]


def test_every_member_of_a_tagged_union(found: dict) -> None:
    assert found["shape.name"] == [("circle", "square | circle | package.module:Class", ())]
    assert found["shape.size"] == [("3", "int >= 1", ("shape.name=square",)), ("5", "int >= 1", ("shape.name=circle",))]
    assert found["shape.center"] == [("[0.0, 0.0]", "[float, float]", ("shape.name=circle",))]


def test_setting_of_several_commands_is_listed_once() -> None:
    found = list_settings(roots={"a": Root, "b": Root})
    assert {setting.commands for setting in found} == {("a", "b")}
    assert len({(setting.key, setting.only_with) for setting in found}) == len(found)


@pytest.mark.parametrize("command", ROOTS)
def test_every_resolved_key_is_listed(command: str) -> None:
    keys = {setting.key for setting in list_settings() if command in setting.commands}
    resolved = flatten(resolve(ROOTS[command]).model_dump())
    for key in resolved:  # a table that is not set is listed by its keys
        assert any(known == key or known.startswith(f"{key}.") for known in keys), key


@pytest.mark.parametrize("command", ROOTS)
def test_every_default_is_accepted(command: str) -> None:
    for setting in list_settings():
        if command in setting.commands and setting.default is not None and not setting.key.startswith("model."):
            words = [*setting.only_with, f"{setting.key}={setting.default_text()}"]
            validate(ROOTS[command], parse_overrides(words))


def test_prefix() -> None:
    keys = [setting.key for setting in list_settings("optim.schedule")]
    assert keys[0] == "optim.schedule.name"
    assert all(key.startswith("optim.schedule.") for key in keys)
    assert {setting.key for setting in list_settings("optim.lr")} == {"optim.lr"}


@pytest.mark.parametrize(("prefix", "near"), [("schedule.name", "optim.schedule.name"), ("optm", "optim")])
def test_unknown_prefix_suggests_a_key(prefix: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown setting") as caught:
        list_settings(prefix)
    assert near in str(caught.value.fix)
