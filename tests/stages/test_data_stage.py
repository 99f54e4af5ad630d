"""Preparing, looking into and checking token stores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.errors import CompatibilityError, ConfigError, CorpusError, StorageError, TokenizerError, UsageError
from firstlight.files import verify_manifest
from firstlight.stages import data
from firstlight.stages import tokenizer as tokenizer_stage
from firstlight.store import TokenStore

ROWS = [f"document {n}: {' '.join(['word', 'other', 'third'][: n % 4])} end" for n in range(60)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in ROWS), encoding="utf-8")


def prepare(out: str = "store", *overrides: str, **options: str) -> data.PrepareResult:
    return data.prepare(["rows.jsonl"], out=out, overrides=["tokenizer.kind=byte", *overrides], **options)  # type: ignore[arg-type]


def test_a_store_holds_its_documents_and_its_tokenizer():
    made = prepare()
    assert (made.store, made.vocab_size, made.documents) == (Path("store"), 257, 60)
    assert made.train_tokens + made.valid_tokens == sum(len(row) + 1 for row in ROWS)
    assert (made.tally.seen, made.tally.documents, made.tally.dropped) == (60, 60, {})
    tokenizer = data.find_vocab(Path("store"))
    store = TokenStore.open(Path("store"), tokenizer_hash=tokenizer.hash if tokenizer else "")
    assert store.train.n_documents + store.valid.n_documents == 60
    assert verify_manifest(Path("store")) == []


def test_the_same_again_is_used_again_and_another_is_refused():
    first = prepare()
    index = Path("store/train.idx").stat().st_ino
    again = prepare()
    assert Path("store/train.idx").stat().st_ino == index
    assert (again.train_tokens, again.documents, again.tally.seen) == (first.train_tokens, 60, 0)
    for change in ("data.valid_ratio=0.3", "data.seed=4", "tokenizer.kind=char", "corpus.min_characters=20"):
        with pytest.raises(CompatibilityError, match="another --out"):
            prepare("store", change)
    assert prepare().train_tokens == first.train_tokens


def test_a_store_that_lost_its_tokenizer_gets_it_back():
    prepare()
    for file in Path("store/tokenizer").iterdir():
        file.unlink()
    prepare()
    assert data.inspect("store").first_text is not None


def test_a_tokenizer_made_before():
    tokenizer_stage.train(["rows.jsonl"], out="words", overrides=["tokenizer.kind=char"])
    made = data.prepare(["rows.jsonl"], out="store", tokenizer_path="words")
    assert made.vocab_size == tokenizer_stage.show("words").vocab_size
    assert tokenizer_stage.show("store").hash == tokenizer_stage.show("words").hash
    assert data.prepare(["rows.jsonl"], out="store", tokenizer_path="words").tally.seen == 0
    with pytest.raises(CompatibilityError, match="another tokenizer"):
        prepare()


def test_what_stands_in_the_way_is_not_replaced():
    Path("full/tokenizer").mkdir(parents=True)
    for path in ("full/tokenizer/mine.txt", "file"):
        Path(path).write_text("precious", encoding="utf-8")
    for out in ("full", "file"):
        with pytest.raises(UsageError, match="another --out"):
            prepare(out)
    with pytest.raises(StorageError, match="a file exists"):
        prepare("file/below")
    assert Path("full/tokenizer/mine.txt").read_text(encoding="utf-8") == "precious"
    Path("empty").mkdir()
    assert prepare("empty").documents == 60


def test_preparing_text_loads_no_torch():
    code = (
        "import sys; from firstlight.stages import data; "
        "data.prepare(['rows.jsonl'], out='store', overrides=['tokenizer.vocab_size=260']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_settings_of_other_tables_have_no_place():
    with pytest.raises(ConfigError, match="model: unknown setting"):
        prepare("store", "model.n_layer=2")


def test_inspect():
    prepare()
    found = data.inspect("store", n_tokens=len(ROWS[0]) + 1)
    assert found.first_text == ROWS[0]  # end-of-text has no text
    assert found.first_ids[-1] == 256
    assert found.documents["train"] + found.documents["valid"] == 60
    assert (found.vocab_size, found.dtype, found.sources) == (257, "uint16", ["rows.jsonl"])
    assert data.inspect("store", n_tokens=0).first_text == ""


def test_stats_name_special_tokens():
    data.prepare(["rows.jsonl"], out="store", overrides=["tokenizer.kind=word", "tokenizer.min_frequency=30"])
    table = data.stats("store", top=50)
    names = {row["token"] for row in table["top"]}
    assert names >= {"<|endoftext|>", "<unk>", "document", "end"}
    assert sum(row["count"] for row in table["top"]) == table["train"]["tokens"]


def test_a_run_stands_for_its_store():
    prepare("run/data")
    Path("run/tokenizer").mkdir()
    for file in Path("run/data/tokenizer").iterdir():
        file.rename(Path("run/tokenizer") / file.name)
    Path("run/run.toml").touch()
    assert data.store_of("run") == data.store_of("run/data") == Path("run/data")
    assert data.inspect("run").first_text is not None
    assert data.verify("run").checked == [Path("run/data")]


def test_verify_reads_a_run_and_its_checkpoints():
    prepare("run/data")
    Path("run/run.toml").touch()
    step = Path("run/checkpoints/step-00000001")
    step.mkdir(parents=True)
    result = data.verify("run")
    assert result.checked == [Path("run/data"), step]
    assert result.problems == [f"{step}/manifest.json: missing, so the folder is incomplete"]


def test_verify_names_everything_that_is_wrong():
    prepare()
    assert data.verify("store").problems == []
    ids = Path("store/train.bin")
    whole = ids.read_bytes()
    ids.write_bytes(bytes([whole[0] ^ 8]) + whole[1:])
    Path("store/tokenizer/tokenizer.json").write_text("{", encoding="utf-8")
    problems = data.verify("store").problems
    assert len(problems) == 2
    assert "tokenizer.json" in problems[0]
    assert problems[1] == "store/train.bin: bytes differ from the manifest's SHA-256"


def test_a_damaged_tokenizer_is_no_store_without_one():
    prepare()
    Path("store/tokenizer/tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match="not a readable"):
        data.inspect("store")


def test_folders_that_are_not_there():
    for look in (data.inspect, data.stats, data.verify, data.store_of):
        with pytest.raises(UsageError, match="no such folder"):
            look("nothere")


def test_what_a_corpus_drops_is_in_the_manifest() -> None:
    with Path("rows.jsonl").open("a") as file:
        file.write('\n{"text": \n{"no": 1}\n')
    with pytest.raises(CorpusError, match=r"rows\.jsonl:61: is not valid JSON"):
        prepare()
    result = prepare("skipped", "corpus.on_bad_document=skip")
    assert result.tally.dropped == {"unreadable": 2}
    [source] = json.loads(Path("skipped/manifest.json").read_text())["sources"]
    assert source["dropped"] == {"unreadable": 2}
    assert [problem[:13] for problem in source["bad_documents"]] == ["rows.jsonl:61", "rows.jsonl:62"]
