import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

import firstlight.parallel
from firstlight import config, progress
from firstlight.config import Settings
from firstlight.errors import ConfigError, UsageError
from firstlight.parallel import (
    DeviceContext,
    HardwareSettings,
    autocast,
    compile_module,
    environment,
    flops,
    grad_scaler,
    limit_threads,
    peak_memory,
    resolve_hardware,
)
from firstlight.parallel import device as device_module


class Root(Settings):
    hardware: HardwareSettings = HardwareSettings()


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch's process-wide settings as they were."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_public_names_are_sorted_and_there() -> None:
    names = firstlight.parallel.__all__
    assert names == sorted(names, key=lambda n: (not n[0].isupper(), n))
    assert all(hasattr(firstlight.parallel, name) for name in names)
    with pytest.raises(AttributeError, match="nonsense"):
        firstlight.parallel.nonsense  # noqa: B018


def test_the_room_loads_without_torch() -> None:
    code = "import sys, firstlight.parallel as p; p.ensure_allocator; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_auto_on_a_cpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_accelerator(monkeypatch)
    device_context = resolve_hardware(HardwareSettings())
    assert (device_context.device, device_context.precision, device_context.compile) == (
        torch.device("cpu"),
        "fp32",
        False,
    )
    assert (device_context.world_size, device_context.rank, device_context.local_rank, device_context.backend) == (
        1,
        0,
        0,
        "",
    )
    assert device_context.dtype is torch.float32
    assert {"device", "precision", "compile", "threads"} <= device_context.reasons.keys()


def test_what_is_asked_for_needs_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_accelerator(monkeypatch)
    device_context = resolve_hardware(HardwareSettings(device="cpu", precision="bf16", compile="off", threads=1))
    assert (device_context.precision, device_context.dtype, device_context.threads) == ("bf16", torch.bfloat16, 1)
    assert not {"device", "precision", "compile", "threads"} & device_context.reasons.keys()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"device": "cuda"}, "no CUDA device"),
        ({"device": "cuda:1"}, "no CUDA device"),
        ({"device": "mps"}, "no Metal device"),
        ({"device": "abacus"}, "unrecognised device"),
        ({"device": "meta"}, "unsupported device"),
        ({"device": "cpu", "precision": "fp16"}, "needs a GPU"),
    ],
)
def test_what_the_machine_lacks_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, object], words: str
) -> None:
    _no_accelerator(monkeypatch)
    with pytest.raises(UsageError, match=words) as caught:
        resolve_hardware(HardwareSettings.model_validate(table))
    assert caught.value.exit_code == 2
    assert (caught.value.where or "").startswith("hardware.")


@pytest.mark.parametrize(
    "table", [{"threads": 0}, {"threads": -1}, {"threads": "many"}, {"precision": "fp8"}, {"gpu": 1}]
)
def test_settings_that_cannot_be_meant_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="hardware."):
        config.resolve(Root, {"hardware": table})


