"""The summary of a run: what was trained, how it ended, its key metrics and the baselines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.files.run_names import short_name
from firstlight.report import non_text, tasks
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, to_text
from firstlight.report.units import format_bytes, format_count, format_duration, format_number, format_percent, to_float
from firstlight.signals import NAMES

FAMILIES = {"openai-gpt": "gpt1", "gpt2": "gpt2", "gpt_neo": "gpt3", "llama": "llama", "qwen3": "modern"}
_ENDINGS = {
    "steps": "Training reached its limit of steps",
    "tokens": "Training reached its limit of tokens",
    "epochs": "Training reached its limit of epochs",
    "auto": "Training reached its automatic limit of steps",
    "minutes": "Training reached its time limit",
    "convergence": "Training stopped early: the validation loss no longer improved",
    "stop_after": "Training was stopped at train.stop_after; a checkpoint was saved and the run can be resumed",
    **{name: f"Training was interrupted ({name}); a checkpoint was saved and the run can be resumed" for name in NAMES},
}


_CHARACTERS = "bits_per_character"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run: a word, its tone (``good``, ``open`` or ``bad``) and a sentence without full stop."""

    word: str
    tone: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Score:
    """A row of the table of losses.

    Attributes:
        bits: per byte, token or dimension.
        bits_per_character: of text.
        bar: length in percent of the longest bar, or None without a value for every row.
        ours: the trained model, not a baseline.
    """

    name: str
    note: str
    loss: float
    perplexity: float | None
    bits: float | None
    bar: float | None = None
    ours: bool = True
    bits_per_character: float | None = None


def title(files: RunFiles) -> str:
    """Return the run's name."""
    return files.run.name or files.run.resolve().name or "run"


def last_step(files: RunFiles) -> int | None:
    """Return the latest step of the run."""
    found = [
        to_float(find(files.state, "step")),
        files.column("loss").last_step(),
        files.column("valid_loss").last_step(),
    ]
    steps = [v for v in found if v is not None and math.isfinite(v)]
    return int(max(steps)) if steps else None


def status(files: RunFiles) -> Status:
    """Return the state of the run, from state.json and the last event."""
    word, by = find(files.state, "status"), find(files.state, "stopped_by")
    last = files.events[-1] if files.events else {}
    if word == "failed" or (word != "finished" and find(last, "kind") == "failed"):
        reason = to_text(find(last, "text") if find(last, "kind") == "failed" else by, 300)
        return Status("failed", "bad", f"Training failed: {reason}".rstrip("."))
    if word in ("finished", "stopped", "interrupted"):
        ending = _ENDINGS.get(str(by), f"Training was stopped by {to_text(by, 100)}")
        return Status(word, "good" if word == "finished" else "open", ending)
    if word == "running":
        step = last_step(files)
        at = "" if step is None else f" at step {step:,}"
        return Status("running", "open", f"Training was in progress{at} when this page was written, or was killed")
    return Status("unknown", "open", "state.json is missing: it is unknown how training ended")


def parameters(files: RunFiles) -> float | None:
    """Return the number of parameters, from evaluation.json or the checkpoint's safetensors header."""
    found = to_float(find(files.evaluation, "parameters"))
    return found if found is not None else sum(files.weights.values()) or None


def sources(files: RunFiles, key: str = "sources") -> list[str]:
    """Return the names of the corpus's sources, or those of its validation text (``valid_sources``)."""
    recorded = find(files.manifest, key)
    names = [find(source, "name") for source in recorded] if isinstance(recorded, list) else []
    if key == "sources" and not any(isinstance(name, str) for name in names):
        corpus, store = find(files.settings, "run", "corpus"), find(files.settings, "run", "store")
        names = corpus if isinstance(corpus, list) and corpus else [store]
    return [to_text(short_name(name), 200) for name in names if isinstance(name, str)]


def opening(files: RunFiles) -> str:
    """Describe in one sentence what was trained, on what, and for how long."""
    family = FAMILIES.get(str(find(files.config, "model_type"))) or find(files.settings, "model", "family")
    kind = f"A GPT (family {to_text(family, 40)})" if isinstance(family, str) else "A GPT"
    n = parameters(files)
    kind += f" with {format_count(n)} parameters" if n is not None else ""
    start = find(files.settings, "run", "init_from")
    kind += f", initialised from {to_text(short_name(start), 200)}," if isinstance(start, str) and start else ","
    names = sources(files)
    on = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    text_bytes = to_float(find(files.manifest, "train_bytes"))
    if non_text.unit(files) == "byte":
        on += f" ({format_bytes(text_bytes)} of training text)" if on and text_bytes is not None else ""
    else:
        n = to_float(find(files.manifest, "train_documents"))
        what = "image" if non_text.unit(files) == "dim" else "sequence"
        on += f" ({format_count(n)} {what}{'s' * (n != 1)})" if on and n is not None else ""
    step, seconds = last_step(files), training_seconds(files)
    long = f" for {step:,} step{'' if step == 1 else 's'}" if step is not None else ""
    long += f" in {format_duration(seconds)}" if seconds is not None else ""
    device = find(files.environment, "device_name") or find(files.environment, "device")
    long += f" on {to_text(device, 80)}" if isinstance(device, str) and long else ""
    if not on and not long:
        return f"{kind.rstrip(',')}; its training data is not recorded."
    return f"{kind} trained{f' on {on}' if on else ''}{long}."


