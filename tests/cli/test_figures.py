"""What commands print: with --json one JSON object with the figures, without it words with the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import CHARACTERS, RUN_SETTINGS, Call

from firstlight.cli.runs import _fitting_columns, _format_setting
from firstlight.shell import command_line

JSON_COMMANDS = {
    "pretrain run --resume": {
        "run",
        "stopped_by",
        "finished",
        "step",
        "tokens",
        "valid_loss",
        "bits_per_byte",
        "report",
    },
    "pretrain text.txt --dry-run SMALL": {"parameters", "steps", "step_tokens", "memory_bytes", "disk_bytes"},
    "quickstart text.txt --out qs SMALL": {"run", "stopped_by", "step", "tokens", "valid_loss", "report"},
    "generate run the --max-new-tokens 3": {"samples"},
    "generate run the --max-new-tokens 3 --int8": {"samples"},
    "evaluate run": {"model", "stride", "texts"},
    "evaluate run --int8": {"model", "stride", "texts"},
    "data prepare text.txt --out store tokenizer.kind=byte": {"store", "train_tokens", "valid_tokens", "tally"},
    "data inspect store": {"documents", "tokens", "vocab_size", "dtype", "fingerprint", "first_text", "first_ids"},
    "data verify run": {"checked", "problems"},
    "data stats store": {"train", "valid", "bytes_per_token", "document_tokens", "top"},
    "tokenizer train text.txt --out new tokenizer.kind=word": {"kind", "vocab_size", "hash", "lossless"},
    "tokenizer import store --out new": {"kind", "vocab_size", "eot_id"},
    "tokenizer show chars": {"kind", "vocab_size", "eot", "longest"},
    "tokenizer encode chars cat": {"ids", "tokens"},
    "tokenizer compare chars store --text text.txt": {"tokenizers"},
    "tokenizer vectors train text.txt --out new.vec vectors.method=glove vectors.width=4": {"n_words", "text_words"},
    "doctor": {"healthy", "findings"},
    "settings optim": {"settings"},
    "presets": {"presets"},
    "presets nano": {"name", "toml"},
    "runs .": {"runs"},
    "runs diff run run": {"runs", "settings", "changes", "notes"},
}
SMALL = [
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "tokenizer.kind=byte",
    "tokenizer.vocab_size=auto",
    "train.batch_tokens=64",
    "train.steps=2",
    "train.sample_tokens=4",
    "train.trackers=[]",
    "optim.schedule.name=wsd",
]


def words_of(line: str) -> list[str]:
    return [word for part in line.split() for word in (SMALL if part == "SMALL" else [part])]


def table_of(text: str) -> dict[str, Any]:
    """Read the one line of JSON that a command printed, as strict readers do."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not valid JSON")

    assert text.count("\n") == 1
    table = json.loads(text, parse_constant=refuse)
    assert isinstance(table, dict)
    return table


@pytest.mark.parametrize("line", JSON_COMMANDS)
def test_json(line: str, world: Path, call: Call):
    answer = call(*words_of(line), "--json")
    assert answer.code == 0, answer.err
    assert table_of(answer.out).keys() >= JSON_COMMANDS[line]


@pytest.mark.parametrize("line", JSON_COMMANDS)
def test_words(line: str, world: Path, call: Call):
    answer = call(*words_of(line))
    assert answer.code == 0, answer.err
    assert answer.out.strip()
    assert "{" not in answer.out.splitlines()[0]


def test_verify_resume(world: Path, call: Call):
    answer = call("verify-resume", "run", "--steps", "3", "--stop-at", "1")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("bit-identical: ")
    assert "stopped at step 1 and uninterrupted" in answer.out


def test_verify_resume_as_json(world: Path, call: Call):
    table = table_of(call("verify-resume", "run/run.toml", "--steps", "3", "--stop-at", "2", "--json").out)
    assert (table["equal"], table["steps"], table["stopped_at"], table["difference"]) == (True, 3, 2, None)


def test_the_figures_of_a_store(world: Path, call: Call):
    size = (world / "text.txt").stat().st_size
    table = table_of(call("data", "stats", "store", "--json").out)
    # A byte is a token, and each split of the one document ends with end-of-text or where it is cut.
    assert table["train"]["bytes"] + table["valid"]["bytes"] == size
    assert table["train"]["tokens"] + table["valid"]["tokens"] == size + 1
    assert table["valid"]["bytes"] == pytest.approx(size / 10, abs=1)
    assert table["top"][0]["token"] == " "
    assert sum(row["count"] for row in table["top"]) <= table["train"]["tokens"]
    words = call("data", "stats", "store", "--top", "1").out
    assert f"{table['train']['tokens']:,}" in words
    assert "' '" in words


