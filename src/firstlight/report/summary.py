"""What a run came to, in words and key figures: what was trained, how it ended, how good it is beside baselines."""

import math
from dataclasses import dataclass

from firstlight.report import non_text, tasks
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, words
from firstlight.report.units import count, duration, figure, number, percent, size

FAMILIES = {"openai-gpt": "gpt1", "gpt2": "gpt2", "gpt_neo": "gpt3", "llama": "llama", "qwen3": "modern"}
_ENDINGS = {
    "steps": "It ended after the steps that were set",
    "tokens": "It ended after the tokens that were set",
    "epochs": "It ended after the passes over the data that were set",
    "auto": "It ended where it was planned to",
    "minutes": "It ended at its time limit",
    "convergence": "It ended because the valid loss gained no more",
    "stop_after": "It was stopped as asked, was saved, and can go on",
    "SIGINT": "It was interrupted (SIGINT), was saved, and can go on",
    "SIGTERM": "It was interrupted (SIGTERM), was saved, and can go on",
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a run stands: one word, ``good``, ``open`` or ``bad``, and a sentence without its full stop."""

    word: str
    tone: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Score:
    """A row of the comparison.

    Attributes:
        bits: per byte, token or dimension.
        bar: its length in percent of the longest, or None without a figure for all.
    """

    name: str
    note: str
    loss: float
    perplexity: float | None
    bits: float | None
    bar: float | None = None
    ours: bool = True


def title(files: RunFiles) -> str:
    """Return the run's name."""
    return files.run.name or files.run.resolve().name or "run"


def last_step(files: RunFiles) -> int | None:
    """Return the step that the run has reached."""
    found = [
        number(find(files.state, "step")),
        files.column("loss").last_step(),
        files.column("valid_loss").last_step(),
    ]
    steps = [v for v in found if v is not None and math.isfinite(v)]
    return int(max(steps)) if steps else None


def status(files: RunFiles) -> Status:
    """Return how the run stands, from state.json and the last event."""
    word, by = find(files.state, "status"), find(files.state, "stopped_by")
    last = files.events[-1] if files.events else {}
    if word == "failed" or (word != "finished" and find(last, "kind") == "failed"):
        reason = words(find(last, "text") if find(last, "kind") == "failed" else by, 300)
        return Status("failed", "bad", f"It failed: {reason}")
    if word in ("finished", "stopped"):
        ending = _ENDINGS.get(str(by), f"It was ended by {words(by, 100)}")
        return Status(word, "good" if word == "finished" else "open", ending)
    if word == "running":
        return Status("running", "open", "It was running when this page was written, or was cut off without a word")
    return Status("unknown", "open", "No file says how it ended")


def parameters(files: RunFiles) -> float | None:
    """Return how many parameters the model has, from evaluation.json or the checkpoint's header."""
    found = number(find(files.evaluation, "parameters"))
    return found if found is not None else files.weights


def sources(files: RunFiles) -> list[str]:
    """Name what the run was trained on."""
    made = find(files.manifest, "sources")
    names = [find(source, "name") for source in made] if isinstance(made, list) else []
    if not any(isinstance(name, str) for name in names):
        corpus, store = find(files.settings, "run", "corpus"), find(files.settings, "run", "store")
        names = corpus if isinstance(corpus, list) and corpus else [store]
    return [words(name, 200) for name in names if isinstance(name, str)]


def opening(files: RunFiles) -> str:
    """Say what was trained on what, for how long."""
    family = FAMILIES.get(str(find(files.config, "model_type"))) or find(files.settings, "model", "family")
    kind = f"A GPT of the family {words(family, 40)}" if isinstance(family, str) else "A GPT"
    n = parameters(files)
    kind += f" with {count(n)} parameters" if n is not None else ""
    start = find(files.settings, "run", "init_from")
    kind += f", starting from {words(start, 200)}," if isinstance(start, str) and start else ","
    names = sources(files)
    on = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    text_bytes = number(find(files.manifest, "train_bytes"))
    if non_text.unit(files) == "byte":
        on += f" ({size(text_bytes)} of training text)" if on and text_bytes is not None else ""
    else:
        n = number(find(files.manifest, "train_documents"))
        what = "image" if non_text.unit(files) == "dim" else "sequence"
        on += f" ({count(n)} {what}{'s' * (n != 1)})" if on and n is not None else ""
    step, seconds = last_step(files), _seconds(files)
    long = f" for {step:,} step{'' if step == 1 else 's'}" if step is not None else ""
    long += f" in {duration(seconds)}" if seconds is not None else ""
    device = find(files.environment, "device_name") or find(files.environment, "device")
    long += f" on {words(device, 80)}" if isinstance(device, str) and long else ""
    if not on and not long:
        return f"{kind.rstrip(',')}; what it was trained on is not recorded."
    return f"{kind} trained{f' on {on}' if on else ''}{long}."


def scores(files: RunFiles) -> list[Score]:
    """Return the model at its best and at its end, then the baselines."""
    rows = []
    best, end = best_score(files), _final(files)
    if best is not None:
        rows.append(best)
    if (
        best is not None
        and end is not None
        and end.loss != best.loss
        and files.column("valid_loss").least() is not None
    ):
        rows.append(end)
    for name, note in (
        ("position", "knows only how frequent each value is at each place"),
        ("unigram", "knows only how frequent each token is"),
        ("uniform", "knows nothing: all tokens alike"),
    ):
        table = find(files.evaluation, "baselines", name)
        loss = number(find(table, "loss"))
        if loss is not None:
            ppl, bits = number(find(table, "perplexity")), number(find(table, non_text.key(files)))
            rows.append(Score(name, note, loss, ppl if ppl is not None else _exp(loss), bits, ours=False))
    return _with_bars(rows)


def best_score(files: RunFiles) -> Score | None:
    """Return the lowest valid loss of the run, or the only one that evaluation.json knows."""
    least = files.column("valid_loss").least()
    return _final(files) if least is None else _at(files, *least, f"best, at step {least[0]:,}")


def remarks(files: RunFiles, rows: list[Score]) -> list[str]:
    """Return what a colleague should not overlook in the figures."""
    found = []
    ours = next((row for row in rows if row.ours), None)
    unigram = next((row for row in rows if row.name == "unigram"), None)
    if ours and unigram and ours.loss >= unigram.loss:
        found.append(
            "This is no better than counting tokens: the model has learnt nothing that a unigram does not know."
        )
    position = next((row for row in rows if row.name == "position"), None)
    if ours and position and ours.loss >= position.loss:
        found.append("This is no better than pixels that know nothing of each other, only their own place.")
    valid = files.column("valid_loss")
    last, least = valid.last(), valid.least()
    if last is not None and least is not None and last > least[1] + max(0.01 * abs(least[1]), 1e-9):
        found.append(
            f"The valid loss rose again after step {least[0]:,}, to {figure(last)} at the end, while training went on: "
            "the model began to learn its text by heart. Commands that take this run use the best checkpoint."
        )
    bad = sum(int(len(c) - c.n_finite()) for c in (files.column("loss"), valid))
    if bad:
        found.append(f"{bad:,} loss{' was' if bad == 1 else 'es were'} not finite; the curves show where.")
    return found


def key_figures(files: RunFiles) -> list[Fact]:
    """Return the figures that stand in large type; those that no file holds are left out."""
    best = best_score(files)
    of = tasks.counts(files)
    facts = tasks.key_figures(files)
    if best is not None:
        facts.append(Fact("valid loss", figure(best.loss), f"{tasks.unit(files)}, {best.note}"))
        if best.perplexity is not None:
            vocabulary = number(find(files.manifest, "vocab_size"))
            facts.append(
                Fact("perplexity", figure(best.perplexity, 2), f"chance: {vocabulary:,.0f}" if vocabulary else "")
            )
        if best.bits is not None:
            unit = non_text.unit(files)
            note = {"byte": "comparable across tokenizers", "dim": "a dimension is a pixel"}.get(unit, "")
            facts.append(Fact(f"bits per {non_text.UNITS[unit]}", figure(best.bits, 3), note))
    if (n := parameters(files)) is not None:
        facts.append(Fact("parameters", count(n)))
    if (tokens := _tokens(files)) is not None:
        text = number(find(files.manifest, "train_tokens"))
        passes = f"{figure(tokens / text, 2)} passes over the text" if text else ""
        facts.append(Fact(f"{of}s seen", count(tokens), passes))
    if (seconds := _seconds(files)) is not None:
        step = last_step(files)
        facts.append(Fact("time", duration(seconds), f"{step:,} steps" if step is not None else ""))
    if (rate := files.column(f"{of}s_per_second").median()) is not None:
        mfu = files.column("mfu").median()
        facts.append(
            Fact(f"{of}s a second", count(rate), f"median; MFU {percent(mfu)}" if mfu is not None else "median")
        )
    if (memory := files.column("memory_bytes").most()) is not None:
        facts.append(Fact("memory", size(memory), "at most"))
    return facts


def _final(files: RunFiles) -> Score | None:
    """Return the newest valid loss that was measured; a run that was cut off has trained on since."""
    valid = files.column("valid_loss")
    step, loss = valid.last_step(), valid.last()
    if step is not None and loss is not None:
        return _at(files, step, loss, f"last, at step {step:,.10g}")
    table = find(files.evaluation, "valid")
    loss = number(find(table, "loss"))
    if loss is None:
        return None
    perplexity, bits = number(find(table, "perplexity")), number(find(table, non_text.key(files)))
    return Score("this model", "as last measured", loss, _perplexity(files, perplexity, loss), bits)


def _perplexity(files: RunFiles, found: float | None, loss: float) -> float | None:
    """Return the exponential of a loss on tokens; a head's loss has none."""
    if tasks.counts(files) == "row":
        return None
    return _exp(loss) if found is None else found


def _at(files: RunFiles, step: float, loss: float, note: str) -> Score:
    bits = files.column(non_text.key(files)).at(step)
    return Score("this model", note, loss, _perplexity(files, files.column("perplexity").at(step), loss), bits)


def _with_bars(rows: list[Score]) -> list[Score]:
    bits = [row.bits for row in rows]
    lengths = [b for b in bits if b is not None] if None not in bits else [row.loss for row in rows]
    longest = max(lengths, default=0.0)
    if not rows or not all(math.isfinite(v) and v >= 0 for v in lengths) or longest <= 0:
        return rows
    return [
        Score(r.name, r.note, r.loss, r.perplexity, r.bits, round(100 * length / longest, 2), r.ours)
        for r, length in zip(rows, lengths, strict=True)
    ]


def _seconds(files: RunFiles) -> float | None:
    state, column = number(find(files.state, "seconds")), files.column("seconds").most()
    found = [v for v in (state, column) if v is not None and math.isfinite(v)]
    return max(found) if found else None


def _tokens(files: RunFiles) -> float | None:
    found = number(find(files.state, "result", "tokens"))
    return found if found is not None else files.column("tokens").most()


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
