"""Fine-tuning as a user runs it: one task, several, adapters, seeds; killed and resumed; its labels in transformers."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from journey_files import last_checkpoint, same_bytes

TINY = [
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=32",
    "model.block_size=64",
    "train.steps=20",
    "tokenizer.kind=byte",
    "train.batch_tokens=256",
    "train.trackers=[]",
    "hardware.threads=1",
    "train.eval_windows=8",
    "model.family=gpt2",
]
QUICK = ["train.trackers=[]", "hardware.threads=1", "optim.lr=3e-3", "finetune.batch_size=8", "train.log_every=1"]
GOOD, BAD = ["fine", "lovely", "bright", "warm"], ["dull", "grim", "cold", "flat"]


def write_task(folder: Path, name: str, n: int, words: tuple[list[str], list[str]] = (GOOD, BAD)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(name)
    for side, count in (("train", n), ("valid", 24), ("test", 24)):
        lines = ["label\ttext"]
        for i in range(count):
            kind = i % 2
            lines.append(
                f"{('good', 'bad')[kind]}\tthe {source.choice(['day', 'film'])} was {source.choice(words[kind])}"
            )
        (folder / f"{name}-{side}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / f"{name}.toml"
    path.write_text(
        f'kind = "classification"\n[data]\ntrain = "{name}-train.tsv"\nvalid = "{name}-valid.tsv"\n'
        f'test = "{name}-test.tsv"\n[columns]\ntext = "text"\nlabel = "label"\n',
        encoding="utf-8",
    )
    return path


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


@pytest.fixture(scope="module")
def world(run, tmp_path_factory) -> Path:
    """A folder with a pre-trained run and two tasks."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text("the day was fine and the film was dull\n" * 400, encoding="utf-8")
    run("pretrain", folder / "text.txt", *TINY, "--out", folder / "base")
    write_task(folder, "mood", 96)
    write_task(folder, "tone", 48, (BAD, GOOD))
    return folder


@pytest.fixture(scope="module")
def tuned(world, run) -> Path:
    out = world / "tuned"
    told = run(
        "finetune", world / "base", world / "mood.toml", *QUICK, "finetune.pool=last", "train.epochs=6", "--out", out
    )
    assert "mood, valid: accuracy" in told.stdout and "loss on the pre-training text" in told.stdout
    return out


def test_it_learns_and_leaves_figures_and_a_report(tuned) -> None:
    figures = json.loads((tuned / "evaluation.json").read_text())
    for side in ("tasks", "test"):
        mood = figures[side]["mood"]
        assert mood["value"] > 0.9 and mood["low"] <= mood["value"] <= mood["high"]
        assert sum(map(sum, mood["confusion"])) == mood["n"] == 24
    assert figures["forgetting"]["after"] != figures["forgetting"]["before"] > 0
    page = (tuned / "report.html").read_text(encoding="utf-8")
    for words in ("true class (row)", "Worst errors", "Calibration", "95% CI", "Forgetting"):
        assert words in page
    assert all(f"<dt>{name}</dt>" in page for name in ("mood", "rows seen", "rows per second"))
    assert "mean over rows" in page and "<dt>perplexity</dt>" not in page, "a head's loss is of rows, not of tokens"
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert any("mood/accuracy" in line for line in lines) and any("rows_per_second" in line for line in lines)


@pytest.mark.slow
def test_forgetting_is_measured_where_the_store_was_made_before(world, run, tmp_path) -> None:
    run("data", "prepare", world / "text.txt", "--out", tmp_path / "store", "tokenizer.kind=byte")
    run("pretrain", tmp_path / "store", *TINY, "--out", tmp_path / "base")
    run("finetune", tmp_path / "base", world / "mood.toml", *QUICK, "train.steps=2", "--out", tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned/evaluation.json").read_text())["forgetting"]["before"] > 0


def test_labels_are_those_of_transformers(tuned, world, run) -> None:
    from transformers import pipeline

    from firstlight.lm import locate

    told = run("predict", tuned, world / "mood-test.tsv")
    ours = [json.loads(line) for line in told.stdout.splitlines()]
    texts = [line.split("\t")[1] for line in (world / "mood-test.tsv").read_text().splitlines()[1:]]
    classify = pipeline("text-classification", model=str(locate(tuned)), top_k=None, device="cpu")
    for mine, theirs in zip(ours, classify(texts, batch_size=4), strict=True):
        assert mine["label"] == theirs[0]["label"]
        for score in theirs:
            assert mine["probabilities"][score["label"]] == pytest.approx(score["score"], abs=2e-5)


@pytest.mark.slow
def test_predictions_go_on_where_they_were_cut_off(tuned, world, run) -> None:
    whole, cut = world / "whole.jsonl", world / "cut.jsonl"
    run("predict", tuned, world / "mood-test.tsv", "--out", whole)
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:10]) + lines[10][:20])
    (world / "cut.jsonl.meta.json").write_bytes((world / "whole.jsonl.meta.json").read_bytes())
    told = run("predict", tuned, world / "mood-test.tsv", "--out", cut)
    assert "24 rows predicted" in told.stdout, "all rows of the incomplete chunk"
    assert cut.read_text() == whole.read_text()


