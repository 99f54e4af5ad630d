"""Precision and compilation are chosen by their speed, on batches of the run, without changing it."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from firstlight import parallel
from firstlight.parallel import DeviceContext, HardwareSettings
from firstlight.store import Batches, TokenStore
from firstlight.train import Autotuner, Limits, LossModule, autotune
from train.small_run import CPU, ROWS, T, make_state, make_store

AUTO = HardwareSettings()
SECONDS = {("fp32", False): 1.0, ("bf16", False): 0.8, ("bf16", True): 0.7, ("fp32", True): 0.9}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def _on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRSTLIGHT_AUTOTUNE", raising=False)
    monkeypatch.setattr(autotune, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(parallel, "has_cxx_compiler", lambda: True)


def make_tuner(store: TokenStore, steps: int | None = 1000, minutes: float | None = None, **kw: Any) -> Autotuner:
    state = make_state(dropout=0.1)
    state.counters.micro_batch = 2
    defaults: dict[str, Any] = {
        "make_module": lambda: LossModule(state.model),
        "state": state,
        "load_batch": lambda: Batches(store, block_size=T, seed=0).batch(0, ROWS),
        "limits": Limits(steps, minutes, "steps"),
        "layers": 2,
        "hardware": AUTO,
        "device_context": CPU,
    }
    return Autotuner(**{**defaults, **kw})


def script(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, bool], float], gain: float = 0.3) -> list[Any]:
    """Let trials take these seconds by precision and compilation; return the list of trials that were made."""
    made: list[Any] = []

    def measured(self: Autotuner, module: nn.Module, context: DeviceContext, rows: int) -> float:
        made.append((context.precision, context.compile, rows))
        return seconds[context.precision, context.compile] * rows / 2

    monkeypatch.setattr(Autotuner, "_seconds", measured)
    monkeypatch.setattr(Autotuner, "_expected_gain", lambda *_: gain)
    monkeypatch.setattr(parallel, "compile_module", lambda module, context: module)
    return made


@pytest.mark.parametrize(
    ("seconds", "precision", "compiles"),
    [
        ({}, "bf16", True),
        ({("bf16", True): 0.79}, "bf16", False),
        ({("bf16", False): 0.98}, "fp32", True),
        ({("bf16", False): 1.7, ("fp32", True): 1.1}, "fp32", False),
    ],
)
def test_the_fastest_is_chosen_and_exactness_where_nothing_is_gained(
    store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[tuple[str, bool], float],
    precision: str,
    compiles: bool,
) -> None:
    script(monkeypatch, {**SECONDS, **seconds})
    _, context = make_tuner(store).run()
    assert (context.precision, context.compile) == (precision, compiles)
    assert [(t["precision"], t["compile"]) for t in context.trials] == [
        ("fp32", False),
        ("bf16", False),
        (precision, False),
        (precision, True),
    ]
    assert "fp32 500.00 ms, bf16" in context.reasons["precision"]
    assert f"{precision}, compiled" in context.reasons["compile"]


def test_short_runs_try_nothing(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = script(monkeypatch, {key: 0.001 for key in SECONDS})
    _, context = make_tuner(store, steps=1000).run()
    assert (context.precision, context.compile, context.trials) == ("fp32", False, ())
    assert context.reasons["precision"] == "auto: the run takes about 2 s, too short to try others"
    assert {trial[0] for trial in made} == {"fp32"}
    made = script(monkeypatch, SECONDS)
    _, context = make_tuner(store, steps=49).run()
    assert context.reasons["compile"] == "auto: the run is too short to try others"
    assert made == [], "a pass would be a fiftieth of the run"
    _, context = make_tuner(store, steps=None, minutes=0.4).run()
    assert context.precision == "fp32"


def test_compiling_must_pay(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = script(monkeypatch, SECONDS, gain=0.3)
    _, context = make_tuner(store, steps=None, minutes=1).run()  # 18 s less, after 22 s of compiling
    assert not context.compile
    assert not any(compiled for _, compiled, _ in made)
    assert context.reasons["compile"] == "auto: would gain about 18 s, and compiling takes about 22 s"
    _, context = make_tuner(store, steps=None, minutes=2).run()
    assert context.compile, context.reasons
    _, context = make_tuner(store, steps=None, minutes=None).run()
    assert context.compile, "until convergence: as long as it takes"
    _, context = make_tuner(store, may_compile=False).run()
    assert (context.precision, context.compile) == ("bf16", False)


def test_trials_take_a_small_part_of_the_run(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = script(monkeypatch, {key: 4.0 for key in SECONDS}, gain=0)
    state = make_state()
    batch = Batches(store, block_size=T, seed=0).batch(0, 64)
    _, context = make_tuner(store, steps=200, state=state, load_batch=lambda: batch).run()  # 128 s a pass of 64 rows
    assert context.trials[0]["rows"] == 32, "eight passes of 64 rows would be 1,024 s of 25,600"
    assert sum(2 * rows for *_, rows in made[3:]) <= 0.02 * 25_600


def test_what_is_set_is_not_tried(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = script(monkeypatch, SECONDS)
    given = HardwareSettings(precision="fp32", compile="off")
    _, context = make_tuner(store, hardware=given).run()
    assert (context, made) == (CPU, [])
    bf16 = replace(CPU, precision="bf16")
    given = HardwareSettings(precision="bf16")
    _, context = make_tuner(store, hardware=given, device_context=bf16).run()
    assert {trial[:2] for trial in made} == {("bf16", False), ("bf16", True)}
    assert context.compile, context.reasons
    made.clear()
    monkeypatch.setattr(autotune, "has_fast_bf16", lambda _: False)
    _, context = make_tuner(store, hardware=HardwareSettings(compile="off")).run()
    assert (context, made) == (CPU, [])
    monkeypatch.setenv("FIRSTLIGHT_AUTOTUNE", "0")
    assert make_tuner(store).run()[1] == CPU


@pytest.mark.parametrize(
    "error", [RuntimeError("the compiler is broken\nand so on"), torch.OutOfMemoryError("too large")]
)
def test_what_cannot_be_compiled_trains_in_eager_mode_and_says_so(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: RuntimeError
) -> None:
    script(monkeypatch, SECONDS)
    scripted = Autotuner._seconds

    def fails(self: Autotuner, module: nn.Module, context: DeviceContext, rows: int) -> float:
        if context.compile:
            raise error
        return scripted(self, module, context, rows)

    monkeypatch.setattr(Autotuner, "_seconds", fails)
    with caplog.at_level(logging.WARNING):
        module, context = make_tuner(store).run()
    assert isinstance(module, LossModule)
    assert not context.compile
    if isinstance(error, torch.OutOfMemoryError):
        assert context.reasons["compile"] == "auto: out of memory while others were tried"
    else:
        assert context.precision == "bf16"
        assert "could not be compiled, and trains in eager mode: the compiler is broken" in caplog.text
        assert context.reasons["compile"] == "auto: it could not be compiled"


def test_trials_change_nothing_of_the_run(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_MIN_RUN_SECONDS", 0.0)
    monkeypatch.setattr(autotune, "_COMPILE_SECONDS", 1e9)
    tuner = make_tuner(store, steps=100_000)
    parallel.seed_everything(3)
    before, rng_state = {k: v.clone() for k, v in tuner.state.model.state_dict().items()}, torch.get_rng_state()
    _, context = tuner.run()
    assert [t["milliseconds"] > 0 for t in context.trials] == [True, True]
    assert "would gain about" in context.reasons["compile"]
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert all(torch.equal(v, before[k]) for k, v in tuner.state.model.state_dict().items())
    assert all(p.grad is None for p in tuner.state.model.parameters())
    assert not tuner.state.optimizer.state_dict()["state"]


def test_the_time_in_products_is_part_of_the_time(store: TokenStore) -> None:
    tuner = make_tuner(store)
    module = tuner.make_module()
    tuner._seconds(module, CPU, 2)
    assert 0 < tuner._expected_gain(module, CPU, 2) < 1 - autotune._COMPILED_REST
    timer = autotune._ProductTimer()
    with timer:
        torch.ones(3, 3) + 1
        assert timer.seconds == 0
        torch.ones(3, 3) @ torch.ones(3, 3)
    assert timer.seconds > 0


class Bigrams(nn.Module):
    """A loss module that is compiled soon; the type checks of the GPT cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding(12, 12)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss = nn.functional.cross_entropy(self.logits(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
        return loss, torch.tensor(targets.numel())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_module_is_compiled_and_its_loss_is_that_of_eager_mode(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, torch_as_it_was: None
) -> None:
    monkeypatch.setattr(autotune, "_MIN_GAIN", -100.0)
    monkeypatch.setattr(Autotuner, "_expected_gain", lambda *_: 1.0)
    model = Bigrams()

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any) -> Any:
            return self.model(*args)

    given = HardwareSettings(precision="fp32")
    tuner = make_tuner(store, steps=None, minutes=None, hardware=given, make_module=Compiled)
    module, context = tuner.run()
    assert context.compile, context.reasons
    assert context.trials[-1]["compile_seconds"] > 0
    batch = tuner.batch.slice_rows(slice(0, 2), CPU.device)
    assert torch.allclose(module(*batch.loss_args())[0], model(*batch.loss_args())[0], rtol=1e-5)
