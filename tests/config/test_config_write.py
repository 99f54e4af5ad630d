"""What is dumped reads back as the same."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.config import Settings, dump_toml, flatten, resolve

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
tables = st.recursive(
    st.dictionaries(
        keys, plain | st.lists(st.dictionaries(keys, plain, max_size=2), min_size=1, max_size=2), max_size=4
    ),
    lambda inner: st.dictionaries(keys, inner, max_size=3),
    max_leaves=4,
)


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Tables without keys are not written."""
    kept = {k: _without_empty(v) if isinstance(v, dict) else v for k, v in table.items()}
    return {k: v for k, v in kept.items() if v != {}}


@given(tables, st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_dump_reads_back(table: dict[str, Any], header: str):
    assert _without_empty(tomllib.loads(dump_toml(table, header=header))) == _without_empty(table)


def test_none_is_left_out():
    assert tomllib.loads(dump_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


class Inner(Settings):
    rate: float = 1e-5
    path: str | None = None


class Outer(Settings):
    name: str = "x"
    inner: Inner = Inner()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False, allow_infinity=False))
def test_settings_survive_the_file(name: str, rate: float):
    made = resolve(Outer, {"name": name, "inner": {"rate": rate}})
    assert resolve(Outer, tomllib.loads(dump_toml(made))) == made


def test_every_line_of_the_header_is_a_comment():
    text = dump_toml({"a": 1}, header="one\n\ntwo")
    assert text == "# one\n#\n# two\na = 1\n"


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [1]}, "e": 2}) == {"a.b.c": 1, "a.d": [1], "e": 2}


def test_what_toml_cannot_say_is_our_mistake():
    with pytest.raises(TypeError, match="cannot be written as TOML"):
        dump_toml({"a": object()})
