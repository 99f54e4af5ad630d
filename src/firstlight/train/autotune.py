"""Resolve ``auto`` of ``hardware.precision`` and ``hardware.compile`` by trying them on the run's own batches.

Nothing of the run changes: gradients are dropped, and random number generators restored. A run that is too short to
pay for the trials keeps fp32 and eager mode on a CPU. The choice is written to run.toml, which a resumed run reads, and
the measured seconds to environment.json. ``FIRSTLIGHT_AUTOTUNE=0`` in the environment turns trials off.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from firstlight import parallel, progress
from firstlight.optim import has_fast_bf16
from firstlight.parallel import DeviceContext, HardwareSettings
from firstlight.train.limits import Limits
from firstlight.train.micro_batch import is_out_of_memory
from firstlight.train.state import TrainState
from firstlight.types import BatchLike

_MIN_RUN_SECONDS = 30.0  # below, what can be gained is less than what is lost by trying
_OPEN_ENDED_SECONDS = 3600.0  # of a run that ends with convergence
_MIN_PASSES = 100  # of the run, so that the first measurement takes little of it
_MAX_SHARE = 0.02  # of the run's time that trials of precisions may take
_ROUNDS = 3  # of each trial, of which the fastest counts
_MIN_GAIN = 0.03  # by which bf16 must be faster than the exact fp32, and compiled code than eager

# Seconds of compiling forward and backward pass: of any model, and of each layer. Time outside of products and
# attention that compiled code takes, as a fraction of eager mode's. Measured on shapes of 4 and 6 layers.
_COMPILE_SECONDS, _COMPILE_SECONDS_PER_LAYER, _COMPILED_REST = 18.0, 2.0, 0.4
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product", "_linear_pointwise", "_flash_attention")


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice that was tried.

    Attributes:
        precision: of matrix products.
        compile: whether forward and backward pass were compiled.
        seconds: of forward and backward pass of ``rows`` rows.
        rows: that were computed.
        compile_seconds: of compiling, which the first pass includes.
    """

    precision: str
    compile: bool
    seconds: float
    rows: int
    compile_seconds: float = 0.0

    @property
    def name(self) -> str:
        """What was tried, in words."""
        return f"{self.precision}, compiled" if self.compile else self.precision

    def to_json(self) -> dict[str, Any]:
        """Return the trial for environment.json."""
        table = {"precision": self.precision, "compile": self.compile, "rows": self.rows}
        table["milliseconds"] = round(1000 * self.seconds, 3)
        return {**table, "compile_seconds": round(self.compile_seconds, 1)} if self.compile else table


