"""A setting that has no effect with the others is refused where it was given, and left out elsewhere."""

import tomllib
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from firstlight.config import Settings, TaggedSettings, TaggedUnion, dump_toml, resolve, used_layer
from firstlight.errors import ConfigError


class Schedule(Settings):
    name: Literal["constant", "linear"] = "constant"
    end: float = 0.0

    def unused_settings(self) -> dict[str, str]:
        return {"end": "applies to linear"} if self.name == "constant" else {}


class Optimizer(TaggedSettings):
    lr: float = 1.0
    schedule: Schedule = Schedule()


class Muon(Optimizer):
    name: Literal["muon"] = "muon"
    momentum: float = 0.9


class Adam(Optimizer):
    name: Literal["adam"] = "adam"
    eps: float = 1e-8


OPTIMIZERS = TaggedUnion({"muon": Muon, "adam": Adam}, kind="optimizer")


class Reading(Settings):
    encoding: str = "utf-8"
    limit: int = 5


class Root(Settings):
    store: str | None = None
    read: Reading = Reading()
    optim: Annotated[Optimizer, OPTIMIZERS] = Muon()
    kind: Literal["bpe", "char"] = "bpe"
    size: int | Literal["auto"] = Field("auto")

    def unused_settings(self) -> dict[str, str]:
        unused = {"size": f"applies to kind bpe, not {self.kind}"} if self.kind == "char" else {}
        return unused | ({"read": "applies to a corpus"} if self.store else {})


@pytest.mark.parametrize(
    ("table", "key", "why"),
    [
        ({"kind": "char", "size": 3}, "size", "applies to kind bpe, not char"),
        ({"store": "s", "read": {"limit": 5}}, "read.limit", "applies to a corpus"),  # as it is by default
        ({"optim": {"schedule": {"end": 0.5}}}, "optim.schedule.end", "applies to linear"),
        ({"optim": {"name": "adam", "schedule": {"end": 0.5}}}, "optim.schedule.end", "applies to linear"),
    ],
)
def test_what_is_given_without_an_effect_is_refused(table: dict[str, Any], key: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: {why}.*found.*Leave it out") as caught:
        resolve(Root, table)
    assert caught.value.where == key


def test_what_has_an_effect_is_not() -> None:
    assert resolve(Root, {"size": 3}).size == 3
    assert resolve(Root, {"kind": "char", "size": "auto"}).size == "auto", "auto asks for nothing"
    assert resolve(Root, {"store": "s", "read": {}}).store == "s"
    schedule = {"name": "linear", "end": 0.5}
    assert resolve(Root, {"optim": {"schedule": schedule}}).optim.schedule.end == 0.5


def test_a_preset_may_have_what_the_others_leave_without_an_effect() -> None:
    preset = {"size": 3, "read": {"limit": 7}, "optim": {"lr": 2.0}}
    assert resolve(Root, {"kind": "char"}, base=preset) == Root(kind="char", read=Reading(limit=7), optim=Muon(lr=2.0))
    assert used_layer(Root, preset, {"kind": "char", "store": "s"}) == {"optim": {"lr": 2.0}}
    with pytest.raises(ConfigError, match="^size: "):
        resolve(Root, {"kind": "char", "size": 3}, base=preset)
    with pytest.raises(ConfigError, match="^size: "):
        resolve(Root, {"size": 3}, base={"kind": "char"})


def test_another_member_of_a_union_does_not_take_the_values_of_the_first() -> None:
    preset = {"optim": {"lr": 0.02, "momentum": 0.8, "schedule": {"name": "linear", "end": 0.1}}}
    other = resolve(Root, {"optim": {"name": "adam"}}, base=preset).optim
    assert other == Adam(schedule=Schedule(name="linear", end=0.1))
    same = resolve(Root, {"optim": {"name": "muon", "lr": 0.01}}, base=preset).optim
    assert same == Muon(lr=0.01, momentum=0.8, schedule=Schedule(name="linear", end=0.1))


def test_a_rule_of_the_caller_counts_too() -> None:
    def unused(settings: Root) -> dict[str, str]:
        return {"read.encoding": "applies to text"} if settings.kind == "bpe" else {}

    with pytest.raises(ConfigError, match="^read.encoding: applies to text"):
        resolve(Root, {"read": {"encoding": "gb18030"}}, unused=unused)
    assert resolve(Root, {}, base={"read": {"encoding": "gb18030"}}, unused=unused) == Root()


def test_what_has_no_effect_is_not_written() -> None:
    text = dump_toml(Root(kind="char", size=3, store="s"))
    assert tomllib.loads(text) == {
        "store": "s",
        "kind": "char",
        "optim": {"name": "muon", "lr": 1.0, "momentum": 0.9, "schedule": {"name": "constant"}},
    }
    assert resolve(Root, tomllib.loads(text)) == Root(kind="char", store="s")