@pytest.mark.slow
def test_rows_without_text_are_labelled_null_in_their_place(tuned, run, tmp_path) -> None:
    (tmp_path / "new.tsv").write_text("text\tid\nthe day was fine\t1\n\t2\n\t3\nthe film was dull\t4\n")
    told = run("predict", tuned, tmp_path / "new.tsv", ok=False)
    assert told.returncode == 1 and "new.tsv:3: column text: is empty" in told.stderr and "data.on_empty" in told.stderr
    run("predict", tuned, tmp_path / "new.tsv", "data.on_empty=drop", "--out", tmp_path / "labels.jsonl")
    whole = (tmp_path / "labels.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(row["where"].rpartition(":")[2], row["label"] is None) for row in rows] == [
        ("2", False),
        ("3", True),
        ("4", True),
        ("5", False),
    ]
    assert rows[1]["probabilities"] is None
    (tmp_path / "labels.jsonl").write_text("".join(whole.splitlines(keepends=True)[:2]))
    run("predict", tuned, tmp_path / "new.tsv", "data.on_empty=drop", "--out", tmp_path / "labels.jsonl")
    assert (tmp_path / "labels.jsonl").read_text() == whole


MULTI = [
    "train.epochs=4",
    "finetune.mixing=equal",
    "finetune.replay_fraction=0.2",
    "finetune.dropout=0.1",
    "finetune.layer_decay=0.8",
]


@pytest.fixture(scope="module")
def several(world, run) -> tuple[Path, list[object]]:
    out = world / "several"
    words = [world / "base", world / "mood.toml", world / "tone.toml", *QUICK, *MULTI, "train.checkpoint_every=5"]
    run("finetune", *words, "--out", out)
    return out, words


@pytest.mark.slow
def test_several_tasks_share_a_body_and_serve_from_one_checkpoint(several, world, run) -> None:
    out, _ = several
    figures = json.loads((out / "evaluation.json").read_text())["tasks"]
    assert set(figures) == {"mood", "tone"}
    told = run("predict", out, world / "mood-test.tsv", ok=False)
    assert told.returncode == 2 and "has several tasks (expected mood, tone)" in told.stderr
    tone = run("predict", out, world / "tone-test.tsv", "--task", "tone")
    assert len(tone.stdout.splitlines()) == 24
    from transformers import AutoModelForCausalLM

    assert type(AutoModelForCausalLM.from_pretrained(last_checkpoint(out))).__name__ == "GPT2LMHeadModel"


@pytest.mark.slow
def test_killed_amid_several_tasks_and_resumed_is_bit_identical(several, start, run, tmp_path) -> None:
    whole, words = several
    out, dice = tmp_path / "run", random.Random(4)
    for _ in range(3):
        process = start("finetune", *words, "--out", out, "--resume")
        before = _lines(out)
        deadline = time.monotonic() + 60
        while process.poll() is None and _lines(out) < before + dice.choice([2, 6, 11]) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    run("finetune", *words, "--out", out, "--resume")
    assert same_bytes(whole, out) == []
    assert (last_checkpoint(whole) / "heads.safetensors").read_bytes() == (
        last_checkpoint(out) / "heads.safetensors"
    ).read_bytes()
    figures = [json.loads((r / "evaluation.json").read_text()) for r in (whole, out)]
    assert figures[0] == figures[1]


def _lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text(errors="replace").splitlines()) if path.is_file() else 0


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(tuned, run) -> None:
    told = run("finetune", tuned, "--resume")
    assert "has finished already" in told.stderr and "mood, valid: accuracy" in told.stdout


