"""A run is whole by itself: it is moved, its parent and its tables are deleted, and it ends as one that was not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from firstlight import progress
from firstlight.errors import CheckpointError, CompatibilityError, UsageError
from firstlight.lm import LM
from firstlight.runs import RunDirectory, outside_inputs
from firstlight.stages.convert import export
from firstlight.stages.evaluate import evaluate
from firstlight.stages.finetune import finetune
from firstlight.stages.list_runs import summarize_run
from firstlight.stages.predict import predict
from firstlight.stages.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
QUIET = ["train.trackers=[]", "train.log_every=1", "hardware.threads=1", "hardware.device=cpu"]
SMALL = ["model.n_layer=1", "model.n_head=2", "model.n_embd=8", "model.block_size=16", "train.batch_tokens=64", *QUIET]
TUNE = ["finetune.batch_size=4", *QUIET]
STEPS = ["train.steps=4", "train.checkpoint_every=1"]
# What a run of each kind is started with, besides STEPS.
KINDS: dict[str, list[str]] = {
    "full": ["finetune.dropout=0.1"],
    "averaged": ["train.ema_decay=0.9"],
    "lora": [],
    "replay": ["finetune.replay_fraction=0.4"],
    "chat": [],
    "on": [],
}
QUICK = {("full", 1), ("lora", 3)}


@pytest.fixture(scope="module", autouse=True)
def _here(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("text.txt").write_text("the day was fine and the film was dull\n" * 30)
        Path("tasks").mkdir()
        Path("tasks/t.tsv").write_text("text\tlabel\n" + "a day\tgood\nthe film\tbad\n" * 6)
        Path("tasks/t.toml").write_text(
            'kind = "classification"\nlabels = "names.txt"\nlabel_values = ["good", "bad"]\n'
            '[data]\ntrain = "t.tsv"\nvalid = "t.tsv"\ntest = "t.tsv"\n[columns]\ntext = "text"\nlabel = "label"\n'
        )
        Path("tasks/names.txt").write_text("Good\nBad\n")
        chat = {"messages": [{"role": "user", "content": "day"}, {"role": "assistant", "content": "film"}]}
        Path("tasks/c.jsonl").write_text((json.dumps(chat) + "\n") * 12)
        Path("tasks/c.toml").write_text(
            'kind = "chat"\n[data]\ntrain = "c.jsonl"\nvalid = "c.jsonl"\n[columns]\nmessages = "messages"\n'
        )
        pretrain(
            ["text.txt"], out="parent", overrides=["tokenizer.kind=byte", "model.family=gpt2", "train.steps=2", *SMALL]
        )
        yield


def start(kind: str, out: str, *more: str) -> None:
    """Start a run of a kind on the model ``parent``."""
    options = [*STEPS, *KINDS[kind], *more]
    if kind == "on":
        pretrain(["text.txt"], out=out, init_from="parent", overrides=["train.batch_tokens=64", *QUIET, *options])
        return
    task = "tasks/c.toml" if kind == "chat" else "tasks/t.toml"
    preset = "lora" if kind == "lora" else "full"
    finetune("parent", [task], out=out, preset=preset, overrides=[*TUNE, *options])


def resume(kind: str, run: str, *more: str) -> int:
    train: Callable[..., object] = pretrain if kind == "on" else finetune
    return train([run] if kind == "on" else run, resume=True, overrides=["train.stop_after=0", *more]).step  # type: ignore[attr-defined]


@pytest.fixture
def gone() -> Callable[..., None]:
    """Return a function that moves files away until the test ends."""
    moved: list[str] = []

    def move_away(*names: str) -> None:
        for name in names:
            shutil.move(name, f"{name}-away")
            moved.append(name)

    yield move_away
    for name in moved:
        shutil.rmtree(name, ignore_errors=True)
        shutil.move(f"{name}-away", name)


def model_files(run: str) -> dict[str, bytes]:
    """Return the files of the last checkpoint that do not name the run or a place, nor times."""
    folder = Path(run) / "checkpoints" / "step-00000004"
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    for name in ("README.md", "manifest.json", "trainer/state.json", "tasks.json", "adapter/README.md"):
        files.pop(name, None)
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize(
    ("kind", "stop"),
    [
        pytest.param(kind, stop, marks=() if (kind, stop) in QUICK else pytest.mark.slow)
        for kind in sorted(KINDS.keys() - {"replay"})
        for stop in (1, 3)
    ],
)
def test_a_moved_run_without_its_parent_ends_as_one_that_stayed(
    kind: str, stop: int, tmp_path: Path, gone: Callable[..., None]
) -> None:
    if not Path(f"stayed-{kind}").exists():
        start(kind, f"stayed-{kind}")
    start(kind, str(tmp_path / "first"), f"train.stop_after={stop}")
    shutil.move(tmp_path / "first", tmp_path / "moved")
    gone("parent", "tasks", "text.txt")
    assert resume(kind, str(tmp_path / "moved")) == 4
    assert model_files(str(tmp_path / "moved")) == model_files(f"stayed-{kind}")
    summary = summarize_run(tmp_path / "moved")
    assert summary.state == "finished" and summary.depends_on == []
    assert (tmp_path / "moved" / "base").exists() is (kind == "lora")
    if kind in ("full", "lora", "averaged"):
        before = json.loads(Path(f"stayed-{kind}/evaluation.json").read_text())
        after = json.loads((tmp_path / "moved/evaluation.json").read_text())
        assert after["test"] == before["test"] and after["forgetting"] is None and before["forgetting"]


def test_it_is_used_without_its_parent(tmp_path: Path, gone: Callable[..., None]) -> None:
    for kind in ("lora", "full"):
        start(kind, str(tmp_path / "first"))
        shutil.move(tmp_path / "first", tmp_path / kind)
    gone("parent", "tasks")
    (tmp_path / "new.tsv").write_text("text\na day\n")
    for kind in ("lora", "full"):
        (row,) = predict(tmp_path / kind, tmp_path / "new.tsv")
        assert row.values["label"] in ("Good", "Bad")
        export(tmp_path / kind, "hf", tmp_path / f"{kind}-hf")
        assert evaluate(tmp_path / kind, [str(Path("text.txt"))]).texts


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_hold_their_base_as_links(tmp_path: Path, gone: Callable[..., None]) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    start("lora", str(tmp_path / "first"), "train.stop_after=1")
    base, parent = tmp_path / "first" / "base", sorted(Path("parent/checkpoints").iterdir())[-1]
    assert (base / "model.safetensors").samefile(parent / "model.safetensors")
    assert _named_base(tmp_path / "first" / "checkpoints/step-00000001") == "base"
    run = tmp_path / "moved"
    shutil.move(tmp_path / "first", run)
    gone("parent", "tasks")
    resume("lora", str(run))
    checkpoint = run / "checkpoints/step-00000004"
    assert _named_base(checkpoint) == "base"
    loaded = AutoModelForSequenceClassification.from_pretrained(run / "base", num_labels=2)
    model = peft.PeftModel.from_pretrained(loaded, str(checkpoint / "adapter")).eval().merge_and_unload()
    lm, ids = LM.load_fp32(checkpoint), torch.arange(5)[None]
    with torch.no_grad():
        theirs, ours = model.base_model(ids)[0], lm.model.hidden(ids)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def _named_base(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / "adapter/adapter_config.json").read_text())["base_model_name_or_path"])


def test_a_base_that_is_not_kept_is_named(tmp_path: Path, gone: Callable[..., None]) -> None:
    run = tmp_path / "run"
    start("lora", str(run), "finetune.keep_base=false", "train.stop_after=1")
    assert not (run / "base").exists()
    (needed,) = outside_inputs(RunDirectory(run))
    assert needed.path == str(Path("parent").absolute()) and needed.hash and not needed.is_missing
    assert "depends on" in (run / "report.html").read_text()
    gone("parent")
    assert summarize_run(run).to_json()["depends_on"][0]["missing"]
    with pytest.raises(UsageError, match="model that the run started from is not there .*new place.* run.init_from="):
        resume("lora", str(run))
    assert resume("lora", str(run), "run.init_from=parent-away") == 4


def test_a_replayed_text_is_named_and_checked(tmp_path: Path, gone: Callable[..., None]) -> None:
    run = tmp_path / "run"
    start("replay", str(run), "train.stop_after=1")
    (needed,) = outside_inputs(RunDirectory(run))
    assert needed.path == str(Path("parent/data").absolute()) and needed.hash
    gone("parent")
    with pytest.raises(UsageError, match=r"which the run replays, is not there.*run.init_from=RUN"):
        resume("replay", str(run))
    assert resume("replay", str(run), "run.init_from=parent-away") == 4


@pytest.mark.parametrize("kind", ["full", "on"])
def test_a_run_that_was_killed_before_its_first_checkpoint(
    kind: str, tmp_path: Path, gone: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("firstlight.train.periodic.evaluate", die)
        patch.setattr("firstlight.train.periodic.save", die)
        with pytest.raises(SystemExit):
            start(kind, str(tmp_path / "first"))
    shutil.move(tmp_path / "first", tmp_path / "moved")
    assert not list((tmp_path / "moved").glob("checkpoints/step-*")) and (tmp_path / "moved/base").is_dir()
    if not Path(f"stayed-{kind}").exists():
        start(kind, f"stayed-{kind}")
    gone("parent", "tasks", "text.txt")
    assert resume(kind, str(tmp_path / "moved")) == 4
    assert model_files(str(tmp_path / "moved")) == model_files(f"stayed-{kind}")


def test_other_tables_in_the_old_place_are_refused(tmp_path: Path, gone: Callable[..., None]) -> None:
    start("full", str(tmp_path / "run"), "train.stop_after=1")
    gone("tasks")
    shutil.copytree("tasks-away", "tasks")
    with Path("tasks/t.tsv").open("a") as file:
        file.write("more\tbad\n")
    with pytest.raises(CompatibilityError, match="files of the task t were changed since the run began"):
        resume("full", str(tmp_path / "run"))
    Path("tasks/t.tsv").unlink()
    events: list[progress.Event] = []
    with progress.listen(events.append):
        assert resume("full", str(tmp_path / "run")) == 4
    assert any("are not there; the run has its rows" in event.text for event in events)


def test_damaged_rows_are_encoded_again_or_refused(tmp_path: Path, gone: Callable[..., None]) -> None:
    run = tmp_path / "run"
    start("full", str(run), "train.stop_after=1")
    rows = run / "rows" / "t.safetensors"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    shutil.copytree(run, tmp_path / "other")
    assert resume("full", str(run)) == 4
    assert rows.read_bytes() != bytes(data)
    gone("tasks")
    with pytest.raises(
        CheckpointError, match=r"differ from the manifest.*files of the tasks are not there.*--data FOLDER"
    ):
        resume("full", str(tmp_path / "other"))


def test_it_is_repeated_from_its_settings_with_inputs_in_new_places(tmp_path: Path, gone: Callable[..., None]) -> None:
    start("full", str(tmp_path / "run"), "train.stop_after=1")
    again = ["train.stop_after=0", "train.steps=1"]
    gone("parent")
    with pytest.raises(UsageError, match=r"no such run or model.*as run\.init_from=MODEL"):
        finetune(tmp_path / "run" / "run.toml", out=tmp_path / "again", overrides=again)
    again += ["run.init_from=parent-away"]
    gone("tasks")
    with pytest.raises(UsageError, match=r"tasks/t\.toml.*run\.tasks"):
        finetune(tmp_path / "run" / "run.toml", out=tmp_path / "again", overrides=again)
    again += ['run.tasks=["tasks-away/t.toml"]']
    assert finetune(tmp_path / "run" / "run.toml", out=tmp_path / "again", overrides=again).step == 1


def test_a_copy_takes_the_place_of_links_on_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    start("lora", str(tmp_path / "run"), "train.stop_after=1")
    kept, parent = tmp_path / "run" / "base", sorted(Path("parent/checkpoints").iterdir())[-1]
    assert (kept / "model.safetensors").read_bytes() == (parent / "model.safetensors").read_bytes()
    assert not (kept / "model.safetensors").samefile(parent / "model.safetensors")


def test_a_random_head_is_never_the_best(tmp_path: Path, gone: Callable[..., None]) -> None:
    nothing = ["optim.lr=1e-12", "optim.schedule.warmup_ratio=0"]  # no evaluation is better than that at step 0
    start("full", str(tmp_path / "first"), "train.stop_after=1", *nothing)
    assert not (tmp_path / "first" / "best").exists(), "predict takes the latest"
    resume("full", str(tmp_path / "first"))
    assert (tmp_path / "first" / "best").read_text() == "step-00000003\n", "the first evaluation"
    finetune(tmp_path / "first", restart=True)
    assert (tmp_path / "first" / "best").read_text() == "step-00000003\n", "the first evaluation"
    overrides = [*TUNE, *STEPS, *nothing]  # its head is trained
    finetune(str(tmp_path / "first"), ["tasks/t.toml"], out=tmp_path / "second", overrides=overrides)
    assert (tmp_path / "second" / "best").read_text() == "step-00000000\n"


def test_a_run_on_a_fine_tuned_model_keeps_its_rate(tmp_path: Path, gone: Callable[..., None]) -> None:
    finetune("parent", ["tasks/t.toml"], out=tmp_path / "one", overrides=[*TUNE, "train.steps=1"])
    finetune(str(tmp_path / "one"), ["tasks/c.toml"], out=tmp_path / "two", overrides=[*TUNE, "train.steps=1"])
    parent, one, two = (
        RunDirectory(p).read_settings()["optim"] for p in (Path("parent"), tmp_path / "one", tmp_path / "two")
    )
    assert two["lr"] == one["lr"] < parent["lr"], "as transfer compares a task alone and after another"


def test_adapters_hold_the_embeddings_of_new_tokens(tmp_path: Path, gone: Callable[..., None]) -> None:
    for tokens, name in (("new", "transformer.wte.weight"), ("eot", None)):
        start("lora", str(tmp_path / tokens), f"finetune.special_tokens={tokens}")
        folder = tmp_path / tokens / "checkpoints" / "step-00000004"
        adapters = load_file(folder / "adapter" / "adapter_model.safetensors")
        held = [key for key in adapters if "wte" in key]
        assert held == ([] if name is None else [f"base_model.model.{name}"])
        if name is not None:  # otherwise peft would give a base that it resizes random ones
            assert torch.equal(adapters[held[0]], load_file(folder / "model.safetensors")[name])
