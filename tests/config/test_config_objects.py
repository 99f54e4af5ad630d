"""Names of tables and of third-party code, and the interfaces that these must implement."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from firstlight.config import Settings, external_origin, load_object
from firstlight.errors import ConfigError, UnknownName

pytestmark = pytest.mark.usefixtures("trust_files")


class Tracker(Protocol):
    folder: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Function(Protocol):
    def __call__(self, progress: float) -> float: ...


class Good:
    folder = "here"

    def log(self, step, metrics, *, extra=None): ...

    def close(self, *anything): ...


class Annotated:
    folder: str

    def log(self, *everything): ...

    @classmethod
    def close(cls): ...


class Silent:
    folder = ""

    def log(self, step, metrics): ...


class Narrow(Good):
    def log(self, metrics): ...


class Flat(Good):
    close = 3


def load(reference: str, interface: Any = None) -> Any:
    return load_object(reference, {}, kind="tracker", interface=interface, where="train.trackers")


def here(name: str) -> str:
    return f"{__name__}:{name}"


def test_entries_of_the_table_and_names_of_other_packages():
    assert load_object("sqrt", {"sqrt": "math:sqrt"}, kind="function")(9) == 3
    assert load_object("json:dumps", {}, kind="function")([1]) == "[1]"
    assert load_object("f", {"f": len}, kind="function") is len
    assert load_object("os:path.join", {}, kind="function")("a") == "a"


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UnknownName, match="Did you mean 'cosine'") as caught:
        load_object("cosin", {"cosine": 1}, kind="schedule", where="optim.schedule.name")
    assert caught.value.where == "optim.schedule.name"
    assert "one of cosine, or package.module:Name" in caught.value.message


@pytest.mark.parametrize("reference", ["json:dumpz", "no_such_module:x", "json:", ":x", "json:JSONDecoder.nothing"])
def test_what_cannot_be_loaded_is_a_config_error_with_the_key(reference: str):
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load(reference)
    assert caught.value.where == "train.trackers"
    assert reference in str(caught.value)


def test_an_error_in_the_module_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "breaks_on_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="ZeroDivisionError: division by zero"):
        load("breaks_on_import:x")


@pytest.mark.parametrize("name", ["Good", "Annotated"])
def test_a_class_that_implements_a_protocol(name: str):
    assert load(here(name), Tracker) is globals()[name]


def test_an_instance_that_implements_a_protocol():
    good = Good()
    assert load_object("x", {"x": good}, kind="tracker", interface=Tracker) is good


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Silent", "lacks close"),
        ("here", "it is the function here, and lacks log, close, folder"),
        ("Narrow", r"its log does not accept \(step, metrics\)"),
        ("Flat", "its close is not callable"),
    ],
)
def test_what_a_protocol_lacks_is_named(name: str, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        load(here(name), Tracker)
    assert caught.value.where == "train.trackers"
    assert here(name) in str(caught.value)


def test_a_function_as_interface():
    assert load("math:sqrt", Function)
    with pytest.raises(ConfigError, match="cannot be called"):
        load("math:pi", Function)


def test_a_base_class_as_interface():
    class Mine(Settings):
        pass

    assert load_object("m", {"m": Mine}, kind="part", interface=Settings) is Mine
    assert load_object("m", {"m": Mine()}, kind="part", interface=Settings)
    with pytest.raises(ConfigError, match="not a subclass of firstlight.config.settings.Settings"):
        load(here("Good"), Settings)


def test_a_predicate_as_interface():
    assert load(here("Good"), lambda found: None)
    with pytest.raises(ConfigError, match="cannot be used as tracker: it is too good"):
        load(here("Good"), lambda found: "it is too good")


def test_nothing_is_called_before_it_is_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Silent, "__init__", lambda self: pytest.fail("called"))
    with pytest.raises(ConfigError):
        load(here("Silent"), Tracker)


@pytest.mark.parametrize("statement", ["raise SystemExit(3)", "import sys; sys.exit()", "raise OSError('no\\nnet')"])
def test_a_module_that_fails_or_exits_on_import_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "leaves_early.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="leaves_early:X cannot be loaded: (SystemExit|OSError)") as caught:
        load("leaves_early:X")
    assert "\n" not in caught.value.message


def test_the_origin_of_an_error_in_code_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_later.py").write_text("def f(x):\n    return int(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = load("breaks_later:f")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        function("a")
    assert external_origin(caught.value) == "breaks_later, line 2"
    assert external_origin(ValueError("ours")) is None
