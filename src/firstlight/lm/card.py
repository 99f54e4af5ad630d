"""The model card: README.md with the metadata that the Hugging Face hub reads, tables, and code that runs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CARD = "README.md"
_TAG = "firstlight"
_UNKNOWN = "unknown"  # the hub's own key for a licence that is not stated
# Texts that YAML reads as they are, but for words that it takes for another type: "no" is also Norwegian.
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*")
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_KEY = re.compile(r"(\w+):(?:\s+(.*))?")
_VALUE = re.compile(r"[\w][\w./+-]*")
_MAX_READ = 1 << 16  # of a file whose metadata is read
_MAX_SAMPLE = 600  # characters


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The metrics of a task on one split, as the hub lists them.

    Attributes:
        task_type: as the hub names it, such as text-classification.
        task: its name.
        split: validation or test.
        metrics: by name.
    """

    task_type: str
    task: str
    split: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardInfo:
    """What a model card says besides the model itself.

    Attributes:
        name: of the model.
        license: a key of the hub, such as apache-2.0; ``unknown`` until somebody chooses one.
        languages: ISO 639 codes.
        base_model: on the hub, that it was trained from.
        datasets: on the hub, that it was trained on.
        pipeline_tag: of a task for which transformers has no class.
        results: of tasks.
        settings: of training, in TOML.
        prompt, sample: a text that it generated during training, and what that continues.
    """

    name: str = ""
    license: str = _UNKNOWN
    languages: Sequence[str] = ()
    base_model: str | None = None
    datasets: Sequence[str] = ()
    pipeline_tag: str | None = None
    results: Sequence[TaskResult] = field(default=())
    settings: str = ""
    prompt: str = ""
    sample: str = ""


def read_card_info(folder: Path) -> CardInfo:
    """Read the metadata of a model card that may have been edited: the default where there is none.

    The base model is read from cards of Firstlight only: another program's names that of its own model.
    """
    try:
        with (folder / CARD).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_READ).split("\n")
    except OSError:
        return CardInfo()
    if not lines or lines[0].strip() != "---":
        return CardInfo()
    table: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if (found := _KEY.fullmatch(line)) is not None:
            key = found[1]
            table[key] = _values((found[2] or "").strip("[] "))
        elif key and (item := re.fullmatch(r"\s*-\s+(.*)", line)) is not None:
            table[key] += _values(item[1])
    first = {name: next(iter(values), None) for name, values in table.items()}
    is_ours = _TAG in table.get("tags", [])
    return CardInfo(
        license=first.get("license") or _UNKNOWN,
        languages=tuple(table.get("language", ())),
        base_model=first.get("base_model") if is_ours else None,
        datasets=tuple(table.get("datasets", ())),
        pipeline_tag=first.get("pipeline_tag") if is_ours else None,
    )


def without_card(problems: Sequence[str], folder: Path) -> list[str]:
    """Return the problems of a model directory but that its card was edited, of which the manifest may have a hash."""
    cards = tuple(f"{place / CARD}:" for place in (folder, folder / "adapter"))
    return [problem for problem in problems if not problem.startswith(cards) or problem.endswith(": missing")]


def _values(text: str) -> list[str]:
    parts = [part.strip().strip("'\"") for part in text.split(",")]
    return [part for part in parts if _VALUE.fullmatch(part)]


def write_card(
    info: CardInfo, *, library: str, pipeline_tag: str | None, rows: Mapping[str, str], code: str, use: str
) -> str:
    """Return the text of README.md.

    Args:
        info: what is known about the model's making.
        library: that loads it.
        pipeline_tag: the task of the hub that it is for, if any.
        rows: of its table, by name.
        code: Python that loads and runs it in its folder.
        use: what it is for.
    """
    metadata: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": pipeline_tag,
        "license": info.license,
        "language": list(info.languages),
        "base_model": info.base_model,
        "datasets": list(info.datasets),
        "tags": [_TAG],
    }
    head = "\n".join(_yaml_lines({key: value for key, value in metadata.items() if value}))
    lines = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())
    parts = [
        f"---\n{head}\n{_model_index(info)}---\n# {_cell(info.name) or 'A GPT trained with Firstlight'}",
        *([] if not info.name else ["A GPT trained with Firstlight."]),
        f"| what | value |\n|---|---|\n{lines}",
        "Run it in this folder; on the hub, put the model's name in the place of `.`:",
        _fenced(code, "python"),
        use,
    ]
    if info.license == _UNKNOWN:
        parts.append(
            "No licence is stated: before you share the model, set `license` at the top of this file, such as "
            "`apache-2.0`, as the texts that it was trained on allow."
        )
    if info.sample:
        title = f"continuing {_code_span(info.prompt)}" if info.prompt.strip() else "without a prompt"
        text = printable(info.sample)
        cut = text if len(text) <= _MAX_SAMPLE else text[:_MAX_SAMPLE] + " …"
        parts.append(f"## Sample\n\nGenerated during training, {title}:\n\n{_fenced(cut, 'text')}")
    if info.settings:
        parts.append(f"## Settings\n\n{_fenced(info.settings.strip(), 'toml')}")
    return "\n\n".join(parts) + "\n"


def _yaml_lines(table: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in table.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_yaml_text(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_yaml_text(value)}")
    return lines


def _yaml_text(text: str) -> str:
    """Return a text as a scalar of YAML: in quotes where it may be read as another type."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return json.dumps(printable(text).replace("\n", " "), ensure_ascii=False)


def _model_index(info: CardInfo) -> str:
    """Return the entry ``model-index``, from which the hub shows results."""
    if not info.results:
        return ""
    lines = ["model-index:", f"- name: {_yaml_text(info.name or 'model')}", "  results:"]
    for result in info.results:
        lines += [
            "  - task:",
            f"      type: {_yaml_text(result.task_type)}",
            "    dataset:",
            f"      name: {_yaml_text(result.task)}",
            f"      type: {_yaml_text(result.task)}",
            f"      split: {_yaml_text(result.split)}",
            "    metrics:",
        ]
        for name, value in result.metrics.items():
            lines += [f"    - type: {_yaml_text(name)}", f"      value: {float(value)!r}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text for a cell of a table, or a heading."""
    return " ".join(printable(text).split()).replace("|", "\\|")


def _code_span(text: str) -> str:
    """Return a text as code within a line."""
    inner = " ".join(printable(text).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", inner)), default=0))
    return f"{ticks} {inner} {ticks}" if "`" in inner else f"`{inner}`"


def _fenced(text: str, language: str) -> str:
    """Return a block of code, with a fence that the text does not contain."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def printable(text: str) -> str:
    """Replace what a terminal or YAML does not take as text, such as control characters and lone surrogates."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
