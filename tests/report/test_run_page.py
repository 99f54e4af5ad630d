"""The HTML report: complete, self-contained, escaped, and rendered whatever the files of the run contain."""

import base64
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstlight.errors import StorageError
from firstlight.report import write_run_report
from firstlight.report.recipes import prompt
from firstlight.report.run_files import RunFiles
from firstlight.stages.list_runs import summarize_run

VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}\x00\u202e\ud800"
EVENT_HANDLER = re.compile(r"^on")


class Page(HTMLParser):
    """Parses a page, checks that elements are closed in order, and keeps its content."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "style":
            self.styles.append(data)
        else:
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(run: Path) -> tuple[str, Page]:
    path = write_run_report(run)
    assert path == run / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    # No content of a run's files may add code or a request to the page.
    for tag, attrs in page.tags:
        assert tag not in {"img", "iframe", "object", "embed", "link", "base", "form", "image", "use"}
        assert not any(EVENT_HANDLER.match(name) or name in ("style", "src", "action") for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert sum(not attrs for attrs in page.attributes("script")) == 1
    return html, page


def edit(path: Path, change: Callable[[dict], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table))


def test_a_part_of_the_validation_split_is_said_next_to_the_baselines(run: Path):
    said = "evaluated on 102,400 of the 460,800 tokens, in 200 windows"
    (run / "run.toml").write_text((run / "run.toml").read_text().replace("[train]\n", "[train]\neval_windows = 200\n"))
    assert "eval_windows = 200" in (run / "run.toml").read_text()
    assert "evaluated on" not in page_of(run)[1].text  # of all tokens, as the file says
    edit(run / "evaluation.json", lambda table: table["valid"].update(n_tokens=102_400))
    assert said in " ".join(page_of(run)[1].text.split())


def test_summary_names_model_data_time_metrics_and_baselines(run: Path):
    _, page = page_of(run)
    text = " ".join(page.text.split()).replace("\u00a0", " ")
    for expected in (
        "demo finished",
        "A GPT (family modern) with 6.9 M parameters, trained on python-docs, zh-novels/红楼梦.txt "
        "(14.5 MB of training text) for 2,000 steps in 10 min 41 s on AMD EPYC 9554.",
        "Best validation loss: 2.5023, perplexity 12.2, 1.326 bits per byte (unigram baseline: 6.41, 2.640 bits, "
        "uniform baseline: 8.32, 3.430 bits).",
        "Training reached its limit of steps.",
        "2 losses were not finite",
        "best, at step 1,700",
        "last, at step 2,000",
        "3.94 epochs",
    ):
        assert expected in text


def test_documents_that_were_skipped_are_counted_and_named(run: Path):
    dropped = {"dropped": {"unreadable": 2, "empty": 5}, "bad_documents": ["a\u202e.txt: is not UTF-8"]}
    edit(run / "data/manifest.json", lambda t: t["sources"][0].update(dropped))
    text = " ".join(page_of(run)[1].text.split())
    assert r"5 empty, 2 unreadable (1.1\xa0% of all) a\u202e.txt: is not UTF-8".replace("\\xa0", " ") in text


def test_page_has_every_section(run: Path):
    html, page = page_of(run)
    text = page.text.replace("\u00a0", " ")
    for heading in (
        "Loss",
        "Loss, zoomed in",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Model FLOPs utilisation (MFU)",
    ):
        assert f'<span class="name">{heading}</span>' in html
    for expected in (
        "going on from step-00000620",
        "train.steps changed from 1000 to 2000",
        "zh-novels/红楼梦.txt:88",  # events
        "def fibonacci(n):\n    if n < 2:",
        "话说宝玉听了",  # samples
        "4.2 M",
        "14.5 MB",
        "byte-level BPE",
        "4,096",  # data
        "Qwen3ForCausalLM",
        "6,885,120",  # model
        '[optim.schedule]\nname = "wsd"',  # settings, unparsed
        "2.13.0+cpu",
        "auto: cpu is exact in fp32",  # environment
        "a" * 64,
        "b" * 64,
        "c" * 64,
        "d" * 64,  # compatibility hashes
        "firstlight pretrain",
        "--resume train.steps=4000",
        "firstlight verify-resume",
        "firstlight evaluate",
        "AutoModelForCausalLM.from_pretrained(folder)",
        "folder = 'checkpoints/step-00001700'",
    ):
        assert expected in text
    assert "Missing files" not in text
    assert "Damaged files" not in text
    flags = re.findall(r'class="flag( bad)?" x="[\d.]+%"[^>]*>([^<]+)<', html)
    assert flags == [("", "1–2"), (" bad", "3"), (" bad", "4")]


def test_content_security_policy_allows_only_our_script_and_style(run: Path):
    _, page = page_of(run)
    policy = next(a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    code = [s for s in page.scripts if "use strict" in s]
    assert len(code) == 1
    for name, source in (("script-src", code[0]), ("style-src", "".join(page.styles))):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_page_has_no_external_urls(run: Path):
    html, _ = page_of(run)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttpRequest|import\(", html)


def test_content_of_files_is_escaped(run: Path):
    run = run.rename(run.with_name("<b>nasty & co"))
    lines = [{"step": 5, "prompt": NASTY, "text": NASTY}, {"step": NASTY, "prompt": [NASTY], "text": {"a": NASTY}}]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "events.jsonl").write_text(json.dumps({"time": NASTY, "step": 500, "kind": NASTY, "text": NASTY}) + "\n")
    edit(run / "data/manifest.json", lambda t: t["sources"][0].update(name=NASTY))
    edit(run / "environment.json", lambda t: t.update({NASTY: NASTY, "device_name": NASTY}))
    edit(run / "contract.json", lambda t: t.update({NASTY: NASTY}))
    edit(run / "state.json", lambda t: t.update(status="stopped", stopped_by=NASTY))
    toml = (run / "run.toml").read_text() + "\n# " + NASTY.replace("\x00", "").replace("\ud800", "") + "\n"
    (run / "run.toml").write_text(toml)
    html, page = page_of(run)
    assert not {"img", "b>nasty"} & {tag for tag, _ in page.tags}
    assert "<b>nasty" not in html
    assert "\x00" not in html
    assert page.text.count("alert(1)") >= 8
    assert "{{ 7 * 7 }}" in page.text
    assert "␀" in page.text
    assert "\u202e" not in html
    assert r"\u202e" in page.text


def test_paths_in_commands_are_quoted(tmp_path: Path, make_run: Callable[..., Path]):
    run = make_run(tmp_path / "it's; rm $HOME")
    _, page = page_of(run)
    assert """firstlight pretrain run.toml --out '../it'"'"'s; rm $HOME-again'\n""" in page.text
    assert str(tmp_path) not in page.text.partition("How to reproduce")[2]
    folder = re.search(r"folder = (.*)\n", page.text)
    assert folder is not None
    assert folder[1] == "'checkpoints/step-00001700'"


def test_sample_keeps_leading_line_breaks_and_tabs(tmp_path: Path, make_run: Callable[..., Path]):
    html, _ = page_of(make_run(tmp_path / "x", samples=["\n\n\tindented"]))
    assert (
        '<pre class="text" dir="auto" tabindex="0">\n\n\n\tindented</pre>' in html
    )  # HTML parsers drop the first line break


def test_long_and_many_samples_are_truncated(tmp_path: Path, make_run: Callable[..., Path]):
    html, page = page_of(make_run(tmp_path / "x", samples=[f"{i}" + "长" * 100_000 for i in range(300)]))
    assert "9 of 300 samples" in page.text
    assert "94,003 more characters" in page.text
    assert len(html.encode()) < 300_000
    assert re.findall(r"<h4>Step ([\d,]+) ", html)[0] == "6"
    assert "Sample at step 2,000" in page.text


def test_many_events_are_counted_by_kind(run: Path):
    line = json.dumps({"time": "2026-01-01T00:00:00", "step": 7, "kind": "not-finite", "text": "left out"}) + "\n"
    (run / "events.jsonl").write_text(line * 1000)
    html, page = page_of(run)
    assert "1,000 events (1,000 not-finite)" in page.text
    assert page.text.count("at step 7 ") == 200
    assert "1000" in re.findall(r'<span class="flag">(\d+)</span>', html)


@pytest.mark.parametrize(
    "name",
    [
        "run.toml",
        "metrics.jsonl",
        "samples.jsonl",
        "evaluation.json",
        "data/manifest.json",
        "tokenizer/tokenizer.json",
        "environment.json",
        "contract.json",
        "state.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage", "empty table"])
def test_missing_and_damaged_files_are_listed(run: Path, name: str, damage: str):
    if damage == "missing":
        (run / name).unlink()
    else:
        (run / name).write_text("{garbage" if damage == "garbage" else "{}")
    _, page = page_of(run)
    if damage == "empty table" and name != "run.toml":
        return
    text = " ".join(page.text.split())
    label = "Missing files: " if damage == "missing" else "Damaged files, left out here: "
    assert f"{label}{name}" in text


def test_empty_and_absent_runs_have_a_page(tmp_path: Path):
    for run in (tmp_path, tmp_path / "absent"):
        _, page = page_of(run)
        for name in ("run.toml", "metrics.jsonl", "samples.jsonl", "checkpoints"):
            assert name in page.text
        assert "No validation loss was logged" in page.text


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)


def shapes(draw: Callable[[st.SearchStrategy], object], value: object) -> object:
    """Replace values of a table by arbitrary ones; keys are kept."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        return {k: shapes(draw, v) for k, v in value.items()}
    return [shapes(draw, v) for v in value[:3]] if isinstance(value, list) else value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_no_content_makes_it_fail(whole_run: Path, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(whole_run, run)
        names = [
            "data/manifest.json",
            "tokenizer/tokenizer.json",
            "environment.json",
            "contract.json",
            "evaluation.json",
            "state.json",
        ]
        names += [f"checkpoints/{step}/config.json" for step in ("step-00001700", "step-00002000")]
        for name in names:
            table = json.loads((run / name).read_text(encoding="utf-8"))
            (run / name).write_text(json.dumps(shapes(data.draw, table)))
        for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
            lines = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
            (run / name).write_text("".join(json.dumps(shapes(data.draw, line)) + "\n" for line in lines[:8]))
        page_of(run)


@pytest.mark.parametrize(
    ("state", "event", "word", "sentence"),
    [
        ({"status": "finished", "stopped_by": "convergence"}, None, "finished", "validation loss no longer improved"),
        ({"status": "finished", "stopped_by": "minutes"}, None, "finished", "time limit"),
        (
            {"status": "interrupted", "stopped_by": "SIGTERM"},
            None,
            "interrupted",
            "interrupted (SIGTERM); a checkpoint was saved and the run can be resumed",
        ),
        ({"status": "running", "step": 3}, None, "running", "in progress at step 2,000 when this page was written"),
        ({"status": "running", "step": 3}, "failed", "failed", "Training failed: spike: loss 99"),
        ({}, None, "unknown", "it is unknown how training ended"),
    ],
)
def test_state_of_the_run(run: Path, state: dict, event: str | None, word: str, sentence: str):
    (run / "state.json").write_text(json.dumps(state))
    if event is not None:
        with (run / "events.jsonl").open("a") as file:
            file.write(json.dumps({"step": 2000, "kind": event, "text": "spike: loss 99"}) + "\n")
    html, page = page_of(run)
    assert re.search(rf'class="status \w+">{word}<', html)
    assert sentence in page.text


def test_warning_if_not_better_than_a_baseline(run: Path):
    edit(run / "evaluation.json", lambda t: t["baselines"]["unigram"].update(loss=2.4))
    _, page = page_of(run)
    assert "not better than the unigram baseline" in page.text


def test_warning_about_overfitting(tmp_path: Path, make_run: Callable[..., Path]):
    lines = [{"step": s, "valid_loss": v} for s, v in ((100, 3.0), (200, 2.5), (300, 2.8))]
    _, page = page_of(make_run(tmp_path / "x", lines=lines))
    assert "increased after step 200, to 2.8000 at the end" in page.text
    steady = [{"step": s, "valid_loss": v} for s, v in ((100, 3.0), (200, 2.5), (300, 2.501))]
    _, page = page_of(make_run(tmp_path / "y", lines=steady))
    assert "overfits" not in page.text


def test_mismatch_with_the_token_store_is_reported(run: Path):
    _, page = page_of(run)
    assert page.text.count("matches the token store") == 2
    edit(run / "data/manifest.json", lambda t: t.update(tokenizer="e" * 64))
    _, page = page_of(run)
    assert page.text.count("Does not match the token store") == 1


@pytest.mark.parametrize(
    ("sample", "prompt", "expected"),
    [
        ("  12 Hello there", "", "'Hello '"),
        ("话说宝玉听了", "", "'话说宝玉'"),
        ("...", "", "'The '"),
        ("x", "Ask: ", "'Ask: '"),
    ],
)
def test_example_prompt_is_in_the_language_of_the_run(
    tmp_path: Path, make_run: Callable[..., Path], sample: str, prompt: str, expected: str
):
    run = make_run(tmp_path / "x", samples=[sample])
    toml = (run / "run.toml").read_text().replace('sample_prompt = ""', f'sample_prompt = "{prompt}"')
    (run / "run.toml").write_text(toml)
    _, page = page_of(run)
    assert f"firstlight generate . {expected}\n" in page.text


@pytest.mark.parametrize(
    ("worst", "expected"),
    [([{"text": "一面劝了五七杯酒。"}], "一面劝了"), ([], "The "), ("?", "The "), ([{"text": 1}], "The ")],
)
def test_example_prompt_of_a_run_of_tasks_is_in_the_language_of_their_rows(worst: object, expected: str):
    assert prompt(RunFiles(Path(), evaluation={"tasks": {"a": {"worst": worst}}})) == expected


@pytest.mark.parametrize(
    ("model", "before", "kind"),
    [
        ({"type": "BPE", "vocab": {}, "merges": []}, {"type": "ByteLevel"}, "bytes"),
        ({"type": "WordLevel", "vocab": {"a": 0, "<|endoftext|>": 1}}, None, "characters"),
        ({"type": "WordLevel", "vocab": {"word": 0, "<|endoftext|>": 1}}, None, "words"),
        ({"type": "Unigram", "vocab": []}, None, "Unigram"),
    ],
)
def test_kind_of_tokenizer(run: Path, model: dict, before: dict | None, kind: str):
    edit(run / "tokenizer/tokenizer.json", lambda t: t.update(model=model, pre_tokenizer=before))
    html, _ = page_of(run)
    assert f"<dt>tokenizer</dt><dd>{kind}</dd>" in html


def test_report_is_written_atomically(run: Path, monkeypatch: pytest.MonkeyPatch):
    first = write_run_report(run).read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError):
        write_run_report(run)
    assert (run / "report.html").read_bytes() == first
    assert [p.name for p in run.iterdir() if p.name.startswith(".firstlight-")] == []