def scores(files: RunFiles) -> list[Score]:
    """Return the model's best and last evaluation, then the baselines."""
    rows = []
    best, end = best_score(files), _final(files)
    if best is not None:
        rows.append(best)
    if best is not None and end is not None and end.loss != best.loss and files.column("valid_loss").min() is not None:
        rows.append(end)
    for name, note in (
        ("position", "frequency of each value at each position"),
        ("unigram", "frequency of each token"),
        ("uniform", "a uniform guess: all tokens equally likely"),
    ):
        table = find(files.evaluation, "baselines", name)
        loss = to_float(find(table, "loss"))
        if loss is not None:
            ppl, bits = to_float(find(table, "perplexity")), to_float(find(table, non_text.key(files)))
            rows.append(Score(name, note, loss, ppl if ppl is not None else _exp(loss), bits, ours=False))
    return _with_bars(rows)


def measured_on(files: RunFiles) -> str:
    """Say on how much of the validation split the model was evaluated; empty if on all of it, as the baselines are."""
    n, n_all = to_float(find(files.evaluation, "valid", "n_tokens")), to_float(find(files.manifest, "valid_tokens"))
    windows = find(files.settings, "train", "eval_windows")
    if n is None or n_all is None or not isinstance(windows, int) or n > 0.99 * n_all:
        return ""
    return (
        f"The model is evaluated on {n:,.0f} of the {n_all:,.0f} tokens, in {windows:,} windows at equal distances "
        "(train.eval_windows); the baselines on all of them, and so is the model by the command evaluate."
    )


def best_score(files: RunFiles) -> Score | None:
    """Return the validation loss of the best checkpoint, or the one in evaluation.json.

    It is the lowest one, but for tasks with labels: their best checkpoint is that of the highest metric.
    """
    step = _step_of_highest_metric(files)
    loss = None if step is None else files.column("valid_loss").at(step)
    if step is not None and loss is not None:
        return _at(files, step, loss, f"best checkpoint, of step {step:,}")
    lowest = files.column("valid_loss").min()
    return _final(files) if lowest is None else _at(files, *lowest, f"best, at step {lowest[0]:,}")


def _step_of_highest_metric(files: RunFiles) -> int | None:
    """Return the step of the best checkpoint where a task's metric decides which it is."""
    step = (files.checkpoint or "").rpartition("-")[2]
    return int(step) if tasks.unit_of_count(files) == "row" and step.isdigit() else None


def remarks(files: RunFiles, rows: list[Score]) -> list[str]:
    """Return warnings: no better than a baseline, overfitting, non-finite losses."""
    found = []
    ours = next((row for row in rows if row.ours), None)
    unigram = next((row for row in rows if row.name == "unigram"), None)
    if ours and unigram and ours.loss >= unigram.loss:
        found.append("The model is not better than the unigram baseline, which only knows token frequencies.")
    position = next((row for row in rows if row.name == "position"), None)
    if ours and position and ours.loss >= position.loss:
        found.append("The model is not better than the position baseline, which treats pixels as independent.")
    found += [*tasks.warnings(files), *_unknown_text(files)]
    valid = files.column("valid_loss")
    last, lowest, step = valid.last(), valid.min(), _step_of_highest_metric(files)
    if last is not None and lowest is not None and last > lowest[1] + max(0.01 * abs(lowest[1]), 1e-9):
        found.append(
            f"The validation loss increased after step {lowest[0]:,}, to {format_number(last)} at the end: the model "
            f"overfits. Commands that take this run use the best checkpoint"
            f"{f', of step {step:,}, which has the best metric' if step else ''}."
        )
    bad = sum(c.n_not_finite() for c in (files.column("loss"), valid))
    if bad:
        found.append(f"{bad:,} loss{' was' if bad == 1 else 'es were'} not finite; the curves mark the steps.")
    return found


def _unknown_text(files: RunFiles) -> list[str]:
    """Return a warning where more than 1 % of the tokens of a split are unknown."""
    fractions = {
        name: to_float(find(files.manifest, f"{side}_unk_fraction")) or 0.0
        for side, name in (("train", "training"), ("valid", "validation"))
    }
    many = [
        f"{format_percent(fraction)} of the {name} tokens" for name, fraction in fractions.items() if fraction > 0.01
    ]
    if not many:
        return []
    return [
        f"{' and '.join(many)} are unknown (<unk>): loss and perplexity say nothing about the text that they stand "
        "for; compare bits per byte."
    ]