@dataclass
class Autotuner:
    """Tries precisions and compilation on one micro-batch.

    Attributes:
        make_module: returns the loss module, uncompiled and not wrapped in DDP.
        state: model and optimizer.
        load_batch: returns this process's rows of the first update; called where something is tried.
        limits: of the run.
        layers: of the model, which the time of compiling depends on.
        hardware: the settings, of which ``auto`` is resolved.
        device_context: what they were resolved to without trying.
        may_compile: whether all batches have one shape, so that compiling once is enough.
    """

    make_module: Callable[[], nn.Module]
    state: TrainState
    load_batch: Callable[[], BatchLike]
    limits: Limits
    layers: int
    hardware: HardwareSettings
    device_context: DeviceContext
    may_compile: bool = True

    @functools.cached_property
    def batch(self) -> BatchLike:
        """This process's rows of the first update."""
        return self.load_batch()

    def run(self) -> tuple[nn.Module, DeviceContext]:
        """Return the module, compiled if that pays, and the device context with the choice, its reasons and trials."""
        start = self.device_context
        precisions = self._precisions()
        tries_compile = self.may_compile and self.hardware.compile == "auto" and parallel.has_cxx_compiler()
        nothing_to_try = start.device.type == "mps" or (len(precisions) == 1 and not tries_compile)
        if nothing_to_try or os.environ.get("FIRSTLIGHT_AUTOTUNE") == "0":
            return parallel.compile_module(self.make_module(), start), start
        rng_state = parallel.rng_state()
        try:
            return self._try(precisions, tries_compile=tries_compile)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # The loop finds the micro-batch that fits.
            self.state.optimizer.zero_grad(set_to_none=True)
            reasons = {key: "auto: out of memory while others were tried" for key in self._keys(precisions)}
            context = replace(start, reasons={**start.reasons, **reasons})
            return parallel.compile_module(self.make_module(), context), context
        finally:
            parallel.set_rng_state(rng_state)

    def _precisions(self) -> list[str]:
        device = self.device_context.device
        if self.hardware.precision != "auto" or device.type != "cpu" or not has_fast_bf16(device):
            return [self.device_context.precision]
        return ["fp32", "bf16"]

    def _keys(self, precisions: Sequence[str]) -> list[str]:
        keys = ["precision"] if len(precisions) > 1 else []
        return [*keys, "compile"] if self.hardware.compile == "auto" else keys

    def _try(self, precisions: list[str], *, tries_compile: bool) -> tuple[nn.Module, DeviceContext]:
        start, module = self.device_context, self.make_module()
        eager = replace(start, compile=start.compile and not tries_compile)
        rows = min(self.state.counters.micro_batch or self.batch.n_rows, self.batch.n_rows)
        passes = -(-self.batch.n_rows // rows)  # of an update
        if self.limits.steps is not None and self.limits.steps * passes < _MIN_PASSES:
            return module, self._untried(eager, precisions, "the run is too short to try others")
        first = replace(eager, precision=precisions[0])
        self._seconds(module, first, rows)
        expected = self._run_seconds(passes * self._seconds(module, first, rows))
        if expected < _MIN_RUN_SECONDS:
            why = f"the run takes about {expected:.0f} s, too short to try others"
            return module, self._untried(eager, precisions, why)
        with progress.task("choose the precision" if len(precisions) > 1 else "choose eager or compiled mode"):
            trials = self._try_precisions(module, eager, precisions, rows, expected)
            best = trials[0] if len(trials) == 1 else _faster(*trials)
            context = replace(eager, precision=best.precision)
            if not tries_compile:
                return module, self._chosen(context, trials)
            gain, cost = self._expected_gain(module, context, rows), self._compile_seconds()
            if expected * gain < cost:
                why = f"auto: would gain about {expected * gain:.0f} s, and compiling takes about {cost:.0f} s"
                return module, self._chosen(context, trials, {"compile": why})
            progress.notice(f"compiling the model, which takes about {cost:.0f} s, to see whether that is faster")
            compiled_module, pair = self._try_compiled(module, context, rows)
            if not pair:
                return module, self._chosen(context, trials, {"compile": "auto: it could not be compiled"})
            trials += pair
            if _faster(*pair) is pair[0]:
                return module, self._chosen(context, trials)
            return compiled_module, self._chosen(replace(context, compile=True), trials)

    def _seconds(self, module: nn.Module, context: DeviceContext, rows: int) -> float:
        """Return the seconds of forward and backward pass of so many rows; of the slowest process."""
        # In the middle: rows of tasks are sorted by length.
        start_row = min(self.batch.n_rows // 2 // rows * rows, self.batch.n_rows - rows)
        micro_batch = self.batch.slice_rows(slice(start_row, start_row + rows), context.device)
        parallel.synchronize(context)
        start = time.perf_counter()
        with parallel.autocast(context):
            loss_sum, *_ = module(*micro_batch.loss_args())
        loss_sum.backward()
        parallel.synchronize(context)
        seconds = time.perf_counter() - start
        self.state.optimizer.zero_grad(set_to_none=True)
        return float(max(parallel.all_gather(seconds, context)))

    def _run_seconds(self, step_seconds: float) -> float:
        """Return the expected time of the run, without updates of the weights, evaluations and checkpoints."""
        limits = []
        if self.limits.steps is not None:
            limits.append(self.limits.steps * step_seconds)
        if self.limits.minutes is not None:
            limits.append(60 * self.limits.minutes)
        return min(limits, default=_OPEN_ENDED_SECONDS)

    def _try_precisions(
        self, module: nn.Module, eager: DeviceContext, precisions: list[str], rows: int, expected: float
    ) -> list[Trial]:
        contexts = [replace(eager, precision=precision) for precision in precisions]
        seconds = self._seconds(module, contexts[0], rows)
        affordable = _MAX_SHARE * expected / (len(contexts) * (1 + _ROUNDS) * seconds)
        rows = max(1, min(rows, int(rows * affordable)))
        for context in contexts:  # kernels are prepared in the first pass of each
            self._seconds(module, context, rows)
        found = [[self._seconds(module, context, rows) for context in contexts] for _ in range(_ROUNDS)]
        times = zip(*found, strict=True)
        return [Trial(name, False, min(of_name), rows) for name, of_name in zip(precisions, times, strict=True)]

    def _expected_gain(self, module: nn.Module, context: DeviceContext, rows: int) -> float:
        """Return the part of the time that compiled code is expected to save."""
        if context.device.type != "cpu":
            return 0.2
        with _ProductTimer() as timer:
            seconds = self._seconds(module, context, rows)
        rest = max(0.0, 1 - timer.seconds / seconds)
        return float(min(parallel.all_gather(rest * (1 - _COMPILED_REST), context)))

    def _compile_seconds(self) -> float:
        return _COMPILE_SECONDS + _COMPILE_SECONDS_PER_LAYER * self.layers

    def _try_compiled(self, eager: nn.Module, context: DeviceContext, rows: int) -> tuple[nn.Module, list[Trial]]:
        """Compile a module; return it, and the trials of eager mode and of the compiled module side by side."""
        compiled_context = parallel.with_compilation(context, self.hardware)
        module = parallel.compile_module(self.make_module(), compiled_context)
        start = time.perf_counter()
        try:
            self._seconds(module, compiled_context, rows)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            if is_out_of_memory(error):
                raise
            self.state.optimizer.zero_grad(set_to_none=True)
            # An earlier process that was killed while it compiled may have left half a file there.
            advice = (
                "the cache of torch.compile (TORCHINDUCTOR_CACHE_DIR, else torchinductor_USER in /tmp) may be damaged"
            )
            first_line = str(error).strip().partition("\n")[0]
            progress.warn(f"the model could not be compiled, and trains in eager mode: {first_line}; {advice}")
            return eager, []
        compile_seconds = time.perf_counter() - start
        modules = ((eager, context), (module, compiled_context))
        found = [[self._seconds(*pair, rows) for pair in modules] for _ in range(1 + _ROUNDS)]
        eager_seconds, seconds = (min(times) for times in zip(*found, strict=True))
        return module, [
            Trial(context.precision, False, eager_seconds, rows),
            Trial(context.precision, True, seconds, rows, compile_seconds),
        ]

    def _untried(self, context: DeviceContext, precisions: Sequence[str], why: str) -> DeviceContext:
        return replace(context, reasons={**context.reasons, **dict.fromkeys(self._keys(precisions), f"auto: {why}")})

    def _chosen(
        self, context: DeviceContext, trials: list[Trial], reasons: dict[str, str] | None = None
    ) -> DeviceContext:
        times = ", ".join(f"{t.name} {1000 * t.seconds / t.rows:,.2f} ms" for t in trials)
        measured = f"auto: forward and backward pass of a row: {times}"
        keys = ["precision"] if any(trial.precision != trials[0].precision for trial in trials) else []
        keys += ["compile"] if any(trial.compile for trial in trials) else []
        if context.precision != self.device_context.precision:
            exact = trials[0]
            ratio = exact.seconds / next(t for t in trials if t.precision == context.precision).seconds
            text = f"training in {context.precision}, {ratio:.2f} times as fast as {exact.precision} in a trial"
            progress.notice(f"{text}; hardware.precision={exact.precision} trains in {exact.precision}")
        reasons = {**context.reasons, **dict.fromkeys(keys, measured), **(reasons or {})}
        return replace(context, reasons=reasons, trials=tuple(trial.to_json() for trial in trials))


def _faster(plain: Trial, other: Trial) -> Trial:
    """Return the faster trial; the plain one unless the other is faster by more than noise."""
    return other if other.seconds < (1 - _MIN_GAIN) * plain.seconds else plain


class _ProductTimer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the seconds in matrix products and attention, which compiling does not make faster."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if func.name().partition("::")[2].partition(".")[0].startswith(_PRODUCTS):
            self.seconds += time.perf_counter() - start
        return result
