"""Layers merge, are validated once, and errors name the key and the nearest right one."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from firstlight.config import (
    Settings,
    TaggedSettings,
    TaggedUnion,
    dump_toml,
    merge,
    parse_overrides,
    read_toml,
    resolve,
)
from firstlight.errors import UsageError

pytestmark = pytest.mark.usefixtures("trust_files")


class Schedule(TaggedSettings):
    pass


class Cosine(Schedule):
    name: Literal["cosine"] = "cosine"
    end: float = Field(0.1, ge=0, le=1)


class Constant(Schedule):
    name: Literal["constant"] = "constant"
    warmup: int = 5


SCHEDULES = {"cosine": Cosine, "constant": Constant}


class Optimizer(TaggedSettings):
    lr: float = Field(1e-3, gt=0)


class Adam(Optimizer):
    name: Literal["adam"] = "adam"
    schedule: Annotated[Schedule, TaggedUnion(SCHEDULES, kind="schedule")] = Cosine()


class Muon(Optimizer):
    name: Literal["muon"] = "muon"
    lr: float = 2e-2
    momentum: float = 0.95


class Lion(Optimizer):
    """As in another package: not in the table, named by where it is."""

    beta: float = Field(0.9, lt=1)


LION = f"{__name__}:Lion"
OPTIMIZERS = {"adam": Adam, "muon": Muon}


class Model(Settings):
    n_layer: int = Field(6, ge=1)
    sizes: list[int] = [1, 2]
    steps: int | Literal["auto"] | None = "auto"

    @field_validator("n_layer")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Must be even")
        return value


class Root(Settings):
    model: Model = Model()
    optim: Annotated[Optimizer, TaggedUnion(OPTIMIZERS, kind="optimizer")] = Muon()
    title: str = "run"


def failure(*layers: dict[str, Any]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(Root, *layers)
    return caught.value


def test_later_layers_win_key_by_key():
    made = resolve(Root, {"model": {"n_layer": 2}, "title": "a"}, {"model": {"sizes": [7]}}, {"title": "b"})
    assert (made.model.n_layer, made.model.sizes, made.title) == (2, [7], "b")


def test_merge_replaces_lists_and_values_by_tables():
    assert merge({"a": [1, 2], "b": 1}, {"a": [3], "b": {"c": 2}}) == {"a": [3], "b": {"c": 2}}
    assert merge({"b": {"c": 2}}, {"b": 1}) == {"b": 1}


def test_merge_leaves_its_arguments_alone():
    one = {"a": {"b": 1}}
    merge(one, {"a": {"b": 2}})["a"]["b"] = 3
    assert one == {"a": {"b": 1}}


tables = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@given(tables, tables, tables)
def test_merge_is_associative_and_its_own_identity(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]):
    assert merge(merge(a, b), b) == merge(a, b)
    assert merge(a, {}) == merge({}, a) == a
    # A table over a value over a table starts anew, so the law holds where shapes agree.
    if _shapes_agree(a, b) and _shapes_agree(b, c) and _shapes_agree(a, c):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


def _shapes_agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    for key in a.keys() & b.keys():
        if isinstance(a[key], dict) != isinstance(b[key], dict):
            return False
        if isinstance(a[key], dict) and not _shapes_agree(a[key], b[key]):
            return False
    return True


def test_union_takes_default_tag():
    made = resolve(Root, {"optim": {"lr": 0.5}})
    assert made.optim == Muon(lr=0.5)


def test_union_takes_named_class_with_its_own_defaults():
    made = resolve(Root, {"optim": {"lr": 0.5}}, {"optim": {"name": "adam"}})
    assert made.optim == Adam(lr=0.5)


def test_union_inside_union_takes_its_default_tag():
    made = resolve(Root, {"optim": {"name": "adam", "schedule": {"end": 0.0}}})
    assert made.optim == Adam(schedule=Cosine(end=0.0))


def test_a_class_of_another_package_by_its_name():
    made = resolve(Root, {"optim": {"name": LION, "beta": 0.5}})
    assert made.optim == Lion(beta=0.5)
    assert Lion().name == LION


def test_a_tagged_union_goes_through_toml(tmp_path: Path):
    made = resolve(Root, {"optim": {"name": LION, "beta": 0.5}})
    path = tmp_path / "run.toml"
    path.write_text(dump_toml(made))
    assert f'name = "{LION}"' in path.read_text()
    assert resolve(Root, read_toml(path)) == made
    assert made.model_dump()["optim"] == {"name": LION, "lr": 1e-3, "beta": 0.5}
    assert Root.model_validate(made.model_dump()) == made


def test_validation_without_resolve_knows_the_union_too():
    assert Root.model_validate({"optim": {"name": "adam", "lr": 0.5}}).optim == Adam(lr=0.5)
    with pytest.raises(ValidationError, match="needs a name"):
        Root.model_validate({"optim": {"lr": 0.5}})


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        resolve(Root).title = "other"


@pytest.mark.parametrize(
    ("table", "where", "words"),
    [
        ({"model": {"n_layers": 2}}, "model.n_layers", "Did you mean model.n_layer?"),
        ({"optim": {"lrr": 2}}, "optim.lrr", "Did you mean optim.lr?"),
        ({"optim": {"name": "adam", "lrr": 2}}, "optim.lrr", "Did you mean optim.lr?"),
        (
            {"optim": {"name": "adam", "schedule": {"ends": 1}}},
            "optim.schedule.ends",
            "Did you mean optim.schedule.end?",
        ),
        ({"lr": 2}, "lr", "Did you mean optim.lr?"),
        ({"n_layer": 2}, "n_layer", "Did you mean model.n_layer?"),
        ({"momentun": 2}, "momentun", "Did you mean optim.momentum?"),
        ({"optim": {"name": "sgd"}}, "optim.name", "one of adam, muon, or package.module:Name"),
        ({"optim": {"name": "adan"}}, "optim.name", "Did you mean 'adam'?"),
        ({"optim": {"name": "adam", "schedule": {"name": "steps"}}}, "optim.schedule.name", "one of constant, cosine"),
        ({"optim": {"name": 3}}, "optim", "needs a name"),
        ({"optim": {"name": LION, "betta": 2}}, "optim.betta", "Did you mean optim.beta?"),
        ({"optim": {"name": LION, "beta": 2}}, "optim.beta", "less than 1"),
        ({"optim": {"name": LION, "momentum": 2}}, "optim.momentum", "unknown setting"),
        ({"optim": {"name": "lion_of_nobody:Lion"}}, "optim.name", "No module named 'lion_of_nobody'"),
        ({"optim": {"name": "json:JSONDecoder"}}, "optim.name", "not a subclass of"),
        ({"optim": {"name": "json:dumps"}}, "optim.name", "the function dumps"),
        ({"model": {"n_layer": 0}}, "model.n_layer", "greater than or equal to 1"),
        ({"model": {"n_layer": 3}}, "model.n_layer", "must be even"),
        ({"model": {"n_layer": "six"}}, "model.n_layer", "'six'"),
        ({"model": 3}, "model", "3"),
        ({"model": {"sizes": [1, "x"]}}, "model.sizes", "'x'"),
        ({"optim": {"name": "adam", "lr": float("inf")}}, "optim.lr", "inf"),
        ({"optim": 7}, "optim", "7"),
    ],
)
def test_error_names_key_found_and_nearest(table: dict[str, Any], where: str, words: str):
    error = failure(table)
    assert error.where is not None
    assert error.where.startswith(where)
    assert words in error.message
    assert error.exit_code == 2
    assert "\n" not in error.message


def test_wrong_type_in_a_choice_of_types_names_the_key_only():
    error = failure({"model": {"steps": "soon"}})
    assert error.where == "model.steps"
    assert "'soon'" in error.message
    assert "integer" in error.message
    assert "'auto'" in error.message


def test_overrides_read_values_as_toml_and_else_as_text():
    words = ["a.b=1e-3", "a.c=true", "d=[1, 2]", "e=cosine", 'f="3"', "g=", "h=a=b", "i={x = 1}", "j = 5 "]
    assert parse_overrides(words) == {
        "a": {"b": 1e-3, "c": True},
        "d": [1, 2],
        "e": "cosine",
        "f": "3",
        "g": "",
        "h": "a=b",
        "i": {"x": 1},
        "j": 5,
    }


def test_a_date_is_text():
    assert parse_overrides(["a=2026-11-24", "b=10:30:00", "c=2026-11-24T10:30:00Z"]) == {
        "a": "2026-11-24",
        "b": "10:30:00",
        "c": "2026-11-24T10:30:00Z",
    }


def test_a_word_cannot_smuggle_another_key():
    assert parse_overrides(["a=1\nb=2"]) == {"a": "1\nb=2"}


@pytest.mark.parametrize("word", ["lr", "=3", "a..b=3", ".a=1", ""])
def test_bad_override_words(word: str):
    with pytest.raises(UsageError, match="key=value"):
        parse_overrides([word])


def test_override_below_a_value():
    with pytest.raises(UsageError, match="below another value"):
        parse_overrides(["a=1", "a.b=2"])


def test_last_override_wins():
    assert parse_overrides(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}