def key_metrics(files: RunFiles) -> list[Fact]:
    """Return the key metrics; those that are not recorded are left out."""
    best = best_score(files)
    of = tasks.unit_of_count(files)
    facts = tasks.key_metrics(files)
    if best is not None:
        facts.append(Fact("validation loss", format_number(best.loss), f"{tasks.loss_unit(files)}, {best.note}"))
        if best.perplexity is not None:
            uniform = to_float(find(files.evaluation, "baselines", "uniform", "perplexity"))
            if uniform is None and non_text.unit(files) != "dim":
                uniform = to_float(find(files.manifest, "vocab_size"))
            note = f"uniform guess: {uniform:,.0f}" if uniform else ""
            facts.append(Fact("perplexity", format_number(best.perplexity, 2), note))
        if best.bits is not None:
            unit = non_text.unit(files)
            note = {"byte": "comparable across tokenizers", "dim": "one dimension is one pixel"}.get(unit, "")
            facts.append(Fact(f"bits per {non_text.UNITS[unit]}", format_number(best.bits, 3), note))
        if best.bits_per_character is not None:
            facts.append(Fact("bits per character", format_number(best.bits_per_character, 3)))
    if (n := parameters(files)) is not None:
        facts.append(Fact("parameters", format_count(n)))
    if (tokens := training_tokens(files)) is not None:
        name = "rows seen" if of == "row" else f"training {of}s"
        facts.append(Fact(name, format_count(tokens), _passes(files, tokens)))
    if (seconds := training_seconds(files)) is not None:
        step = last_step(files)
        facts.append(Fact("training time", format_duration(seconds), f"{step:,} steps" if step is not None else ""))
    if (rate := files.column(f"{of}s_per_second").median()) is not None:
        mfu = files.column("mfu").median()
        note = "median" if mfu is None else f"median; MFU {format_percent(mfu)}"
        facts.append(Fact(f"{of}s per second", format_count(rate), note))
    if (memory := files.column("memory_bytes").max()) is not None:
        facts.append(Fact("peak memory", format_bytes(memory)))
    return facts


def _passes(files: RunFiles, seen: float) -> str:
    """Return how often the training text, or the training rows, were passed over; empty if that is unknown."""
    if tasks.unit_of_count(files) == "token":
        total, what = to_float(find(files.manifest, "train_tokens")), "text"
    else:
        tables = find(files.evaluation, "rows")
        counts = [to_float(find(t, "train")) or 0.0 for t in tables.values()] if isinstance(tables, Mapping) else []
        total, what = sum(counts), "rows"
    return f"{format_number(seen / total, 2)} passes over the {what} (epochs)" if total else ""


def _final(files: RunFiles) -> Score | None:
    """Return the latest validation loss; an interrupted run may have been trained further."""
    valid = files.column("valid_loss")
    step, loss = valid.last_step(), valid.last()
    if step is not None and loss is not None:
        return _at(files, step, loss, f"last, at step {step:,.10g}")
    table = find(files.evaluation, "valid")
    loss = to_float(find(table, "loss"))
    if loss is None:
        return None
    perplexity, bits = to_float(find(table, "perplexity")), to_float(find(table, non_text.key(files)))
    characters = to_float(find(table, _CHARACTERS))
    perplexity = _perplexity(files, perplexity, loss)
    return Score("this model", "last evaluation", loss, perplexity, bits, bits_per_character=characters)


def _perplexity(files: RunFiles, found: float | None, loss: float) -> float | None:
    """Return the perplexity of a loss on tokens; a classification loss has none."""
    if tasks.unit_of_count(files) == "row":
        return None
    return _exp(loss) if found is None else found


def _at(files: RunFiles, step: float, loss: float, note: str) -> Score:
    bits = files.column(non_text.key(files)).at(step)
    perplexity = _perplexity(files, files.column("perplexity").at(step), loss)
    characters = files.column(_CHARACTERS).at(step)
    return Score("this model", note, loss, perplexity, bits, bits_per_character=characters)


def _with_bars(rows: list[Score]) -> list[Score]:
    """Set the lengths of the bars: by bits if every row has them, else by loss."""
    bits = [row.bits for row in rows]
    lengths = [b for b in bits if b is not None] if None not in bits else [row.loss for row in rows]
    longest = max(lengths, default=0.0)
    if not rows or not all(math.isfinite(v) and v >= 0 for v in lengths) or longest <= 0:
        return rows
    return [
        Score(r.name, r.note, r.loss, r.perplexity, r.bits, round(100 * length / longest, 2), r.ours)
        for r, length in zip(rows, lengths, strict=True)
    ]


def training_seconds(files: RunFiles) -> float | None:
    """Return the training time over all resumes."""
    state, column = to_float(find(files.state, "seconds")), files.column("seconds").max()
    found = [v for v in (state, column) if v is not None and math.isfinite(v)]
    return max(found) if found else None


def training_tokens(files: RunFiles) -> float | None:
    """Return the number of tokens, or rows of tasks, trained on."""
    found = to_float(find(files.state, "result", "tokens"))
    if found is None:  # runs of earlier versions logged the rows of tasks as tokens
        found = next((n for name in ("rows", "tokens") if (n := files.column(name).max()) is not None), None)
    return found


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
