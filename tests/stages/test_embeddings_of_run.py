"""Runs that begin from word vectors: what is kept, told, resumed bit for bit, refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from vector_run import SETTINGS, TEXT, make_vectors

from firstlight.config import read_toml
from firstlight.errors import CompatibilityError, FirstlightError, StoreError, TokenizerError, UsageError
from firstlight.lm import LM
from firstlight.runs import RunDirectory
from firstlight.stages.pretrain import dry_run, pretrain
from firstlight.stages.verify_resume import verify_resume


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    make_vectors(Path("v.txt"), 6)
    make_vectors(Path("wide.bin"), 16)


def train(out: str, *words: str, vectors: str = "v.txt", **options):
    return pretrain(["text.txt"], out=out, overrides=[*SETTINGS, f"model.embeddings={vectors}", *words], **options)


def weights(run: str, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def factors(run: str, step: int = 6) -> dict[str, torch.Tensor]:
    held = load_file(Path(run) / "checkpoints" / f"step-{step:08d}" / "trainer" / "optimizer.safetensors")
    return {name: tensor for name, tensor in held.items() if name.startswith("embed/")}


def embedding(run: str, step: int = 6) -> torch.Tensor:
    found = weights(run, step)
    return next(tensor for name, tensor in found.items() if name.endswith(("wte.weight", "embed_tokens.weight")))


@pytest.mark.parametrize(
    ("family", "frozen"),
    [
        ("gpt2", "3"),
        ("modern", "'all'"),
        *(pytest.param("gpt2", frozen, marks=pytest.mark.slow) for frozen in ("0", "'all'")),
        *(pytest.param("modern", frozen, marks=pytest.mark.slow) for frozen in ("0", "3")),
    ],
)
def test_stop_and_resume_equals_no_stop_with_factors(family: str, frozen: str, tmp_path: Path) -> None:
    words = [f"model.family={family}", f"model.embeddings_frozen_steps={frozen}"]
    train("run", *words)
    proof = verify_resume("run/run.toml", steps=6, stop_at=2)
    assert proof.equal, proof.difference
    held = factors("run")
    assert {name: tuple(t.shape)[1] for name, t in held.items()} == {"embed/vectors": 6, "embed/projection": 6}
    torch.testing.assert_close(embedding("run"), held["embed/vectors"] @ held["embed/projection"].T)


def test_averaged_factors_are_saved_as_a_model(tmp_path: Path) -> None:
    train("run", "train.ema_decay=0.5", "model.family=gpt2")
    assert LM.load_fp32("run/average").config.n_embd == 16
    assert verify_resume("run/run.toml", steps=4, stop_at=2).equal


def test_a_checkpoint_is_an_ordinary_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    train("run", "model.family=gpt2")
    folder = Path("run/checkpoints/step-00000006")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = LM.load_fp32("run")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.model(ids), rtol=1e-4, atol=1e-4)
    assert "| embeddings | v.txt |" in (folder / "README.md").read_text()


def test_frozen_vectors_do_not_move_until_they_may() -> None:
    # Of the same width: the embeddings themselves, untied.
    always = ["model.family=modern", "train.checkpoint_every=2", "train.keep_last=9"]
    train("frozen", *always, "model.embeddings_frozen_steps='all'", vectors="wide.bin")
    train("some", *always, "model.embeddings_frozen_steps=2", vectors="wide.bin")
    train("free", *always, vectors="wide.bin")
    assert torch.equal(embedding("frozen", 2), embedding("frozen", 6))
    assert torch.equal(embedding("some", 2), embedding("frozen", 2))
    assert not torch.equal(embedding("some", 4), embedding("some", 2))
    assert not torch.equal(embedding("free", 2), embedding("frozen", 2))
    assert torch.equal(weights("frozen", 2)["lm_head.weight"], weights("some", 2)["lm_head.weight"])


def test_what_is_covered_is_told_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("firstlight.progress.notice", lambda text, level="info": said.append(text))
    run = train("run", "tokenizer.kind=word", "tokenizer.vocab_source=vectors").run
    table = json.loads((run / "embeddings" / "coverage.json").read_text(encoding="utf-8"))
    assert table["types"] == {"exact": 6, "lower": 1, "pieces": 0, "none": 1}
    assert table["missing"][0][0] == "<unk>"
    assert any("of the corpus's" in line and "'bird'" in line for line in said)
    assert any("of the training text" in line for line in said)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "embeddings initialised from" in page
    assert "training tokens covered" in page
    assert read_toml(run / "run.toml")["tokenizer"]["vocab_source"] == "vectors"
    assert json.loads((run / "contract.json").read_text())["embeddings"]


def test_bpe_tokens_without_a_form_have_pieces() -> None:
    run = train("run", "tokenizer.kind=bpe", "tokenizer.vocab_size=280").run
    table = json.loads((run / "embeddings" / "coverage.json").read_text(encoding="utf-8"))
    assert table["types"]["exact"] > 0
    assert sum(table["types"].values()) < 280


def test_a_resume_needs_no_vectors_and_cannot_change_them() -> None:
    train("run", "train.stop_after=2")
    Path("v.txt").unlink()
    assert pretrain(["run"], resume=True, overrides=["train.stop_after=0"]).finished
    for word in ("model.embeddings=wide.bin", "model.embeddings=random", "model.embeddings_frozen_steps=1"):
        with pytest.raises(CompatibilityError, match="cannot change"):
            pretrain(["run"], resume=True, overrides=[word])


def test_what_the_run_keeps_is_checked() -> None:
    train("run", "train.stop_after=2")
    train("other", "train.stop_after=2", "run.seed=5", vectors="wide.bin")
    file = Path("run/embeddings/start.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="its checksum differs"):
        pretrain(["run"], resume=True)
    shutil.rmtree("run/embeddings")
    shutil.copytree("other/embeddings", "run/embeddings")
    with pytest.raises(CompatibilityError, match="trained with other word vectors"):
        pretrain(["run"], resume=True)


def test_a_run_that_was_cut_off_before_its_settings_were_written_starts_again() -> None:
    train("whole")
    shutil.copytree("whole/embeddings", "run/embeddings")
    shutil.copytree("whole/tokenizer", "run/tokenizer")
    (Path("run") / ".lock").touch()
    RunDirectory(Path("run")).write_mark("pretrain")
    train("run", resume=True)
    assert torch.equal(embedding("run"), embedding("whole"))


def test_run_files_of_before_are_still_valid() -> None:
    pretrain(["text.txt"], out="old", overrides=[*SETTINGS, "train.stop_after=2"])
    toml = Path("old/run.toml")
    lines = [line for line in toml.read_text().splitlines() if not line.startswith(("embeddings", "vocab_source"))]
    toml.write_text("\n".join(lines) + "\n")
    assert pretrain(["old"], resume=True, overrides=["train.stop_after=0"]).finished


def test_a_dry_run_counts_as_the_run_would_and_writes_nothing() -> None:
    plan = dry_run(["text.txt"], overrides=[*SETTINGS, "model.embeddings=v.txt"])
    assert plan.parameters > 0
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["model.embeddings=none.txt"], UsageError, "model.embeddings: no such file (found none.txt)"),
        (["model.embeddings=text.txt"], TokenizerError, "text.txt:1: is not a file of word vectors"),
        (["model.embeddings=chinese.txt"], TokenizerError, "a vector for no token"),
        (
            ["tokenizer.kind=word", "tokenizer.vocab_source=vectors"],
            UsageError,
            "no word vectors to take the vocabulary from",
        ),
        (["tokenizer.kind=word", "tokenizer.vocab_source=none.txt"], UsageError, "no such file (found none.txt)"),
    ],
)
def test_what_cannot_be_begun_from(words: list[str], error: type[FirstlightError], says: str) -> None:
    Path("chinese.txt").write_text("猫 1 2 3\n", encoding="utf-8")
    with pytest.raises(error) as caught:
        pretrain(["text.txt"], out="run", overrides=[*SETTINGS, *words])
    assert says in caught.value.message


def test_a_model_to_start_from_has_embeddings_of_its_own() -> None:
    train("run")
    with pytest.raises(UsageError, match="uses that model's embeddings"):
        train("next", init_from="run")
    again = pretrain(
        ["text.txt"], out="next", init_from="run", overrides=[w for w in SETTINGS if not w.startswith("tokenizer.")]
    )
    assert again.finished
