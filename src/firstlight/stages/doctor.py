"""``doctor``: report what this machine supports, what is missing and what to install."""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from firstlight.parallel import openmp, usable_cores
from firstlight.parallel.allocator import state as allocator_state
from firstlight.shell import install_command, install_extra, requirements

_TESTED_TORCH = ((2, 11), (2, 14))
_LOW_BYTES = 2_000_000_000
_EXTRAS = {
    "parquet": (("pyarrow",), "reading .parquet"),
    "zstd": (("zstandard",), "reading .zst"),
    "images": (("PIL",), "PNG and JPEG"),
    "hub": (("datasets", "huggingface_hub"), "data sets and models of the Hugging Face hub"),
    "adapters": (("peft",), "fine-tuning with adapters"),
    "vectors": (("gensim",), "training word2vec"),
    "zh": (("jieba",), "word vectors of Chinese words"),
    "gguf": (("gguf",), "GGUF models"),
    "keras": (("keras", "h5py"), "Keras models"),
    "onnx": (("onnx", "onnxscript"), "exporting to ONNX"),
    "tiktoken": (("tiktoken",), "verifying imported tiktoken files"),
    "tensorboard": (("tensorboard",), "TensorBoard logs of a run"),
    "transformers": (("transformers",), "loading checkpoints with transformers"),
}
# Distributions whose name differs from the module's.
_PROJECTS = {"PIL": "pillow", "huggingface_hub": "huggingface-hub"}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: "ok", "note" (works, with a limitation) or "problem" (something will fail).
        fix: what to do about it; empty if nothing.
    """

    name: str
    value: str
    level: str = "ok"
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks."""

    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether no finding is a problem."""
        return all(finding.level != "problem" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


def doctor(folder: str | Path = ".") -> Diagnosis:
    """Check Python, torch, GPUs, CPU, memory, compiler, decoder, allocator, the disk of ``folder``, and extras."""
    findings = [_python(), *_torch(), _cpu(), _memory(), _compiler(), _decoder(), _allocator(), _openmp()]
    return Diagnosis([*findings, _disk(Path(folder)), *(_extra(name) for name in _EXTRAS), _encoder()])


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} ({sys.executable})")


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [
            Finding(
                "torch",
                f"failed to import: {error}",
                "problem",
                f"Run: {install_command(*requirements(package='torch'))}",
            )
        ]
    version = torch.__version__
    is_tested = _TESTED_TORCH[0] <= tuple(map(int, version.split(".")[:2])) < _TESTED_TORCH[1]
    minimum, below = (".".join(map(str, bound)) for bound in _TESTED_TORCH)
    finding = (
        Finding("torch", version)
        if is_tested
        else Finding("torch", version, "note", f"Tested with torch >= {minimum}, < {below}.")
    )
    found = [finding]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            found.append(Finding("gpu", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}"))
    elif torch.backends.mps.is_available():
        found.append(Finding("gpu", "Metal (mps)"))
    else:
        fix = (
            ""
            if shutil.which("nvidia-smi") is None
            else "An NVIDIA driver is installed: install a CUDA build of torch."
        )
        found.append(Finding("gpu", "none; training runs on the CPU", "note" if fix else "ok", fix))
    return found


def _cpu() -> Finding:
    cores = usable_cores()
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines() if ":" in line)
        table = {key.strip(): value.strip() for key, value in lines.items()}
        name = table.get("model name", name)
        available = set((table.get("flags") or table.get("Features") or "").split())
        flags = f", {' '.join(flag for flag in _CPU_FLAGS if flag in available) or 'no known vector extensions'}"
    return Finding("cpu", f"{name}, {cores} usable cores{flags}")


def _memory() -> Finding:
    total, free = _memory_bytes()
    if not total:
        return Finding("memory", "unknown")
    value = f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free"
    if free < _LOW_BYTES:
        return Finding("memory", value, "note", "Only small models fit: lower model.n_embd and train.batch_tokens.")
    return Finding("memory", value)


def _memory_bytes() -> tuple[int, int]:
    """Return total and free bytes, within the container's limit if there is one."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return 0, 0
        return total, total
    table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in info.read_text(encoding="ascii").splitlines()}
    total, free = table["MemTotal"], table.get("MemAvailable", table["MemFree"])
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        used = int((limit.parent / "memory.current").read_text(encoding="ascii"))
        total, free = min(total, int(text)), min(free, int(text) - used)
    return total, max(free, 0)


def _compiler() -> Finding:
    found = next((path for name in ("g++", "clang++", "cl") if (path := shutil.which(name))), None)
    if found is None:
        value = "no C++ compiler found: torch.compile is disabled, generation on the CPU is slower"
        return Finding("compiler", value, "note", "Install g++ for both.")
    return Finding("compiler", found)


def _decoder() -> Finding:
    try:
        from firstlight.model.decoders import load_library
    except (ImportError, OSError):
        return Finding("decoder", "unknown without torch", "note")
    found = load_library()
    if isinstance(found, str):
        return Finding("decoder", f"torch's operators ({found})", "note", "With one in C++ generation is faster.")
    return Finding("decoder", "in C++, compiled for this processor")


def _allocator() -> Finding:
    return Finding("allocator", f"{allocator_state()}; tuned for training on Linux with glibc")


def _openmp() -> Finding:
    return Finding("openmp", openmp.state())


def _disk(folder: Path) -> Finding:
    folder = folder.absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir():
        return Finding("disk", f"{existing} is a file, not a folder", "problem", "Choose another folder with --out.")
    free = shutil.disk_usage(existing).free
    value = f"{free / 1e9:.1f} GB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("disk", f"{existing} is not writable", "problem", "Choose another folder with --out.")
    if free < _LOW_BYTES:
        return Finding("disk", value, "note", "Checkpoints may not fit: free disk space, or set train.keep_last=1.")
    return Finding("disk", value)


def _extra(name: str) -> Finding:
    modules, purpose = _EXTRAS[name]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        return Finding(_project(missing[0]), f"not installed: {purpose}", "note", install_extra(name))
    return Finding(_project(modules[0]), metadata.version(_project(modules[0])))


def _project(module: str) -> str:
    return _PROJECTS.get(module, module)


def _encoder() -> Finding:
    if importlib.util.find_spec("fastokens") is None:
        fix = f"Run: {install_command(*requirements(package='fastokens'))}"
        return Finding("fastokens", "not installed: BPE encoding is several times slower", "note", fix)
    return Finding("fastokens", metadata.version("fastokens"))
