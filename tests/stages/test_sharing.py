"""What is shared with others: model cards that the hub reads, no path of this machine, pipelines without warnings."""

import ast
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from firstlight.lm import LM, CardInfo, read_card_info
from firstlight.report.recipes import recipes
from firstlight.report.run_files import read_run
from firstlight.stages.convert import export, import_
from firstlight.stages.finetune import finetune
from firstlight.stages.predict import predict
from firstlight.stages.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
QUIET = ["train.trackers=[]", "train.log_every=1", "hardware.threads=1", "hardware.device=cpu", "train.steps=2"]
SMALL = ["model.n_layer=1", "model.n_head=2", "model.n_embd=8", "model.block_size=32", "train.batch_tokens=64"]
SENTENCE = "It was the best of times, and the day was fine for all of us; that is what you said to the man with it. "
SLOW = ("on", "pairs", "scores", "words", "chat-lora", "mean-pairs", "mean-scores")
TASKS = {"lora": "classes", "chat-lora": "chat", "mean": "classes", "mean-pairs": "pairs", "mean-scores": "scores"}
RUNS = ["parent", "classes", "mean", "lora", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


class Home:
    """A folder with runs of every kind, made when they are asked for; its name must be in no file that is shared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                self._make(name)
        return path

    def _make(self, name: str) -> None:
        if name == "parent":
            pretrain(["my corpus.txt"], out="parent", overrides=["tokenizer.vocab_size=300", *SMALL, *QUIET])
            return
        parent = str(self / "parent")
        if name == "on":
            pretrain(["my corpus.txt"], out="on", init_from=parent, overrides=["train.batch_tokens=64", *QUIET])
            return
        task = TASKS.get(name, name)
        preset = "lora" if "lora" in name else "full"
        pool = ["finetune.pool=last"] if name in ("classes", "pairs", "scores") else []
        finetune(parent, [f"{task}.toml"], out=name, preset=preset, overrides=["finetune.batch_size=4", *pool, *QUIET])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("somebody-private")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("my corpus.txt").write_text(SENTENCE * 40)
        rows = "".join(f"{SENTENCE}\tthe film\t{label}\t{score}\n" for label, score in (("good", 4), ("no", 2)) * 8)
        Path("t.tsv").write_text("text\tother\tlabel\tscore\n" + rows)
        splits = f'train = "{folder / "t.tsv"}"\nvalid = "t.tsv"\ntest = "t.tsv"\n'
        for name, kind, columns in (
            ("classes", "classification", 'label = "label"'),
            ("pairs", "pair", 'text2 = "other"\nlabel = "label"'),
            ("scores", "regression", 'label = "score"'),
        ):
            table = f'kind = "{kind}"\n[data]\n{splits}[columns]\ntext = "text"\n{columns}\n'
            Path(f"{name}.toml").write_text(table)
        Path("words.jsonl").write_text((json.dumps({"w": ["the", "day"], "l": ["a", "b"]}) + "\n") * 12)
        Path("words.toml").write_text(
            'kind = "token_classification"\n[data]\ntrain = "words.jsonl"\n[columns]\ntokens = "w"\nlabel = "l"\n'
        )
        chat = {"messages": [{"role": "user", "content": "day"}, {"role": "assistant", "content": "film"}]}
        Path("chat.jsonl").write_text((json.dumps(chat) + "\n") * 12)
        Path("chat.toml").write_text('kind = "chat"\n[data]\ntrain = "chat.jsonl"\n')
    return Home(folder)


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "best").read_text().strip()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RUNS)
def test_no_file_that_is_shared_has_a_path_of_this_machine(name: str, home: Home, tmp_path: Path) -> None:
    export(home / name, "hf", tmp_path / "out")
    for folder in (*(home / name / "checkpoints").iterdir(), tmp_path / "out"):
        found = files_of(folder)
        assert [file for file, data in found.items() if b"somebody-private" in data or bytes(Path.home()) in data] == []
        assert {"README.md", "config.json", "model.safetensors"} <= found.keys()
    assert not (tmp_path / "out" / "trainer").exists()


@pytest.mark.parametrize("name", RUNS)
def test_the_hub_reads_the_model_card(name: str, home: Home, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    export(home / name, "hf", tmp_path / "out")
    adapters = [checkpoint(home / name) / "adapter"] if "lora" in name else []
    for folder in (checkpoint(home / name), tmp_path / "out", *adapters):
        data = hub.ModelCard.load(folder / "README.md").data
        assert data.license == "unknown"
        if "chat" not in name and name != "words":  # whose few words are of no certain language
            assert data.language == ["en"]
        assert "firstlight" in data.tags
        assert data.base_model is None
    card = hub.ModelCard.load(tmp_path / "out" / "README.md")
    tags = {"classes": "text-classification", "pairs": "text-classification", "scores": "text-classification"}
    tags |= {"lora": "text-classification", "words": "token-classification"}
    tags |= {name: "text-classification" for name in TASKS if "mean" in name}
    assert card.data.pipeline_tag == tags.get(name, "text-generation")
    is_ours = name == "words" or "mean" in name
    assert card.data.library_name == ("firstlight" if is_ours else "transformers")
    assert "| steps | " in card.text and "[optim]" not in card.text and "optim.lr = " in card.text
    if name in ("parent", "on"):
        for row in ("corpus | my corpus.txt", "training tokens | ", "validation loss | ", "bits per character | "):
            assert f"| {row}" in card.text
        assert "Generated during training" in card.text
        assert "started from | parent" in card.text or name == "parent"
    else:
        task = TASKS.get(name, name)
        results = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
        evaluation = json.loads((home / name / "evaluation.json").read_text())["tasks"][task]
        lines = map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines())
        at = int(checkpoint(home / name).name.rpartition("-")[2])
        losses = [line["task_loss"] for line in lines if line["step"] <= at and "task_loss" in line]
        if losses:  # of the task alone, as the validation loss is
            assert f"| training loss | {losses[-1]:.4f} |" in card.text
        assert results[task, "validation", evaluation["metric"]] == evaluation["value"]
        assert {r.task_type for r in card.data.eval_results} == {tags.get(name, "text-generation")}
    if TASKS.get(name, name) in ("classes", "pairs"):
        assert "| labels | good, no |" in card.text


@pytest.mark.parametrize("name", [name for name in RUNS if not re.search("words|mean", str(name))])
def test_pipelines_take_batches_without_a_warning(
    name: str, home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    export(home / name, "hf", tmp_path / "out")
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[0]
    task = re.search(r'pipeline\("([\w-]+)"', code)
    assert task is not None
    transformers.utils.logging.enable_propagation()
    texts = ["the day", "the film was fine, and"]
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        run = transformers.pipeline(task[1], model=str(tmp_path / "out"), device="cpu")
        if task[1] == "text-generation":
            found = run(texts, batch_size=2, max_new_tokens=5, do_sample=False)
            alone = [run(text, max_new_tokens=5, do_sample=False) for text in texts]
        else:
            rows = [{"text": text, "text_pair": "x"} for text in texts] if name == "pairs" else texts
            found, alone = run(rows, batch_size=2), [run([row])[0] for row in rows]
    transformers.utils.logging.disable_propagation()
    # The language model's own head, which a classifier does not have, is listed where it is loaded.
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "lm_head.weight | UNEXPECTED" not in text] == []
    if task[1] == "text-generation":
        assert found == alone
    else:
        assert [row["label"] for row in found] == [row["label"] for row in alone]
        assert [row["score"] for row in found] == pytest.approx([row["score"] for row in alone], abs=1e-5)


@pytest.mark.parametrize("name", ["mean", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW if "mean" in n)])
@pytest.mark.parametrize("place", ["card", "report"])
def test_a_head_that_reads_the_mean_is_applied_as_its_card_says(
    name: str, place: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With transformers it answers as predict does; a pipeline would draw a head at random, and says so."""
    transformers = pytest.importorskip("transformers")
    export(home / name, "hf", tmp_path / "out")
    if place == "card":
        monkeypatch.chdir(tmp_path / "out")
        code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[0]
    else:
        if name == "mean-pairs":
            pytest.skip("the example of a report is one text")
        monkeypatch.chdir(home / name)
        code = next(r.code for r in recipes(read_run(Path())) if r.heading == "Load with transformers")
    (texts,) = re.findall(r"tokenizer\((.*), padding", code)
    first = ast.literal_eval(f"[{texts}]")
    row = dict(zip(("text", "other"), first if name == "mean-pairs" else first[0], strict=False))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (ours,) = predict(home / name, tmp_path / "rows.jsonl", settings={"data": {"format": "jsonl"}})
    namespace: dict[str, Any] = {"print": lambda *_: None}
    exec(code, namespace)  # noqa: S102
    found = namespace["outputs"][0]
    if name == "mean-scores":
        low, high = 2, 4
        assert low + (high - low) * found.item() == pytest.approx(ours.values["score"], abs=1e-4)
    else:
        assert found.softmax(-1).tolist() == pytest.approx(list(ours.values["probabilities"].values()), abs=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "id2label" not in config and config["architectures"][0].endswith(("LMHeadModel", "ForCausalLM"))
    auto = transformers.AutoModelForSequenceClassification
    _, told = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert told["missing_keys"], "its own head, of the last token, is missing"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_code_of_a_card_runs(name: str, home: Home, tmp_path: Path) -> None:
    export(home / name, "hf", tmp_path / "out")
    adapters = [checkpoint(home / name) / "adapter"] if "lora" in name else []
    for folder in (tmp_path / "out", *adapters):
        code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
@pytest.mark.parametrize("name", ["lora", pytest.param("chat-lora", marks=pytest.mark.slow)])
def test_adapters_load_on_their_base(name: str, home: Home) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    import torch

    folder = checkpoint(home / name) / "adapter"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    auto = transformers.AutoModelForCausalLM if "chat" in name else transformers.AutoModelForSequenceClassification
    base = auto.from_pretrained(home / name / "base", **({} if "chat" in name else {"num_labels": 2}))
    model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    merged = auto.from_pretrained(checkpoint(home / name)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    for one in (model, merged):
        one.config.pad_token_id = None
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5, rtol=0)


def test_a_licence_that_somebody_set_is_kept(home: Home, tmp_path: Path) -> None:
    export(home / "parent", "hf", tmp_path / "a")
    card = tmp_path / "a" / "README.md"
    text = card.read_text().replace("license: unknown", "license: apache-2.0").replace("- en", "- en\n- 'no'")
    card.write_text(text)
    import_(str(tmp_path / "a"), out=tmp_path / "b")
    export(tmp_path / "b", "hf", tmp_path / "c")
    found = read_card_info(tmp_path / "c")
    assert (found.license, found.languages) == ("apache-2.0", ("en", "no"))
    assert "No licence is stated" not in (tmp_path / "c" / "README.md").read_text()


def test_the_card_of_a_checkpoint_may_be_edited(home: Home, tmp_path: Path) -> None:
    """It is neither damage to the checkpoint nor lost: the run is used, exported and resumed."""
    shutil.copytree(home / "parent", tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        card = folder / "README.md"
        card.write_text(card.read_text().replace("license: unknown", "license: cc-by-sa-4.0") + "\nMore.\n")
    export(tmp_path / "run", "hf", tmp_path / "out")
    assert read_card_info(tmp_path / "out").license == "cc-by-sa-4.0"
    pretrain([str(tmp_path / "run")], resume=True, overrides=["train.steps=3"])
    assert not list((tmp_path / "run" / "checkpoints").glob("damaged-*"))


def test_names_that_yaml_or_markdown_would_misread(tmp_path: Path, home: Home) -> None:
    hub = pytest.importorskip("huggingface_hub")
    name = 'no: "a" | `b` \x1b[31m # 新'
    info = CardInfo(name=name, languages=["no"], prompt="```", sample="a\n```\nb\x00", settings='a = "```"')
    LM.load_fp32(home / "parent").save(tmp_path, {"x | y": name}, info)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.language == ["no"]
    assert "\x1b" not in card.text and "\x00" not in card.text
    assert "````text\na\n```\nb" in card.text


def test_settings_that_changed_are_on_the_card(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(home / "parent", run)
    pretrain(out=run, resume=True, overrides=["train.steps=3", "optim.lr=0.003", 'train.sample_prompt="a secret"'])
    export(run, "hf", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"^optim\.lr = 0\.003  # changed from 0\.02 to 0\.003 at step 2$", text, re.MULTILINE)
    assert "secret" not in text.partition("## Settings")[2]
    loss = [
        row["valid_loss"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "valid_loss" in row
    ][-1]
    if checkpoint(run).name.endswith("3"):
        assert f"| validation loss | {loss:.4f} |" in text
