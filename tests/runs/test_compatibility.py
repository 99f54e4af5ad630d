"""Who belongs to whom: what a resume may change, and the hashes that tell."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from firstlight.config import flatten, merge
from firstlight.errors import CompatibilityError
from firstlight.finetuning import TuningSettings
from firstlight.optim import Muon
from firstlight.runs.compatibility import (
    changed_settings,
    check_changes,
    check_fixed_settings,
    fixed_settings,
    list_changes,
    settings_hash,
)
from firstlight.store import DataSettings
from firstlight.train import CHANGEABLE_ON_RESUME, TrainSettings

TABLE: dict[str, Any] = {
    "run": {"seed": 1, "corpus": ["a.txt"]},
    "optim": {"name": "muon", "lr": 0.02, "betas": [0.9, 0.95]},
    "hardware": {"device": "cpu", "threads": 2, "precision": "fp32"},
    "train": TrainSettings(steps=100).model_dump(mode="json"),
}
OTHER = {int: 77, float: 0.25, str: "else", list: ["else"], bool: None, type(None): 5}


def changed(key: str) -> dict[str, Any]:
    """Return the table with another value under one dotted key."""
    value = flatten(TABLE)[key]
    table: Any = OTHER[type(value)] if not isinstance(value, bool) else not value
    for part in reversed(key.split(".")):
        table = {part: table}
    return merge(TABLE, table)


@pytest.mark.parametrize("key", sorted(flatten(TABLE)))
def test_the_hash_ignores_what_may_change_and_nothing_else(key: str) -> None:
    before, now = fixed_settings(TABLE, Muon()), fixed_settings(changed(key), Muon())
    may_change = key in CHANGEABLE_ON_RESUME or key in ("run.corpus", "hardware.device", "hardware.threads")
    may_change = may_change or key in ("optim.lr", "optim.betas")
    assert (settings_hash(now) == settings_hash(before)) == may_change
    if may_change:
        check_fixed_settings(before, now, Path("c"))
    else:
        with pytest.raises(CompatibilityError, match=f"found {re.escape(key)} = "):
            check_fixed_settings(before, now, Path("c"))
        check_fixed_settings({k: v for k, v in before.items() if k != key}, now, Path("c"))


def test_what_may_change_are_settings_that_exist() -> None:
    data = DataSettings().model_dump(include={"verify", "max_unk_fraction"})
    tuning = TuningSettings().model_dump(include={"max_restarts"})
    own = flatten({"train": TrainSettings().model_dump(mode="json"), "data": data, "finetune": tuning})
    assert own.keys() >= CHANGEABLE_ON_RESUME
    assert {k for k in own if k not in CHANGEABLE_ON_RESUME} == {
        "train.batch_tokens",
        "train.micro_batch",
        "train.activation_checkpointing",
        "train.ema_decay",
        "train.guard.spike_sigma",
        "train.guard.spike_window",
        "train.guard.spike_steps",
    }


def test_the_order_of_keys_is_no_change() -> None:
    turned = {k: dict(reversed(v.items())) for k, v in reversed(TABLE.items())}
    assert settings_hash(fixed_settings(turned, Muon())) == settings_hash(fixed_settings(TABLE, Muon()))


def test_changes_are_what_is_asked_for_and_differs() -> None:
    old = {"optim": {"lr": 0.1, "name": "muon"}, "train": {"steps": 10, "micro_batch": 4, "epochs": 2.0}}
    asked = {
        "optim": {"lr": 0.2, "name": "muon"},
        "train": {"steps": 10, "micro_batch": "auto", "tokens": 5, "minutes": None, "epochs": None},
    }
    assert changed_settings(old, asked) == {"optim.lr": (0.1, 0.2), "train.tokens": (None, 5)}
    assert changed_settings(old, {}) == {}
    assert changed_settings(old, old) == {}


def test_changes_since_a_checkpoint_of_a_version_whose_rates_were_fixed() -> None:
    before = {"fixed_settings": {"optim.lr": 0.1, "optim.name": "muon"}, "repeatable_settings": {"train.steps": 5}}
    now = {"optim.lr": 0.2, "train.steps": 5}
    assert list_changes(before, now, 3) == [{"step": 3, "key": "optim.lr", "old": 0.1, "new": 0.2}]
    assert list_changes(before, now, 0) == []
    schedule = {"optim.schedule.name": "constant"}
    later = {"optim.schedule.name": "wsd", "optim.schedule.decay_ratio": 0.4, "optim.schedule.min_ratio": 0.1}
    found = [change["key"] for change in list_changes({"repeatable_settings": schedule}, later, 3)]
    assert found == ["optim.schedule.name", "optim.schedule.min_ratio"], "what constant did not read had its default"


def test_limits_and_cadence_may_change() -> None:
    differing = {"train.steps": (10, 20), "train.eval_every": (5, 6)}
    assert check_changes(differing, Path("runs/a")) == differing
    with_rate = differing | {"optim.lr": (0.1, 0.2)}
    assert check_changes(with_rate, Path("runs/a"), updates=["optim.lr"]) == with_rate


def test_every_other_change_is_named_with_both_values() -> None:
    differing = {"train.steps": (10, 20), "optim.eps": (0.1, 0.2), "model.n_layer": (2, 4)}
    with pytest.raises(CompatibilityError) as caught:
        check_changes(differing, Path("runs/a"))
    text = str(caught.value)
    assert "model.n_layer = 4 (the run has 2), optim.eps = 0.2 (the run has 0.1)" in text
    assert "train.steps" not in caught.value.found
    assert text.startswith("runs/a: ")
    assert shlex.split(text.partition("start a new run with them (from its weights: add --from and this run): ")[2])[
        -7:
    ] == [
        "pretrain",
        str(Path("runs/a/run.toml").absolute()),
        "--out",
        str(Path("runs/a").absolute()),
        "train.steps=20",
        "optim.eps=0.2",
        "model.n_layer=4",
    ]