def test_threads_are_set_and_divided_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert resolve_hardware(HardwareSettings(device="cpu")).threads == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resolve_hardware(HardwareSettings(device="cpu")).threads == 3
    assert torch.get_num_threads() == 3
    assert resolve_hardware(HardwareSettings(device="cpu", threads=2)).threads == 2
    # torchrun sets OMP_NUM_THREADS=1 by itself.
    for name, value in {
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    device_context = resolve_hardware(HardwareSettings(device="cpu"))
    assert (
        device_context.threads,
        device_context.world_size,
        device_context.rank,
        device_context.local_rank,
        device_context.backend,
    ) == (4, 4, 3, 1, "gloo")


@pytest.mark.parametrize("text", ["", "0", "4,2", "all"])
def test_an_odd_omp_num_threads_is_passed_over(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert resolve_hardware(HardwareSettings(device="cpu")).threads == 2


def test_determinism_is_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_accelerator(monkeypatch)
    resolve_hardware(HardwareSettings(deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    resolve_hardware(HardwareSettings(deterministic=False))
    assert not torch.are_deterministic_algorithms_enabled()


def _which(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    monkeypatch.setattr(device_module.shutil, "which", lambda name: name if name in there else None)


@pytest.mark.parametrize("there", ["g++", "clang++", "cl"])
def test_compiling_where_asked_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    _which(monkeypatch, there)
    assert resolve_hardware(HardwareSettings(device="cpu", compile="on")).compile
    _which(monkeypatch)
    with pytest.raises(UsageError, match="C\\+\\+ compiler"):
        resolve_hardware(HardwareSettings(device="cpu", compile="on"))
    assert not resolve_hardware(HardwareSettings(device="cpu", compile="off")).compile


def test_cxx_names_the_compiler_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    _which(monkeypatch, "my-cxx")
    monkeypatch.setenv("CXX", "my-cxx -O1")
    assert resolve_hardware(HardwareSettings(device="cpu", compile="on")).compile
    _which(monkeypatch, "g++")
    with pytest.raises(UsageError):
        resolve_hardware(HardwareSettings(device="cpu", compile="on"))


def test_a_gpu_without_compiler_runs_uncompiled_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _which(monkeypatch)
    events: list[progress.Event] = []
    reasons: dict[str, str] = {}
    with progress.listen(events.append):
        assert not device_module._compiles("auto", torch.device("cuda", 0), reasons)
    assert [e.text for e in events] == ["no C++ compiler on this machine: running without compilation"]
    assert "no C++ compiler" in reasons["compile"]
    _which(monkeypatch, "g++")
    assert device_module._compiles("auto", torch.device("cuda", 0), reasons)


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert device_module._precision("auto", torch.device("cuda", 0), {}) == precision
    assert device_module._precision("fp16", torch.device("cuda", 0), {}) == "fp16"


def test_a_cpu_is_exact_until_a_run_has_tried_bf16() -> None:
    reasons: dict[str, str] = {}
    assert device_module._precision("auto", torch.device("cpu"), reasons) == "fp32"
    assert reasons["precision"] == "auto: cpu is exact in fp32"


def _context(precision: str = "fp32", compiled: bool = False, device: str = "cpu") -> DeviceContext:
    return DeviceContext(torch.device(device), precision, compiled, 1, 0, 1, {})


def test_autocast_is_on_where_precision_is_low() -> None:
    a = torch.ones(2, 2)
    with autocast(_context("fp32")):
        assert (a @ a).dtype is torch.float32
    with autocast(_context("bf16")):
        assert (a @ a).dtype is torch.bfloat16
    assert (a @ a).dtype is torch.float32


def test_only_fp16_scales_the_loss() -> None:
    assert grad_scaler(_context("fp32")) is None
    assert grad_scaler(_context("bf16")) is None
    assert isinstance(grad_scaler(_context("fp16")), torch.amp.GradScaler)


def test_compiling_keeps_module_and_names() -> None:
    module = nn.Linear(2, 2)
    assert compile_module(module, _context()) is module
    assert module._compiled_call_impl is None
    assert compile_module(module, _context(compiled=True)) is module
    assert module._compiled_call_impl is not None
    assert list(dict(module.named_parameters())) == ["weight", "bias"]


def test_memory_is_a_peak_of_this_process() -> None:
    before = peak_memory(_context())
    assert before > 2**24
    block = torch.ones(2**24)
    grown = peak_memory(_context())
    assert grown > before - 2**20
    assert grown >= block.numel() * 4
    del block
    assert peak_memory(_context()) >= grown - 2**20, "a peak does not fall"


def test_memory_does_not_count_a_parents_peak() -> None:
    code = (
        "import subprocess, sys; block = bytearray(b'x') * 2**29;"
        "child = 'from firstlight.parallel import peak_memory, DeviceContext; import torch;"
        'print(peak_memory(DeviceContext(torch.device("cpu"), "fp32", False, 1, 0, 1, {})))\';'
        "sys.exit(subprocess.run([sys.executable, '-c', child], close_fds=False).returncode)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    if sys.platform == "linux":
        assert int(out) < 2**29


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ceiling_of_a_cpu_is_measured_in_the_runs_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[torch.dtype] = []
    product = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w: (multiplied.append(x.dtype), product(x, w)))
    device_context = _context(precision=precision)
    found = flops.peak_flops(device_context)
    assert found is not None
    assert 1e8 < found < 1e14
    assert set(multiplied) == {device_context.dtype}


def test_ceiling_is_the_fastest_product_until_none_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, durations = [0.0], [9.0, 5.0, *[6.0] * 5, 2.0, *[7.0] * 8, 1.0]

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        clock[0] += durations.pop(0)
        return x

    monkeypatch.setattr(flops.time, "perf_counter", lambda: clock[0])
    one = torch.ones(1, 1)
    assert flops._best_seconds(product, one, one, 1000.0) == 2.0
    assert durations == [1.0], "eight in a row were slower"
    clock[0], durations[:] = 0.0, [3.0, 4.0, 1.0]
    assert flops._best_seconds(product, one, one, 5.0) == 3.0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA RTX A4000", None),
        ("an unknown card", None),
    ],
)
def test_ceiling_of_a_gpu_is_its_data_sheets(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert flops.peak_flops(_context(device="cuda:0")) == peak


def test_environment_is_plain_json() -> None:
    import json

    device_context = resolve_hardware(HardwareSettings(device="cpu"))
    table = json.loads(json.dumps(environment(device_context)))
    assert table["threads"] == device_context.threads
    assert table["torch"] == torch.__version__
    assert table["device_name"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_found() -> None:
    device_context = resolve_hardware(HardwareSettings())
    assert device_context.device.type == "cuda"
    with pytest.raises(UsageError, match="no such GPU"):
        resolve_hardware(HardwareSettings(device=f"cuda:{torch.cuda.device_count()}"))


@pytest.mark.parametrize(
    ("threads", "flops", "expected"), [("auto", 1e7, 1), ("auto", 1e9, 2), (2, 1e7, 2)], ids=["tiny", "small", "given"]
)
def test_a_tiny_model_trains_with_one_thread(
    monkeypatch: pytest.MonkeyPatch, threads: int | str, flops: float, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = HardwareSettings.model_validate({"threads": threads})
    two = replace(_context(), threads=2)
    assert limit_threads(two, settings, flops).threads == expected


def test_the_users_omp_num_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    two = replace(_context(), threads=2)
    assert limit_threads(two, HardwareSettings(), 1e7).threads == 2
