"""What journeys look at in a run directory."""

from pathlib import Path


def last_checkpoint(run_directory: Path) -> Path:
    """Return what ``latest`` names."""
    return run_directory / "checkpoints" / (run_directory / "latest").read_text(encoding="utf-8").strip()


def same_bytes(one: Path, two: Path) -> list[str]:
    """Name the files of two runs' last checkpoints that differ."""
    a, b = last_checkpoint(one), last_checkpoint(two)
    names = ["model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"]
    return [n for n in names if (a / n).read_bytes() != (b / n).read_bytes()] + (
        [] if a.name == b.name else [f"{a.name} {b.name}"]
    )
