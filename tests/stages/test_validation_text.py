"""The same documents are split alike however they are named; a validation text of its own is kept apart."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import firstlight
from firstlight import progress
from firstlight.cli.app import run as command
from firstlight.config import read_toml
from firstlight.errors import CorpusError, FirstlightError, UsageError
from firstlight.stages import data
from firstlight.store import TokenStore

BYTES = ["tokenizer.kind=byte"]
RUN = [
    *BYTES,
    "model.n_layer=1",
    "model.n_head=1",
    "model.n_embd=8",
    "model.block_size=8",
    "train.batch_tokens=16",
    "train.steps=2",
    "train.trackers=[]",
    "train.sample_tokens=1",
    "hardware.threads=1",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, n in (("novels", 26), ("few", 3)):
        Path(folder).mkdir()
        for i in range(n):
            words = random.Random(f"{folder}{i}").choices(["one", "two", "three", "four"], k=40)
            Path(f"{folder}/{i:02}.txt").write_text(" ".join(words), encoding="utf-8")
    Path("val").mkdir()
    for name in "abc":
        Path(f"val/{name}.txt").write_text(f"validation text {name}", encoding="utf-8")


def store(*corpus: str, out: str, valid: tuple[str, ...] = (), overrides: tuple[str, ...] = ()) -> dict[str, object]:
    data.prepare(corpus, out=out, valid=valid, overrides=[*BYTES, *overrides])
    opened = TokenStore.open(Path(out))
    found = {side: Path(out, f"{side}.bin").read_bytes() for side in ("train", "valid")}
    return {**found, "fingerprint": opened.fingerprint}


@pytest.mark.parametrize("folder", ["novels", "few"])
def test_the_split_does_not_depend_on_how_the_corpus_is_named(folder: str, tmp_path: Path) -> None:
    Path("link").symlink_to(folder)
    files = sorted(map(str, Path(folder).iterdir()))
    spellings = [
        [f"{folder}/"],
        [f"./{folder}/../{folder}"],
        [str(tmp_path / folder)],
        ["link"],
        [f"{folder}/*.txt"],
        [f"{folder}/**"],
        files,
        files[::-1],
        [*files, folder, files[1]],
        [files[2], folder],
        [str(tmp_path / files[0]), *(f"./{name}" for name in files[1:])],
        [f"link/{Path(name).name}" for name in files],
    ]
    first = store(folder, out="first")
    for number, names in enumerate(spellings):
        assert store(*names, out=f"s{number}") == first, names
    # So is the tokenizer, also one that is trained on a sample.
    sample = ["tokenizer.kind=bpe", "tokenizer.vocab_size=265", "tokenizer.sample_bytes=2000"]
    for number, names in enumerate(([folder], files[::-1])):
        data.prepare(names, out=f"bpe{number}", overrides=sample)
    assert Path("bpe0/tokenizer/tokenizer.json").read_bytes() == Path("bpe1/tokenizer/tokenizer.json").read_bytes()


def test_duplicates_count_once_and_are_said() -> None:
    said: list[str] = []
    Path("hard.txt").hardlink_to("novels/03.txt")
    with progress.listen(lambda event: said.append(event.text)):
        store("novels", "novels/03.txt", "hard.txt", out="a")
    assert any("2 files have several names, and count once" in text for text in said)
    assert store("novels", out="b")["train"] == Path("a/train.bin").read_bytes()


def test_weighted_sources_share_no_file() -> None:
    for names in (["novels", "novels/03.txt"], ["val/a.txt", "./val/a.txt"]):
        with pytest.raises(UsageError, match=r"data\.weights: one file has two weights .*of .*Name each file once"):
            data.prepare(names, out="s", overrides=[*BYTES, "data.weights=[1, 1]"])
    data.prepare(["novels", "few"], out="s", overrides=[*BYTES, "data.weights=[1, 3]"])
    assert TokenStore.open(Path("s")).source_names() == ["novels", "few"]


def test_validation_text_of_other_files() -> None:
    store("novels", out="s", valid=("val",))
    opened = TokenStore.open(Path("s"))
    assert (opened.train.n_documents, opened.valid.n_documents) == (26, 3)
    assert opened.source_names("valid_sources") == ["val"]
    assert data.inspect("s").valid_sources == ["val"]
    # It is the same for corpora of all sizes and seeds.
    other = store(
        "few", out="t", valid=("val/c.txt", "val/a.txt", "val/b.txt"), overrides=("corpus.max_bytes=50", "data.seed=5")
    )
    assert other["valid"] == Path("s/valid.bin").read_bytes()


@pytest.mark.parametrize(
    ("corpus", "valid", "error", "says"),
    [
        (
            "novels",
            "novels/03.txt",
            UsageError,
            r"corpus\.valid: one file is in the corpus and .*novels/03.txt \(of novels\)",
        ),
        ("novels", "novels", UsageError, "one file is in the corpus and in the validation text"),
        ("novels", "linked.txt", UsageError, "linked.txt"),
        (
            "novels",
            "copy.txt",
            CorpusError,
            r"novels/04.txt: is in the training and .*copy.txt holds the same document",
        ),
        ("python-docs", "python-docs", UsageError, "one file is in the corpus"),
        ("novels", "ids.bin", UsageError, r"corpus\.valid: is ids, but the corpus is text"),
        ("novels", "nothing.txt", UsageError, "no such file"),
    ],
)
def test_what_cannot_be_held_out(corpus: str, valid: str, error: type[FirstlightError], says: str) -> None:
    Path("linked.txt").symlink_to("novels/05.txt")
    shutil.copy("novels/04.txt", "copy.txt")
    Path("ids.bin").write_bytes(bytes(100))
    with pytest.raises(error, match=says):
        store(corpus, out="s", valid=(valid,))


def test_documents_of_the_validation_text_can_be_dropped_from_training() -> None:
    rows = [json.dumps({"text": f"row {i}"}) for i in range(50)]
    Path("rows.jsonl").write_text("\n".join(rows))
    Path("val.jsonl").write_text("\n".join(rows[7:10]))
    with pytest.raises(CorpusError, match=r"rows.jsonl:8: is in the training .*val.jsonl:1 holds the same"):
        store("rows.jsonl", out="s", valid=("val.jsonl",))
    store("rows.jsonl", out="s", valid=("val.jsonl",), overrides=("corpus.dedup=exact",))
    opened = TokenStore.open(Path("s"))
    assert opened.train.n_documents == 47
    assert opened.manifest["sources"][0]["dropped"] == {"in the validation text too": 3}


def test_a_split_setting_has_no_effect_with_a_validation_text() -> None:
    with pytest.raises(UsageError, match=r"data\.valid_ratio: applies to validation text that is a part"):
        store("novels", out="s", valid=("val",), overrides=("data.valid_ratio=0.2",))
    with pytest.raises(UsageError, match="named twice"):
        store("novels", out="s", valid=("val",), overrides=("corpus.valid=val",))


def test_a_run_with_a_validation_text_is_resumed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_as_it_was: None
) -> None:
    firstlight.pretrain("novels", valid="val", out="run", overrides=RUN)
    settings = read_toml(Path("run/run.toml"))
    assert settings["corpus"]["valid"] == [str(tmp_path / "val")] and "valid_ratio" not in settings["data"]
    said: list[str] = []
    monkeypatch.chdir("/")
    with progress.listen(lambda event: said.append(event.text)):
        firstlight.pretrain(tmp_path / "run", resume=True, overrides=["train.steps=3"])
        firstlight.pretrain(tmp_path / "run/run.toml", out=tmp_path / "again", overrides=["train.steps=3"])
    assert sum("validation text: " in text for text in said) == 2
    first, again = (TokenStore.open(tmp_path / name / "data") for name in ("run", "again"))
    assert first.fingerprint == again.fingerprint
    assert "corpus.valid" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    with pytest.raises(FirstlightError):
        firstlight.pretrain(tmp_path / "novels", valid=tmp_path / "few", out=tmp_path / "run", resume=True)


def test_the_shell_expands_a_pattern_after_the_option() -> None:
    words = "data prepare novels --valid val/*.txt --out s tokenizer.kind=byte --json"
    done = subprocess.run(f"{sys.executable} -m firstlight {words}", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert TokenStore.open(Path("s")).source_names("valid_sources") == ["val/a.txt, val/b.txt, val/c.txt"]


@pytest.mark.parametrize("words", [["pretrain"], ["data", "prepare"]])
def test_a_corpus_after_the_option_is_not_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command([*words, "--valid", "val/a.txt", "novels", "--out", "s"]) == 2
    assert "--valid: no corpus before it (found val/a.txt novels)" in capsys.readouterr().err
