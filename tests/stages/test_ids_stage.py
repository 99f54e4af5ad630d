"""Integer sequences on the whole road: trained, resumed, evaluated, written on, without a tokenizer."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from small_sequences import SMALL, write_ids

import firstlight
from firstlight.cli.app import run as command
from firstlight.errors import CompatibilityError, CorpusError, UsageError
from firstlight.stages import data
from firstlight.stages.generate import generate_ids
from firstlight.stages.verify_resume import verify_resume
from firstlight.store import TokenStore
from firstlight.tokenizer import IdCodec

IDS = [*SMALL, "train.sample_tokens=5", "model.block_size=16", "ids.vocab_size=12"]


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    walk = write_ids(folder / "walk.npy")
    firstlight.pretrain([str(walk)], out=folder / "run", overrides=IDS)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_has_ids_and_no_tokenizer(made: Path):
    run = made / "run"
    assert [p.name for p in (run / "tokenizer").iterdir()] == ["ids.json"]
    checkpoint = run / "checkpoints" / (run / "latest").read_text(encoding="utf-8").strip()
    assert {p.name for p in checkpoint.iterdir()} >= {"ids.json", "config.json", "model.safetensors"}
    assert not list(checkpoint.glob("tokenizer*"))
    assert read(checkpoint / "config.json")["eos_token_id"] == 12
    assert "AutoTokenizer" not in (checkpoint / "README.md").read_text(encoding="utf-8")
    store = TokenStore.open(run / "data", tokenizer_hash=IdCodec(12).hash)
    assert (store.vocab_size, store.eot_id, store.sequence_length) == (13, 12, None)


def test_figures_are_of_tokens_and_never_of_bytes(made: Path):
    evaluation = read(made / "run" / "evaluation.json")
    for table in (evaluation["valid"], *evaluation["baselines"].values()):
        assert table["bits_per_token"] == pytest.approx(table["loss"] / math.log(2))
        assert not any("byte" in key for key in table)
    assert evaluation["baselines"]["uniform"]["loss"] == pytest.approx(math.log(13))
    lines = [json.loads(x) for x in (made / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if "valid_loss" in line]
    assert measured
    assert all("bits_per_token" in line and "bits_per_byte" not in line for line in measured)
    state = read(made / "run" / "state.json")
    assert state["result"]["bits_per_token"] == evaluation["valid"]["bits_per_token"]
    samples = [json.loads(x) for x in (made / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == 2
    assert all(set(s["text"].split()) <= {str(i) for i in range(12)} for s in samples)
    page = (made / "run" / "report.html").read_text(encoding="utf-8")
    assert "bits per token" in page
    assert "bits per byte" not in page
    assert "tokenizer.json</code>" not in page


def test_stop_and_resume_changes_nothing(made: Path):
    assert verify_resume(made / "run" / "run.toml", steps=5, stop_at=2).equal
    again = firstlight.pretrain([str(made / "walk.npy")], out=made / "run", resume=True, overrides=IDS)
    assert (again.finished, again.step, again.bits_per_byte) == (True, 6, None)
    assert again.bits_per_token is not None


def test_it_writes_ids_on(made: Path, capsys: pytest.CaptureFixture[str]):
    samples = generate_ids(made / "run", "1, 2 3", max_new_tokens=7, num_samples=2, seed=3)
    assert [s.prompt for s in samples] == [[1, 2, 3]] * 2
    assert all(0 < len(s.ids) <= 7 and max(s.ids) < 12 for s in samples)
    assert generate_ids(made / "run", [1, 2, 3], max_new_tokens=7, num_samples=2, seed=3) == samples
    words = ["generate", str(made / "run"), "--ids", "1 2 3", "--max-new-tokens", "7", "--seed", "3"]
    assert command(words) == 0
    assert capsys.readouterr().out.split() == [*map(str, [1, 2, 3, *samples[0].ids])]
    assert command([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"][0]["ids"] == samples[0].ids
    for bad in ("1 12", "1 -2", "x", "²"):
        with pytest.raises(UsageError, match="not one of the model's ids .*0 to 11"):
            generate_ids(made / "run", bad)
    assert command(["generate", str(made / "run"), "text"]) == 2
    assert command(["generate", str(made / "run"), "--image", "a.png"]) == 2
    capsys.readouterr()


def test_other_ids_are_evaluated(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = str(made / "run")
    own = firstlight.evaluate(run).texts[0]
    assert own.model.loss == pytest.approx(read(made / "run" / "evaluation.json")["valid"]["loss"], rel=1e-5)
    assert (own.unit, own.model.bits_per_byte) == ("token", None)
    rows = np.arange(60).reshape(5, 12) % 12
    np.save(tmp_path / "rows.npy", rows)
    assert command(["evaluate", run, "--text", str(tmp_path / "rows.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["texts"][0]
    assert (found["n_tokens"], found["unit"]) == (65, "token")
    assert set(found["model"]) == {"loss", "perplexity", "bits_per_token"}
    assert command(["evaluate", run]) == 0
    assert "bits/token" in capsys.readouterr().out
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UsageError, match="the model was trained on ids .found text"):
        firstlight.evaluate(run, [str(tmp_path / "a.txt")])
    np.save(tmp_path / "high.npy", np.array([1, 12]))
    with pytest.raises(CorpusError, match="high.npy: index 1: has an id outside the vocabulary"):
        firstlight.evaluate(run, [str(tmp_path / "high.npy")])


def test_a_store_made_before_trains_too(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = tmp_path / "store"
    prepared = data.prepare([str(made / "walk.npy")], out=store, overrides=["ids.vocab_size=12"])
    assert (prepared.vocab_size, prepared.documents, prepared.tally.documents) == (13, 2, 1)
    assert data.prepare([str(made / "walk.npy")], out=store, overrides=["ids.vocab_size=12"]).train_tokens
    with pytest.raises(CompatibilityError, match="another tokenizer"):
        data.prepare([str(made / "walk.npy")], out=store, overrides=["ids.vocab_size=20"])
    assert data.verify(store).problems == []
    found = data.inspect(store, n_tokens=3)
    assert (found.first_text, len(found.first_ids)) == (None, 3)
    assert data.stats(store)["top"][0]["token"] is None
    result = firstlight.pretrain([str(store)], out=tmp_path / "run", overrides=IDS)
    assert result.valid_loss == pytest.approx(read(made / "run" / "evaluation.json")["valid"]["loss"])
    again = firstlight.pretrain(
        [str(store)], out=tmp_path / "more", init_from=str(tmp_path / "run"), overrides=SMALL[3:]
    )
    assert again.valid_loss < result.valid_loss
    np.save(tmp_path / "other.npy", np.arange(3000) % 20)
    with pytest.raises(CompatibilityError, match="ids.vocab_size: differs from that of the model to start from"):
        firstlight.pretrain(
            [str(tmp_path / "other.npy")],
            out=tmp_path / "no",
            init_from=str(tmp_path / "run"),
            overrides=[*SMALL[3:], "ids.vocab_size=20"],
        )


def test_nanogpts_files_train(tmp_path: Path):
    (np.arange(3000) % 50).astype("<u2").tofile(tmp_path / "train.bin")
    overrides = [*SMALL, "model.block_size=16", "ids.vocab_size=50"]
    assert firstlight.pretrain([str(tmp_path / "train.bin")], out=tmp_path / "run", overrides=overrides).finished


def test_what_is_missing_is_said_before_anything_is_made(made: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="ids.vocab_size: is required"):
        firstlight.pretrain([str(made / "walk.npy")], out=tmp_path / "run", overrides=SMALL)
    assert not (tmp_path / "run").exists()
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UsageError, match="a corpus is text, ids or images"):
        firstlight.pretrain([str(made / "walk.npy"), str(tmp_path / "a.txt")], out=tmp_path / "run", overrides=IDS)


@pytest.mark.parametrize("word", ["image.size=8", "tokenizer.kind=char"])
def test_settings_of_another_kind_of_corpus_are_refused(tmp_path, word):
    np.save(tmp_path / "x.npy", np.arange(200) % 7)
    with pytest.raises(UsageError, match=rf"{word.partition('=')[0]}: applies to a corpus of .*this corpus is ids"):
        firstlight.pretrain([str(tmp_path / "x.npy")], out=tmp_path / "run", overrides=["ids.vocab_size=7", word])
    (tmp_path / "x.txt").write_text("a text " * 200)
    with pytest.raises(UsageError, match="ids.vocab_size: applies to a corpus of ids, but this corpus is text"):
        firstlight.pretrain([str(tmp_path / "x.txt")], out=tmp_path / "other", overrides=["ids.vocab_size=7"])


def test_ids_of_another_type_are_evaluated_as_advised(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (np.arange(600) % 12).astype("<u4").tofile(tmp_path / "wide.bin")
    arguments = ["evaluate", str(made / "run"), "--text", str(tmp_path / "wide.bin"), "--json"]
    assert command(arguments) == 1
    assert "Set ids.dtype=uint32" in capsys.readouterr().err
    assert command([*arguments, "ids.dtype=uint32"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"][0]["n_tokens"] == 601
