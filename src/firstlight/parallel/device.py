"""Device, precision, compilation and CPU threads of a process: every ``auto`` resolved once, with the reason."""

import os
import platform
import re
import shlex
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from firstlight import progress
from firstlight.config import Settings
from firstlight.errors import UsageError, nearest
from firstlight.parallel import allocator, openmp
from firstlight.parallel.cores import usable_cores

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# FLOPs of a layer in a step from which two threads are at least 1.25 times as fast as one: see docs/benchmarks.md.
_MIN_PARALLEL_FLOPS = 1.5e8


class HardwareSettings(Settings):
    """Settings of device, precision, compilation and threads."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that supports it; on a CPU the faster of fp32 and bf16, measured"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: in a run that is long enough to pay for compiling, if it is faster, measured"
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="CPU threads of this process")
    deterministic: bool = Field(True, description="use deterministic algorithms, and warn where there is none")


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """Resolved HardwareSettings, and the rank of this process.

    Attributes:
        device: device of the model.
        precision: fp32, bf16 or fp16, of matrix products.
        compile: whether forward passes are compiled.
        threads: CPU threads of this process.
        rank: global rank of this process.
        world_size: number of processes.
        reasons: why each ``auto`` was resolved as it was, by key.
        local_rank: rank of this process on its machine.
        local_world_size: number of processes on this machine.
        backend: of torch.distributed, nccl or gloo; empty for one process.
        trials: what was measured to resolve ``auto``, for environment.json.
    """

    device: torch.device
    precision: str
    compile: bool
    threads: int
    rank: int
    world_size: int
    reasons: dict[str, str]
    local_rank: int = 0
    local_world_size: int = 1
    backend: str = ""
    trials: tuple[dict[str, Any], ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return _DTYPES[self.precision]


def resolve_hardware(settings: HardwareSettings) -> DeviceContext:
    """Resolve every ``auto``, and set threads and determinism of this process.

    Raises:
        UsageError: this machine does not have the device or precision.
    """
    reasons: dict[str, str] = {}
    world_size, rank, local_rank = _env_int("WORLD_SIZE", 1), _env_int("RANK", 0), _env_int("LOCAL_RANK", 0)
    local = _env_int("LOCAL_WORLD_SIZE", 1)
    device = _device(settings.device, reasons)
    precision = _precision(settings.precision, device, reasons)
    compiles = _compiles(settings.compile, device, reasons)
    if settings.threads == "auto":
        cores = usable_cores()
        # torchrun sets OMP_NUM_THREADS to 1 by itself, so with several processes it is not the user's choice.
        requested = _env_int("OMP_NUM_THREADS", 0) if world_size == 1 else 0
        threads = requested or max(1, cores // local)
        reasons["threads"] = "auto: OMP_NUM_THREADS" if requested else f"auto: {cores} cores over {local} processes"
    else:
        threads = settings.threads
    torch.set_num_threads(threads)
    _set_deterministic(settings, compiles)
    # Deterministic mode also fills new tensors with NaN, to reveal reads of uninitialized memory: slow, and not needed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")
    backend = "" if world_size == 1 else "nccl" if device.type == "cuda" else "gloo"
    return DeviceContext(device, precision, compiles, threads, rank, world_size, reasons, local_rank, local, backend)


def with_compilation(device_context: DeviceContext, settings: HardwareSettings) -> DeviceContext:
    """Return the context of a process that compiles its forward passes."""
    _set_deterministic(settings, compiles=True)
    return replace(device_context, compile=True)


def _set_deterministic(settings: HardwareSettings, compiles: bool) -> None:
    # torch.use_deterministic_algorithms would import torch.compile's machinery, which is slow and may not be needed.
    set_deterministic = torch.use_deterministic_algorithms if compiles else torch._C._set_deterministic_algorithms
    set_deterministic(settings.deterministic, warn_only=True)


def limit_threads(device_context: DeviceContext, settings: HardwareSettings, flops: float) -> DeviceContext:
    """Train a tiny model with one thread, where ``threads`` is ``auto``: a second one would gain less than a quarter.

    Args:
        device_context: the resolved settings.
        settings: as they were given.
        flops: of one layer in the forward and backward pass of a micro-batch.
    """
    is_given = settings.threads != "auto" or _env_int("OMP_NUM_THREADS", 0)
    if is_given or device_context.device.type != "cpu" or device_context.threads == 1 or flops >= _MIN_PARALLEL_FLOPS:
        return device_context
    torch.set_num_threads(1)
    reasons = {**device_context.reasons, "threads": "auto: the model is too small to gain from a second thread"}
    return replace(device_context, threads=1, reasons=reasons)


def _env_int(name: str, default: int) -> int:
    """Return an integer from an environment variable that torchrun or the user has set."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def _device(name: str, reasons: dict[str, str]) -> torch.device:
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
        reasons["device"] = f"auto: {name}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        near = nearest(name, ("auto", "cpu", "cuda", "mps"))
        raise UsageError(
            "unrecognised device",
            where="hardware.device",
            found=name,
            expected="auto, cpu, cuda, cuda:N or mps",
            fix=near and f"Did you mean {near}?",
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(
                "this machine has no CUDA device that torch can use",
                where="hardware.device",
                found=name,
                fix="Set hardware.device=cpu, or install a CUDA build of torch.",
            )
        index = device.index if device.index is not None else _env_int("LOCAL_RANK", 0)
        if index >= torch.cuda.device_count():
            raise UsageError(
                "no such GPU",
                where="hardware.device",
                found=f"cuda:{index}",
                expected=f"below {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if device.type == "mps" and not has_mps:
        raise UsageError(
            "this machine has no Metal device", where="hardware.device", found=name, fix="Set hardware.device=cpu."
        )
    if device.type not in ("cpu", "mps"):
        raise UsageError(
            "unsupported device", where="hardware.device", found=name, expected="auto, cpu, cuda, cuda:N or mps"
        )
    return device


def _precision(requested: str, device: torch.device, reasons: dict[str, str]) -> str:
    if requested == "auto":
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
        why = "the GPU has bf16 units" if supported else f"{device.type} is exact in fp32"
        reasons["precision"] = f"auto: {why}"
        return "bf16" if supported else "fp32"
    if requested == "fp16" and device.type != "cuda":
        raise UsageError(
            "fp16 needs a GPU", where="hardware.precision", found=f"device {device}", fix="Set bf16 or fp32."
        )
    return requested


def _compiles(requested: str, device: torch.device, reasons: dict[str, str]) -> bool:
    has_compiler = has_cxx_compiler()
    if requested == "on" and not has_compiler:
        raise UsageError(
            "compilation needs a C++ compiler",
            where="hardware.compile",
            fix="Install g++ or clang++, or set hardware.compile=off.",
        )
    if requested != "auto":
        return requested == "on"
    if device.type != "cuda":
        reasons["compile"] = "auto: on a CPU only where it was tried"
        return False
    if not has_compiler:
        progress.notice("no C++ compiler on this machine: running without compilation")
    reasons["compile"] = f"auto: {'there is a C++ compiler' if has_compiler else 'no C++ compiler'}"
    return has_compiler


def has_cxx_compiler() -> bool:
    """Return whether there is a C++ compiler, which torch.compile needs."""
    # CXX may be a command with arguments, or a wrapper followed by the compiler.
    named = shlex.split(os.environ.get("CXX", ""))[:1] or ["g++", "clang++", "cl"]
    return any(shutil.which(name) for name in named)


def compile_module(module: nn.Module, device_context: DeviceContext) -> nn.Module:
    """Compile a module in place if the context says so; its parameter names do not change."""
    if device_context.compile:
        module.compile()
    return module


def autocast(device_context: DeviceContext) -> AbstractContextManager[Any]:
    """Return the autocast context of the forward pass."""
    if device_context.precision == "fp32":
        return nullcontext()
    return torch.autocast(device_context.device.type, dtype=device_context.dtype)


def synchronize(device_context: DeviceContext) -> None:
    """Wait for the work of a GPU."""
    if device_context.device.type == "cuda":
        torch.cuda.synchronize(device_context.device)


def grad_scaler(device_context: DeviceContext) -> torch.amp.GradScaler | None:
    """Return a gradient scaler for fp16, else None."""
    return torch.amp.GradScaler(device_context.device.type) if device_context.precision == "fp16" else None


def peak_memory(device_context: DeviceContext) -> int:
    """Return the peak memory of this process in bytes: allocated on the GPU, or resident on the CPU."""
    if device_context.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device_context.device))
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage starts from the parent's peak if the parent started this process by vfork.
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor_name() -> str:
    """Return the processor's name; on Linux from /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor()


def environment(device_context: DeviceContext) -> dict[str, Any]:
    """Describe software and hardware, for the report of a run."""
    device_name = (
        torch.cuda.get_device_name(device_context.device) if device_context.device.type == "cuda" else _processor_name()
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(device_context.device),
        "device_name": device_name or platform.machine(),
        "precision": device_context.precision,
        "compile": device_context.compile,
        "threads": device_context.threads,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "processes": device_context.world_size,
        "allocator": allocator.state(),
        "openmp": openmp.state(),
        "trials": list(device_context.trials),
        "reasons": device_context.reasons,
    }
