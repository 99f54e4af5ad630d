"""What fits: divisors, free memory, and what counts as running out of it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstlight.errors import TrainingError
from firstlight.model import ModelConfig
from firstlight.train import activation_bytes, initial_micro_batch, micro_batch
from firstlight.train.micro_batch import free_memory, halve, is_out_of_memory

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=100)
ROW = activation_bytes(CONFIG, bytes_per_number=4, checkpointing=False)


@given(rows=st.integers(1, 200), fit=st.integers(0, 300))
def test_the_guess_is_the_largest_divisor_that_fits(rows: int, fit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batch, "free_memory", lambda: int((fit + 0.5) * ROW / 0.4))
        guess = initial_micro_batch(CONFIG, rows, CPU, bytes_per_number=4, checkpointing=False)
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and n <= fit]
    assert guess == max(fitting, default=1)


def test_processes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "free_memory", lambda: int(8.5 * ROW / 0.4))
    guesses = [
        initial_micro_batch(CONFIG, 64, CPU, bytes_per_number=4, checkpointing=False, processes=n)
        for n in (1, 2, 4, 8, 16)
    ]
    assert guesses == [8, 4, 2, 1, 1]


@given(rows=st.integers(1, 300), micro=st.integers(2, 300))
def test_halving_keeps_a_divisor(rows: int, micro: int) -> None:
    smaller = halve(micro, rows)
    assert rows % smaller == 0
    assert smaller <= micro // 2
    assert not [n for n in range(smaller + 1, micro // 2 + 1) if rows % n == 0]


def test_one_row_cannot_be_halved() -> None:
    with pytest.raises(TrainingError, match=r"one row.*activation_checkpointing"):
        halve(1, 8)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried …"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_allocators_own_words_are_known() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_activations_by_hand() -> None:
    # A layer and token: 8 x 32 for attention and norms, 3 x 96 within the MLP; 6 x 32 around the layers.
    assert CONFIG.ffn_dim == 96
    assert ROW == 64 * 4 * (2 * (256 + 288) + 192)
    assert activation_bytes(CONFIG, bytes_per_number=2, checkpointing=True) == 64 * 2 * (2 * 64 + 192)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_the_estimate_is_near_what_a_backward_pass_keeps(family: str) -> None:
    from firstlight.model import GPT

    config = ModelConfig(family=family, n_layer=4, n_head=4, n_embd=64, block_size=128, vocab_size=50)
    model = GPT(config)
    ids = torch.zeros(2, 128, dtype=torch.long)
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        loss = model.loss(ids, ids).sum
    measured = sum(kept.values()) / 2
    del loss
    assert 0.5 < activation_bytes(config, bytes_per_number=4, checkpointing=False) / measured < 2


def memory_of(root: Path, meminfo: str | None, maximum: str | None = None, current: str = "0") -> Path:
    for name, text in (
        ("proc/meminfo", meminfo),
        ("sys/fs/cgroup/memory.max", maximum),
        ("sys/fs/cgroup/memory.current", current),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / name).write_text(text)
    return root


def test_free_memory_is_what_is_available(tmp_path: Path) -> None:
    table = "MemTotal:       900 kB\nMemFree:        100 kB\nMemAvailable:   700 kB\n"
    assert free_memory(memory_of(tmp_path, table)) == 700 * 1024
    assert free_memory(memory_of(tmp_path, table, "max\n", "5\n")) == 700 * 1024
    assert free_memory(memory_of(tmp_path, table, f"{500 * 1024}\n", f"{100 * 1024}\n")) == 400 * 1024
    assert free_memory(memory_of(tmp_path, table, "100\n", "300\n")) == 0


def test_free_memory_without_linux_is_something(tmp_path: Path) -> None:
    assert free_memory(tmp_path) > 1 << 20
    assert free_memory(memory_of(tmp_path, "nothing known\n")) > 1 << 20
    assert free_memory() > 1 << 20