def test_inspect_shows_how_a_store_begins(world: Path, call: Call):
    table = table_of(call("data", "inspect", "store", "--tokens", "9", "--json").out)
    assert table["first_text"] == (world / "text.txt").read_text(encoding="utf-8")[:9]
    assert len(table["first_ids"]) == 9
    assert table["documents"] == {"train": 1, "valid": 1}


@pytest.mark.parametrize("command", [("inspect", "--tokens", "2"), ("stats", "--top", "2")])
def test_another_tokenizer_beside_a_store_is_not_used_to_show_it(command: tuple[str, ...], world: Path, call: Call):
    (world / "store" / "tokenizer" / "tokenizer.json").write_bytes((world / "chars" / "tokenizer.json").read_bytes())
    answer = call("data", command[0], "store", *command[1:], "--json")
    assert answer.code == 0, answer.err
    table = table_of(answer.out)
    assert table["first_text"] is None if command[0] == "inspect" else table["top"][0]["token"] is None
    assert call("data", command[0], "store", *command[1:]).code == 0


def test_inspect_without_a_tokenizer_shows_ids(world: Path, call: Call):
    (world / "store" / "tokenizer" / "tokenizer.json").unlink()
    assert "the store's tokenizer was not found" in call("data", "inspect", "store").out


def test_a_store_and_a_tokenizer_made_twice_are_used_again(world: Path, call: Call):
    before = {p: p.stat().st_mtime_ns for p in (world / "store").rglob("*.bin")}
    answer = call("data", "prepare", "text.txt", "--out", "store", "tokenizer.kind=byte")
    assert answer.code == 0
    assert "store: reused: it was made from the same inputs and settings" in answer.err
    assert before == {p: p.stat().st_mtime_ns for p in (world / "store").rglob("*.bin")}
    again = call("tokenizer", "train", "text.txt", "--out", "chars", *CHARACTERS)
    assert again.code == 0
    assert "reusing the tokenizer in chars" in again.err


def test_dropped_documents_and_bad_bytes_are_told(world: Path, call: Call):
    lines = [json.dumps({"text": f"a document of some length, number {n}"}) for n in range(40)]
    (world / "mixed.jsonl").write_text("\n".join([*lines, '{"text": "  "}', '{"text": ""}']), encoding="utf-8")
    answer = call("data", "prepare", "mixed.jsonl", "--out", "new", "tokenizer.kind=byte")
    assert "dropped: 2 documents, empty" in answer.out.splitlines()
    (world / "bad.txt").write_bytes((b"one \xff two" + b" three four five six" * 6 + b"\n") * 20)
    answer = call("data", "prepare", "bad.txt", "--out", "other", "--on-bad-bytes", "replace", "tokenizer.kind=byte")
    assert answer.code == 0
    warnings = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "bad.txt: 20 bytes are not UTF-8 and were replaced" in warnings[0]


@pytest.mark.parametrize("field", ["it's", 'say "x"', "back\\slash", "true", "3", "a\x7fb", "a=b"])
def test_a_text_field_may_have_any_name(field: str, world: Path, call: Call):
    rows = [json.dumps({field: f"some words of document {n}", "n": n}) for n in range(30)]
    (world / "odd.jsonl").write_text("\n".join(rows), encoding="utf-8")
    answer = call(
        "data", "prepare", "odd.jsonl", "--out", "new", "--text-field", field, "tokenizer.kind=byte", "--json"
    )
    assert answer.code == 0, answer.err
    assert table_of(answer.out)["tally"]["documents"] == 30


def test_encode_and_decode_are_each_others_inverse(world: Path, call: Call):
    encoded = call("tokenizer", "encode", "store/tokenizer", "the cat, 猫")
    decoded = call("tokenizer", "decode", "store", *encoded.out.split())
    assert decoded.out == "the cat, 猫\n"
    assert call("tokenizer", "decode", "store", encoded.out.strip().replace(" ", ",")).out == "the cat, 猫\n"


def test_text_that_a_tokenizer_lacks_is_shown_as_unknown(world: Path, call: Call):
    table = table_of(call("tokenizer", "encode", "chars", "cat!", "--json").out)
    assert table["tokens"] == ["c", "a", "t", "<unk>"]
    assert (table["unk_tokens"], table["unk_bytes"], table["unk_fraction"]) == (1, 1, 0.25)


def test_compare_counts_tokens_and_unknown_ones(world: Path, call: Call):
    (world / "other.txt").write_text("the cat!!", encoding="utf-8")
    rows = table_of(call("tokenizer", "compare", "chars", "store", "--text", "other.txt", "--json").out)["tokenizers"]
    assert [(row["kind"], row["tokens"], row["unk_tokens"]) for row in rows] == [("char", 9, 2), ("byte", 9, 0)]
    assert [row["bytes_per_token"] for row in rows] == [1.0, 1.0]