@pytest.mark.slow
def test_a_head_that_reads_the_mean_is_no_class_of_transformers(world, run) -> None:
    task = world / "mean.toml"
    task.write_text('pool = "mean"\n' + (world / "mood.toml").read_text(encoding="utf-8"), encoding="utf-8")
    out = world / "mean"
    run("finetune", world / "base", task, *QUICK, "train.epochs=10", "--out", out)
    told = json.loads((out / "evaluation.json").read_text())["test"]["mean"]
    assert told["value"] > 0.9
    config = json.loads((last_checkpoint(out) / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"], "its classes read the last token"
    lines = [json.loads(line) for line in run("predict", out, world / "mood-test.tsv").stdout.splitlines()]
    true = [line.split("\t")[0] for line in (world / "mood-test.tsv").read_text().splitlines()[1:]]
    assert sum(a["label"] == b for a, b in zip(lines, true, strict=True)) / 24 == told["value"]


@pytest.mark.slow
def test_layers_thaw_one_by_one(world, run) -> None:
    out = world / "thawed"
    run(
        "finetune",
        world / "base",
        world / "mood.toml",
        *QUICK,
        "finetune.unfreeze_every_epochs=1",
        "train.steps=12",
        "finetune.lm_weight=0",
        "--out",
        out,
    )
    from safetensors.torch import load_file

    before = load_file(last_checkpoint(world / "base") / "model.safetensors")
    after = load_file(last_checkpoint(out) / "model.safetensors")
    moved = {n for n, t in before.items() if t.shape == after[n].shape and not t.equal(after[n])}
    assert any(".h.1." in n for n in moved), "the last block learns from the start"
    assert not any(".h.0." in n or "wpe" in n for n in moved), "the first waits for its epoch"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_resume_merge_and_work_on_the_transformers_base(kind, world, start, run, tmp_path) -> None:
    words = [
        world / "base",
        world / "mood.toml",
        "--preset",
        "lora",
        *QUICK,
        f"finetune.adapter.kind={kind}",
        "finetune.adapter.r=4",
        "train.epochs=2",
        "train.checkpoint_every=5",
    ]
    whole, out = tmp_path / "whole", tmp_path / "cut"
    run("finetune", *words, "--out", whole)
    run("finetune", *words, "train.stop_after=8", "--out", out)
    run("finetune", out, "--resume", "train.stop_after=0")
    assert same_bytes(whole, out) == []
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = last_checkpoint(whole)
    base = AutoModelForSequenceClassification.from_pretrained(last_checkpoint(world / "base"), num_labels=2)
    with_adapter = PeftModel.from_pretrained(base, folder / "adapter").eval()
    merged = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("the day was fine", return_tensors="pt")["input_ids"]
    for model in (with_adapter, merged):
        model.config.pad_token_id = None
    with torch.no_grad():
        one, two = with_adapter(ids).logits, merged(ids).logits
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    _check_padded_batch(whole, folder, world, run)


def _check_padded_batch(tuned: Path, folder: Path, world: Path, run) -> None:
    """Compare a padded batch of the base with adapters, as peft loads both in the run, with what predict answers."""
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    rows = world / "rows.tsv"
    texts = ["the day was fine", "dull", "the film was grim and the day was cold"]
    rows.write_text("text\tlabel\n" + "".join(f"{text}\tgood\n" for text in texts))
    ours = [json.loads(line)["probabilities"] for line in run("predict", tuned, rows).stdout.splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tuned)  # where base/ is
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    model.base_model.model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    found = torch.tensor([[row["bad"], row["good"]] for row in ours])
    torch.testing.assert_close(theirs, found, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "more"), [("qlora", []), ("lora", ["finetune.adapter.base=int8"])])
def test_adapters_learn_beside_few_bits_and_resume(preset, more, world, start, run, tmp_path) -> None:
    words = [
        world / "base",
        world / "mood.toml",
        "--preset",
        preset,
        *QUICK,
        *more,
        "train.epochs=8",
        "train.checkpoint_every=5",
    ]
    whole, out = tmp_path / "whole", tmp_path / "cut"
    run("finetune", *words, "--out", whole)
    run("finetune", *words, "train.stop_after=8", "--out", out)
    run("finetune", out, "--resume", "train.stop_after=0")
    assert same_bytes(whole, out) == []
    assert json.loads((whole / "evaluation.json").read_text())["tasks"]["mood"]["value"] > 0.9


@pytest.mark.slow
def test_seeds_give_mean_and_deviation(world, run) -> None:
    out = world / "seeds"
    told = run("finetune", world / "base", world / "mood.toml", *QUICK, "train.steps=8", "--seeds", "2", "--out", out)
    summary = json.loads((out / "seeds.json").read_text())
    values = summary["valid"]["mood"]["values"]
    assert len(values) == 2 and summary["valid"]["mood"]["mean"] == pytest.approx(sum(values) / 2)
    assert "±" in told.stdout
    assert "seed-1: mood:" in told.stderr, "eight updates teach little, which is said"


@pytest.mark.slow
def test_layers_are_probed(world, run) -> None:
    told = run("probe", world / "base", world / "mood.toml", "--json")
    found = json.loads(told.stdout)
    assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2]
    assert found["layers"][0]["accuracy"] > 0.9, "the words alone tell"
    assert found["majority"] == 0.5