def test_long_run_has_a_small_page(run: Path):
    line = '{"step": %d, "tokens": %d, "seconds": 1.5, "loss": %.4f, "lr": 0.01, "grad_norm": 0.5, "mfu": 0.4}\n'
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(line % (i, 8192 * i, 2 + (i * 7919 % 1000) / 1000) for i in range(1, 200_001))
    started = time.process_time()
    html, _ = page_of(run)
    assert time.process_time() - started < 8
    assert len(html.encode()) < 500_000


def test_the_loss_of_a_task_is_that_of_the_checkpoint_with_the_highest_metric(
    tmp_path: Path, make_run: Callable[..., Path]
):
    lines = [{"step": s, "valid_loss": v, "mood/accuracy": a} for s, v, a in ((100, 0.5, 0.6), (200, 0.6, 0.9))]
    folder = make_run(tmp_path / "x", lines=lines)
    (folder / "tasks.json").write_text(json.dumps([{"name": "mood", "kind": "classification"}]))
    best = next((folder / "checkpoints").iterdir())
    best.rename(best.with_name("step-00000200"))
    (folder / "best").write_text("step-00000200\n")
    _, page = page_of(folder)
    assert "Validation loss of the best checkpoint: 0.6000" in page.text
    assert "best checkpoint, of step 200" in page.text
    assert summarize_run(folder).valid_loss == 0.6  # as ``firstlight runs`` has it, next to the metric