def test_pretrain_says_what_came_of_it_and_what_is_next(world: Path, call: Call):
    answer = call("pretrain", "text.txt", "--out", "two words", *RUN_SETTINGS, "train.stop_after=2")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].startswith("two words: stopped, checkpoint saved at step 2 (")
    assert f"Resume with: {command_line('pretrain', world / 'two words', '--resume')}" in lines
    answer = call("pretrain", "two words", "--resume", "train.stop_after=0")
    assert answer.out.splitlines()[0].startswith("two words: finished at step 4 (train.steps; ")
    assert "report: two words/report.html" in answer.out.splitlines()


def test_quickstart_shows_a_sample_and_how_to_go_on(world: Path, call: Call):
    answer = call(*words_of("quickstart text.txt --out qs SMALL"))
    assert "\nSample after 2 steps:\n" in answer.out
    assert answer.out.endswith(f"\nTry: {command_line('generate', world / 'qs', 'The ')}\n")


def test_quickstart_needs_no_text_of_its_own(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    from firstlight.stages import quickstart as stage

    asked: list[Any] = []
    monkeypatch.setattr(stage, "pretrain", lambda corpus, **options: asked.append((corpus, options)) or _stop())
    assert call("quickstart", "train.steps=3").code == 1
    [(corpus, options)] = asked
    assert set(corpus) <= {"python-docs", "python-code"}
    assert (options["out"], options["preset"], options["resume"]) == (Path("runs/quickstart"), "quickstart", False)
    assert options["overrides"] == ["train.steps=3"]


def _stop() -> None:
    raise OSError("stopped here")


def test_a_figure_that_is_not_finite_is_a_string(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    from firstlight.stages import pretrain as stage

    result = stage.PretrainResult(
        run=Path("r"),
        stopped_by="steps",
        finished=True,
        step=1,
        seconds=0.1,
        report=None,
        tokens=1,
        valid_loss=float("nan"),
        bits_per_byte=float("inf"),
    )
    monkeypatch.setattr(stage, "pretrain", lambda *_, **__: result)
    table = table_of(call("pretrain", "text.txt", "--json").out)
    assert (table["valid_loss"], table["bits_per_byte"], table["run"]) == ("NaN", "Infinity", "r")


def test_list_of_runs(world: Path, call: Call):
    [run] = table_of(call("runs", ".", "--json").out)["runs"]
    assert (run["name"], run["kind"], run["state"], run["steps"]) == ("run", "pretrain", "finished", 4)
    assert run["bits"].keys() == {"bits_per_byte"}
    lines = call("runs", ".").out.splitlines()
    assert lines[0].split()[:4] == ["run", "kind", "state", "steps"]
    assert lines[1].split()[:4] == ["run", "pretrain", "finished", "4"]
    assert call("runs", "list", ".").out == call("runs", ".").out


@pytest.mark.parametrize(("width", "n_columns"), [(200, 10), (80, 7), (30, 4)])
def test_columns_of_the_list_of_runs_that_a_terminal_shows(width: int, n_columns: int):
    row = {"run": "second", "kind": "pretrain", "state": "interrupted", "steps": "120", "valid loss": "3.7914"}
    row |= {"metrics": "–", "bits": "2.4352/byte", "parameters": "430,944", "size": "9.9 MB", "time": "49.2 s"}
    row |= {"last change": "2026-11-30 23:34"}
    columns = _fitting_columns([row, row | {"run": "模型"}], width)
    assert len(columns) == n_columns
    assert columns == [name for name in row if name in columns]
    assert {"run", "state", "steps", "valid loss"} <= set(columns)


def test_comparison_of_runs(world: Path, call: Call):
    assert call("pretrain", "text.txt", "--out", "other", *RUN_SETTINGS, "optim.lr=0.01").code == 0
    lines = [line.split() for line in call("runs", "diff", "run", "other").out.splitlines()]
    assert ["optim.lr", "0.02", "0.01"] in lines
    assert ["state", "finished", "finished"] in lines


def test_settings_of_two_runs_are_shown_as_they_are_written():
    assert _format_setting(["我的　书/三国（上）.txt", 1]) == '["我的　书/三国（上）.txt", 1]'


def test_settings_are_rows_that_grep_finds(call: Call):
    rows = [line for line in call("settings").out.splitlines() if line.startswith("optim.schedule.min_ratio ")]
    assert len(rows) == 1
    assert "float >= 0, <= 1" in rows[0]


def test_a_shown_preset_can_be_trained_on(world: Path, call: Call):
    (world / "preset.toml").write_text(call("presets", "nano").out, encoding="utf-8")
    answer = call("pretrain", "preset.toml", "--out", "new", "--dry-run", 'run.corpus=["text.txt"]', *SMALL)
    assert answer.code == 0, answer.err
