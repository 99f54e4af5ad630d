"""Exports of fine-tuned models: heads are kept, left out on demand, or the export is refused; never lost unsaid."""

import json
from pathlib import Path

import pytest
import torch
from reference_files import import_lm, logits
from tiny_lm import lm

from firstlight import progress
from firstlight.convert import EXPORTERS, Exporter, get_exporter
from firstlight.errors import UsageError
from firstlight.files.run_layout import TASKS
from firstlight.lm import LM
from firstlight.model import HEADS_FILE
from firstlight.stages.convert import export, import_

SUFFIX = {"keras": ".keras", "pt2": ".pt2", "gguf": ".gguf"}


def with_heads(*names: str) -> LM:
    made = lm("gpt2", "byte", n_layer=1, n_head=2, n_embd=16)
    for name in names:
        made.model.add_head(name, 3)
        torch.nn.init.normal_(made.model.heads[name].weight)
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a fine-tuning run with two heads."""
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    with_heads("mood", "topic").save(folder)
    (folder / TASKS).write_text("[]")
    return folder


@pytest.mark.parametrize("name", sorted(EXPORTERS.keys() - {"hf"}))
def test_formats_without_a_place_for_heads_refuse_them(tmp_path: Path, name: str) -> None:
    out = tmp_path / f"out{SUFFIX.get(name, '')}"
    with pytest.raises(UsageError, match="lose the heads of the tasks mood, topic.* Add --without-head"):
        get_exporter(name).export(with_heads("mood", "topic"), out)
    with pytest.raises(UsageError, match="lose the head of the task mood"):
        get_exporter(name).export(with_heads("mood"), out)
    assert not out.exists()


def test_formats_of_other_packages_refuse_heads_unless_they_say_that_they_hold_them(tmp_path: Path) -> None:
    written = []
    exporter = Exporter(title="Mine", write=lambda lm, path, dtype: written.append(lm) or {}, is_folder=True)
    with pytest.raises(UsageError, match="an export to Mine would lose"):
        exporter.export(with_heads("mood"), tmp_path / "a")
    exporter.export(with_heads("mood"), tmp_path / "b", without_head=True)
    assert not written[0].model.heads


@pytest.mark.parametrize("name", ["gguf", "megatron", "hf"])
def test_the_language_model_alone(saved: Path, tmp_path: Path, name: str) -> None:
    said: list[progress.Event] = []
    with progress.listen(said.append):
        export(saved, name, tmp_path / f"out{SUFFIX.get(name, '')}", without_head=True)
    found = import_lm(tmp_path / f"out{SUFFIX.get(name, '')}")
    assert any("without the heads of the tasks mood, topic" in event.text for event in said)
    assert not found.model.heads and torch.equal(logits(found), logits(LM.load_fp32(saved)))


def test_a_model_without_heads_has_none_to_leave_out(tmp_path: Path) -> None:
    lm("gpt2", "byte").save(tmp_path / "model")
    with pytest.raises(UsageError, match="--without-head: the model has no head"):
        export(tmp_path / "model", "hf", tmp_path / "out", without_head=True)


def test_hugging_face_directories_keep_heads_and_tasks(saved: Path, tmp_path: Path) -> None:
    (saved / "trainer").mkdir()
    export(saved, "hf", tmp_path / "out")
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {p.name for p in saved.iterdir() if p.is_file()} and {HEADS_FILE, TASKS} <= written
    held, found = LM.load_fp32(saved).model.state_dict(), LM.load_fp32(tmp_path / "out").model.state_dict()
    assert held.keys() == found.keys() and all(torch.equal(held[key], found[key]) for key in held)


def test_a_head_of_another_program_that_is_not_read_is_not_lost_unsaid(tmp_path: Path) -> None:
    lm("gpt2", "byte").save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    table = json.loads(config.read_text())
    config.write_text(json.dumps({**table, "architectures": ["GPT2ForSequenceClassification"]}))
    for name in ("hf", "gguf"):
        with pytest.raises(UsageError, match="lose the head of a GPT2ForSequenceClassification"):
            export(tmp_path / "model", name, tmp_path / f"out{SUFFIX.get(name, '')}")
    export(tmp_path / "model", "hf", tmp_path / "out", without_head=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == table["architectures"]


def test_a_fine_tuned_model_is_not_imported(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fine-tuned, whose tasks an import would lose.*--to hf"):
        import_(str(saved), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
