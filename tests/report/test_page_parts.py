"""What a report shows besides the curves: where it comes from, what it is called, and on which runs."""

import json
import re
import struct
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from test_run_page import edit, page_of

from firstlight.report.language import language
from firstlight.report.tasks import _classes
from firstlight.report.weights import group

TRAINING_TEXT = {
    "tokens": 4_153_993,
    "characters": 2_076_997,
    "ids_used": 4000,
    "most_frequent": [
        {"id": 262, "text": " the", "count": 83_080},
        {"id": 1000, "text": "宝玉", "count": 41_540},
        {"id": 7, "text": "\\xe4", "count": 10},
        {"id": 198, "text": "\n", "count": 5},
    ],
}
POSITIONS = [{"first": 2**k, "last": 2 ** (k + 1) - 1, "loss": 6 - k / 2, "n": 100} for k in range(8)]


def words(html: str) -> str:
    """The text of a page, with a space between the cells of tables."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", "", re.sub(r"</?(?:d[tdl]|t[dhr]|p|small|h\d|div|pre|li)\b[^>]*>", " ", body))
    return " ".join(unescape(text).replace("\u00a0", " ").split())


def chart(html: str, title: str) -> str:
    start = html.index(f'<span class="name">{title}</span>')
    return html[start : html.index("</figure>", start)]


def test_clipping_line_log_scale_and_the_ends_of_the_axis_are_labelled(run: Path):
    (run / "run.toml").write_text((run / "run.toml").read_text().replace("[optim.sch", "clip_norm = 0.5\n[optim.sch"))
    html, _ = page_of(run)
    found = chart(html, "Gradient norm")
    assert '<span class="unit">before clipping, log scale</span>' in found
    assert "clipping threshold 0.5 (optim.clip_norm)" in found
    ticks = re.findall(r'<text class="x( last)?" x="([\d.]+)%"[^>]*>([^<]+)<', found)
    assert (ticks[0], ticks[-1]) == (("", "0.00", "1"), (" last", "100.00", "2,000"))
    assert "log scale" not in chart(html, "Loss")


def test_loss_by_position_in_the_window(run: Path):
    html, _ = page_of(run)
    assert "Loss by position" not in html
    edit(run / "evaluation.json", lambda t: t.update(loss_by_position=POSITIONS))
    found = chart(page_of(run)[0], "Loss by position in the window")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', found)[1])  # type: ignore[index]
    assert data["x"] == [1, 255, True]
    assert data["series"][0]["y"] == [6 - k / 2 for k in range(8)]


def test_a_uniform_guess_is_explained_from_the_start_of_a_run_on(run: Path):
    for _ in range(2):
        html, page = page_of(run)
        assert "has a loss of ln 4,096 = 8.32 nats; random weights begin near it" in words(html)
        assert "uniform guess ln 4,096 = 8.32" in chart(html, "Loss")
        (run / "evaluation.json").unlink(missing_ok=True)


def test_tokens_of_the_training_split(run: Path):
    edit(run / "evaluation.json", lambda t: t.update(training_text=TRAINING_TEXT))
    html, page = page_of(run)
    text = words(html)
    for expected in (
        "tokens per character 2.000 0.50 characters per token",
        "tokens per byte 0.287 3.48 bytes per token",
        "tokens that occur 4,000 97.7 % of the vocabulary",
        "passes over the text 3.94 epochs: 16.4 M tokens trained on, 4.2 M in the training split",
        "␣the 262 83,080 2.0 %",
        r"\xe4 7 10 0.0 %",
        "↵ 198",
    ):
        assert expected in text, expected
    assert '<code lang="zh">宝玉</code>' in html


def test_where_the_parameters_are(run: Path):
    shapes = {"model.embed_tokens.weight": [100, 8], "model.layers.0.self_attn.q_proj.weight": [8, 8]}
    header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
    folder = run / "checkpoints" / "step-00001700"
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "Where the parameters are" in words(page_of(run)[0])
    edit(folder / "config.json", lambda t: t.update(tie_word_embeddings=True))
    assert "token embeddings the output head shares them 800 92.6 %" in words(page_of(run)[0])


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("token embeddings", "transformer.wte.weight transformer.tokens_embed.weight model.embed_tokens.weight"),
        ("position embeddings", "transformer.wpe.weight transformer.positions_embed.weight"),
        ("attention", "h.0.attn.c_attn.bias h.0.attn.attention.k_proj.weight model.layers.9.self_attn.o_proj.weight"),
        ("MLP", "transformer.h.0.mlp.c_fc.weight model.layers.0.mlp.gate_proj.weight"),
        (
            "norms",
            "transformer.h.0.ln_1.weight transformer.ln_f.bias model.layers.0.post_attention_layernorm.weight "
            "model.layers.0.self_attn.q_norm.weight model.norm.weight",
        ),
        ("output head", "lm_head.weight"),
        ("task heads", "score.weight heads.mood.weight"),
        ("other", "surprise"),
    ],
)
def test_every_tensor_is_of_a_part(part: str, names: str):
    sizes = dict.fromkeys(names.split(), 2)
    assert [(p.name, p.n, p.fraction) for p in group(sizes)] == [(part, 2 * len(sizes), 1.0)]


def test_samples_have_prompt_temperature_and_language(tmp_path: Path, make_run: Callable[..., Path]):
    texts = ["English text.", "话说宝玉听了。", "これはペンです。", "이것은 펜입니다.", "Это ручка."]
    run = make_run(tmp_path / "x", samples=texts)
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[0]["temperature"], lines[-1]["temperature"] = 0.0, 0.7
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html, page = page_of(run)
    text = words(html)
    assert "Sample at step 2,000 no prompt: begins a new text, temperature 0.70" in text
    assert "Step 400 no prompt: begins a new text, temperature 0: always the most likely token" in text
    assert "Step 800 prompt highlighted, temperature not recorded" in text
    found = re.findall(r'<pre class="text" dir="auto"( lang="\w*")? ', html)
    assert sorted(found) == ["", ' lang=""', ' lang="ja"', ' lang="ko"', ' lang="zh"']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("12 + 3 = 15, §", None),
        ("déjà vu, naïve", None),
        ("红楼梦", "zh"),
        ("python-docs, 红楼梦.txt", "zh"),
        ("a long English sentence that quotes one word, 梦, and goes on after it", None),
        ("「の」是一个日文字，这里全是中文，所以还是中文文本。", "zh"),
        ("東京都に住んでいます", "ja"),
        ("서울특별시", "ko"),
        ("Привет, мир", ""),
        ("سلام", ""),
    ],
)
def test_language_of_a_text(text: str, expected: str | None):
    assert language(text) == expected


def test_what_the_corpus_lost(run: Path):
    assert "What was left out or replaced Nothing: every document was read whole" in words(page_of(run)[0])
    lost = {"skipped": {"binary": 3}, "dropped": {"empty": 5}, "n_bad": 16_066, "bad_bytes": ["a.txt:7"]}
    lost["copies"] = [["b.txt", "a.txt"]]
    edit(run / "data/manifest.json", lambda t: t["sources"][0].update(lost))
    edit(run / "data/manifest.json", lambda t: t.update(train_unk_tokens=4, train_unk_fraction=1e-6, train_unk_bytes=9))
    text = words(page_of(run)[0])
    assert "skipped files 3 binary" in text
    assert "dropped documents 5 empty (0.8 % of all)" in text
    assert "bad bytes 16,066 (0.1 % of the text)" in text
    assert "validation documents that are also in training 1: b.txt is a.txt" in text
    assert "unknown tokens, training 4" in text
    edit(run / "data/manifest.json", lambda t: t.pop("sources"))
    assert "What was left out" not in words(page_of(run)[0])  # the store does not say


def task_run(run: Path) -> Path:
    """Make a fine-tuning run of two tasks of the run."""
    labels = ["负面", "正面", "c", "d", "e"]
    tasks = [
        {"name": "mood", "kind": "classification", "labels": labels},
        {"name": "ner", "kind": "token_classification"},
    ]
    (run / "tasks.json").write_text(json.dumps(tasks))
    worst = [{"where": "mood.jsonl:7", "true": "负面", "predicted": "正面", "probability": 0.98, "text": "太差了<b>"}]
    of_word = {
        "where": "n:3",
        "true": "P",
        "predicted": "O",
        "probability": 0.9,
        "text": "A b",
        "word": 2,
        "word_text": "b",
    }
    confusion = [[5, 3, 0, 0, 0], [1, 9, 0, 0, 0], [0] * 5, [0] * 5, [0] * 5]
    mood = {"metric": "accuracy", "value": 0.75, "n": 18, "confusion": confusion, "worst": worst}
    mood["majority"] = {"label": "正面", "value": 0.55}
    evaluation = {
        "tasks": {"mood": mood, "ner": {"metric": "accuracy", "value": 0.9, "worst": [of_word]}},
        "rows": {"mood": {"train": 100}, "ner": {"train": 60}},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "state.json").write_text(json.dumps({"status": "finished", "stopped_by": "steps", "step": 20}))
    lines = []
    for step in (0, 10, 20):
        if step:
            parts = {"loss": 4.0, "task_loss": 1.0, "lm_loss": 6.0, "rows_per_second": 50.0}
            lines.append({"step": step, "rows": 16 * step, **parts})
        scores = {"mood/accuracy": 0.5 + step / 80, "mood/loss": 1.0, "ner/accuracy": 0.9, "ner/loss": 0.5}
        lines.append({"step": step, "rows": 16 * step, "valid_loss": 0.7, **scores})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "run.toml").write_text("[finetune]\nlm_weight = 0.5\n")
    return run


def test_a_tasks_score_its_curve_and_its_worst_errors(run: Path):
    html, page = page_of(task_run(run))
    text = words(html)
    for expected in (
        "accuracy 0.7500, n = 18; majority class (正面): 0.5500",
        "Classes that are confused most often",
        "负面 正面 3 37.5 %",
        "太差了<b> mood.jsonl:7",
        "b in: A b n:3, word 2",
        "rows seen 320 2.00 passes over the rows (epochs)",
        "rows per second 50 median",
        "training loss = task + 0.5 × language model",
    ):
        assert expected in text, expected
    accuracy = chart(html, "Accuracy")
    series = json.loads(re.search(r'<script type="application/json">(.*?)</script>', accuracy)[1])["series"]  # type: ignore[index]
    assert [(s["name"], s["y"]) for s in series] == [("mood", [0.5, 0.625, 0.75]), ("ner", [0.9] * 3)]
    assert "majority class of mood 0.550" in accuracy
    assert [s["name"] for s in json.loads(re.search(r"json\">(.*?)</script>", chart(html, "Loss"))[1])["series"]] == [  # type: ignore[index]
        "training loss of the task",
        "validation loss",
    ]
    assert "Validation loss of each task" in text
    assert '<bdi dir="auto" lang="zh">太差了&lt;b&gt;</bdi>' in html
    headings = re.search(r"Evaluations as a table</summary>.*?<thead>(.*?)</thead>", html, re.DOTALL)[1]  # type: ignore[index]
    assert re.findall(r">([^<]+)</th>", headings) == ["step", "validation loss", "mood/accuracy", "ner/accuracy"]


def test_a_run_of_tasks_that_trains_has_its_curve(run: Path):
    (task_run(run) / "evaluation.json").unlink()
    (run / "state.json").write_text('{"status": "running", "step": 0}')
    html, page = page_of(run)
    assert "Accuracy" in html and "majority class" not in html
    assert "Training was in progress at step 20 when this page was written" in page.text


def test_wide_tables_are_stacked_on_a_phone(run: Path):
    html, _ = page_of(task_run(run))
    for found in re.finditer(r'<table(?: class="([\w ]*)")?>(.*?)</table>', html, re.DOTALL):
        row = re.search(r"<tbody>\s*<tr.*?>(.*?)</tr>", found[2], re.DOTALL)
        n = len(re.findall(r'<t[dh](?! class="bar")', row[1])) if row is not None else 0
        kind = (found[1] or "").split()
        assert n <= 4 or "cards" in kind or "confusion" in kind, found[0][:200]
        if "cards" in kind:  # each value with its heading
            assert re.findall(r"<td(?! class=\"bar\")(?! data-label)", row[1]) == [] if row else True


@pytest.mark.parametrize("lines", [[], [{"step": 0, "valid_loss": 8.3}], [{"step": 0, "valid_loss": "NaN"}]])
def test_runs_that_have_hardly_begun(tmp_path: Path, make_run: Callable[..., Path], lines: list[dict]):
    run = make_run(tmp_path / "x", lines=lines)
    (run / "evaluation.json").unlink()
    html, _ = page_of(run)
    if lines and lines[0]["valid_loss"] != "NaN":
        ticks = re.findall(r'<text class="x(?: last)?"[^>]*>([^<]+)<', chart(html, "Loss"))
        assert ticks[0] == "0" and ticks[-1] == "1"


def test_images_have_the_baselines_of_their_pixel_values(run: Path):
    (run / "tokenizer" / "pixels.json").write_text(json.dumps({"size": 8, "levels": 16}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 0, "valid_loss": 2.5, "perplexity": 12.2}) + "\n")
    uniform = {"loss": 2.7726, "perplexity": 16.0, "bits_per_dim": 4.0}
    edit(run / "evaluation.json", lambda t: t.update(baselines={"uniform": uniform}, loss_by_position=POSITIONS))
    html, _ = page_of(run)
    assert "uniform guess: 16" in words(html) and "uniform guess 2.77" in chart(html, "Loss")
    assert "Pixels are in raster order" in html and "model.block_size" not in chart(
        html, "Loss by position in the window"
    )
    (run / "evaluation.json").unlink()
    assert "uniform guess" not in words(page_of(run)[0])


def test_the_reason_of_a_failure_ends_with_one_full_stop(run: Path):
    (run / "state.json").write_text(json.dumps({"status": "failed", "stopped_by": "step 3: not finite. Look at it."}))
    assert "Training failed: step 3: not finite. Look at it. " in words(page_of(run)[0])


def test_a_task_without_an_error_says_so(run: Path):
    edit(task_run(run) / "evaluation.json", lambda t: t["tasks"]["mood"].update(confusion=[[3, 0], [0, 4]], worst=[]))
    assert "Worst errors: none, every label is predicted right." in words(page_of(run)[0])


def test_each_class_has_its_scores() -> None:
    # As sklearn's classification_report computes them; the third class is neither true nor predicted.
    found = _classes([[3, 1, 0], [2, 4, 0], [0, 0, 0]], ["a", "b", "c"])
    assert found == [
        ("a", "0.6000", "0.7500", "0.6667", "4"),
        ("b", "0.8000", "0.6667", "0.7273", "6"),
        ("c", "–", "–", "–", "0"),
    ]