@pytest.mark.slow
def test_one_task_beside_another(world, run) -> None:
    words = [world / "base", world / "mood.toml", world / "tone.toml", *QUICK, "finetune.pool=last", "train.epochs=5"]
    told = run("transfer", *words, "--out", world / "transfer", "--json")
    rows = {(r["task"], r["trained_on"]): r["value"] for r in json.loads(told.stdout)["rows"]}
    assert set(rows) == {
        ("mood", "mood"),
        ("tone", "tone"),
        ("mood", "mood-with-tone"),
        ("tone", "mood-with-tone"),
        ("mood", "mood-after-tone"),
        ("tone", "tone-after-mood"),
        ("tone", "mood alone"),
        ("mood", "tone alone"),
    }
    assert rows["mood", "mood"] > 0.9
    assert rows["tone", "mood alone"] < 0.1, "tone's labels are mood's, turned round"
    assert "transfer.json: already exists" in run("transfer", *words, "--out", world / "transfer", ok=False).stderr
    again = run("transfer", *words, "--out", world / "transfer", "--overwrite")
    assert "has finished already" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "mood.toml"], "no such run or model"),
        (["base"], "nothing to fine-tune"),
        (["base", "none.toml"], "none.toml: no such file"),
        (["base", "mood.toml", "mood.toml"], "two tasks have this name"),
        (["base", "mood.toml", "finetune.freeze=['nothing.*']"], "matches no parameter"),
        (["base", "mood.toml", "finetune.lm_wight=1"], "Did you mean finetune.lm_weight"),
        (["base", "mood.toml", "finetune.adapter.base=nf4"], "set kind to lora"),
        (["base", "mood.toml", "--preset", "gpt7"], "unknown preset 'gpt7'"),
        (["text.txt", "mood.toml"], "not a model"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_one_line(words, told, world, run) -> None:
    paths = [world / w if (world / w).exists() or w in ("nowhere", "none.toml") else w for w in words]
    found = run("finetune", *paths, "--out", world / "never", ok=False)
    assert found.returncode == 2, found.stderr
    assert told in found.stderr and "Traceback" not in found.stderr
    assert not (world / "never").exists()


@pytest.mark.slow
def test_rows_that_cannot_be_used_end_with_1(world, run, tmp_path) -> None:
    task = write_task(tmp_path, "odd", 20)
    with (tmp_path / "odd-valid.tsv").open("a") as file:
        file.write("middling\tso so\n")
    found = run("finetune", world / "base", task, "--out", tmp_path / "run", ok=False)
    assert found.returncode == 1
    assert (
        "odd-valid.tsv:26: has a label that the task does not list (found middling; expected one of bad, good)"
        in found.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_measure_forgetting_as_one_does(world, run, tmp_path):
    words = [world / "base", world / "mood.toml", *QUICK, "train.steps=12"]
    run("finetune", *words, "--out", tmp_path / "one")
    run("finetune", *words, "--out", tmp_path / "two", launcher=TORCHRUN)
    before = [json.loads((tmp_path / name / "before.json").read_text())["loss"] for name in ("one", "two")]
    assert before[0] == before[1] > 0
    after = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")]
    # Each process draws its own dropout, so the weights differ a little: 0.3 % of the loss when this was written.
    assert after[1]["forgetting"]["after"] == pytest.approx(after[0]["forgetting"]["after"], rel=1e-2)
