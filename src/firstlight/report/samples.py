"""Texts that a run generated while it trained."""

import json
from dataclasses import dataclass

from firstlight.report import non_text
from firstlight.report.run_files import RunFiles, Table, find
from firstlight.report.text import printable, thin
from firstlight.report.units import format_number, to_float

_MAX_SAMPLES = 9
_MAX_CHARACTERS_LAST, _MAX_CHARACTERS = 6000, 2000


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated sample.

    Attributes:
        how: prompt and temperature, for people.
        left_out: number of characters that are not shown.
    """

    step: str
    how: str
    prompt: str
    text: str
    left_out: int


def samples(files: RunFiles) -> list[Sample]:
    """Return samples spread over the run, the latest last and at greater length."""
    if non_text.unit(files) == "dim":  # shown as images
        return []
    chosen = thin(files.samples, _MAX_SAMPLES)
    return [
        _sample(files, table, _MAX_CHARACTERS_LAST if i == len(chosen) - 1 else _MAX_CHARACTERS)
        for i, table in enumerate(chosen)
    ]


def _sample(files: RunFiles, table: Table, max_length: int) -> Sample:
    step = to_float(table.get("step"))
    prompt, text = (_text(table.get(name)) for name in ("prompt", "text"))
    return Sample(
        "?" if step is None else f"{step:,.10g}",
        f"{'prompt highlighted' if prompt else 'no prompt: begins a new text'}, {_temperature(files, table)}",
        printable(prompt[:max_length]),
        printable(text[:max_length]),
        max(0, len(prompt) - max_length) + max(0, len(text) - max_length),
    )


def _temperature(files: RunFiles, table: Table) -> str:
    """Return the temperature of a sample; a run of an earlier version has it in its settings only."""
    value = to_float(table.get("temperature"))
    value = to_float(find(files.settings, "train", "sample_temperature")) if value is None else value
    if value is None:
        return "temperature not recorded"
    return f"temperature {format_number(value, 2)}" if value else "temperature 0: always the most likely token"


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
