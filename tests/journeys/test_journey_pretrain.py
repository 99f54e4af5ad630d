"""The whole way by commands: corpus to model to text, and what transformers makes of it."""

import json

import pytest


@pytest.fixture(scope="module")
def trained(tiny, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("road") / "run"
    printed = run("pretrain", *tiny, "train.steps=40", "train.eval_every=20", "--out", out, "--json")
    return out, json.loads(printed.stdout)


def test_a_run_directory_holds_what_the_design_says(trained):
    out, result = trained
    names = (
        "run.toml tokenizer/tokenizer.json data/train.bin data/train.idx data/manifest.json latest best metrics.jsonl"
    )
    for name in [*names.split(), "samples.jsonl", "report.html"]:
        assert (out / name).is_file(), name
    checkpoint = out / "checkpoints" / (out / "latest").read_text(encoding="utf-8").strip()
    names = "config.json model.safetensors tokenizer.json tokenizer_config.json generation_config.json README.md"
    for name in [*names.split(), "manifest.json", "trainer/state.json"]:
        assert (checkpoint / name).is_file(), name
    assert result["step"] == 40 and result["finished"] and result["valid_loss"] < 5.2


@pytest.mark.slow
def test_the_same_toml_starts_the_same_run_again(trained, run, tmp_path):
    out, _ = trained
    run("pretrain", out / "run.toml", "--out", tmp_path / "again")
    kept = [
        [line for line in (r / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for r in (out, tmp_path / "again")
    ]
    losses = [[json.loads(line).get("loss", json.loads(line).get("valid_loss")) for line in lines] for lines in kept]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_generate_evaluate_verify_and_resume(trained, run, tmp_path):
    out, result = trained
    text = run("generate", out, "The ", "--max-new-tokens", 30, "--temperature", 0)
    assert text.stdout.startswith("The ") and len(text.stdout) > 10
    scored = json.loads(run("evaluate", out, "--json").stdout)
    (valid,) = scored["texts"]
    assert valid["model"]["loss"] < valid["baselines"]["uniform"]["loss"]
    assert valid["interval"][0] < valid["model"]["loss"] < valid["interval"][1]
    assert "no problems" in run("data", "verify", out).stdout
    proof = run("verify-resume", out / "run.toml", "--steps", 8, "--stop-at", 3)
    assert "bit-identical" in proof.stdout
    finished = run("pretrain", out, "--resume", "--json")
    assert json.loads(finished.stdout)["step"] == 40 and "finished already" in finished.stderr
    more = json.loads(run("pretrain", out, "--resume", "train.steps=44", "--json").stdout)
    assert more["step"] == 44
    # A further limit would be obeyed in vain: the run stands at the old one.
    refused = run("pretrain", out, "--resume", "train.tokens=6000", ok=False)
    assert refused.returncode == 2 and "already reached train.steps" in refused.stderr
    on = json.loads(run("pretrain", out, "--resume", "train.tokens=6000", "train.steps=99", "--json").stdout)
    assert (on["step"], on["stopped_by"]) == (47, "tokens")


def test_transformers_loads_a_checkpoint_and_writes_the_same_text(trained, run):
    import transformers

    out, _ = trained
    folder = out / "checkpoints" / (out / "best").read_text(encoding="utf-8").strip()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The ", return_tensors="pt")
    made = model.generate(
        **ids, max_new_tokens=12, max_length=None, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    ours = run("generate", out, "The ", "--max-new-tokens", 12, "--temperature", 0).stdout.rstrip("\n")
    assert tokenizer.decode(made[0], skip_special_tokens=True) == ours


def test_dry_run_writes_nothing(tiny, run, tmp_path):
    plan = json.loads(run("pretrain", *tiny, "train.steps=40", "--out", tmp_path / "run", "--dry-run", "--json").stdout)
    assert plan["parameters"] > 0 and plan["steps"] == 40 and plan["step_seconds"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_new_run_from_the_weights_of_another(trained, tiny, run, tmp_path):
    out, result = trained
    words = [w for w in tiny if not w.startswith(("model.", "tokenizer."))]
    made = json.loads(
        run("pretrain", *words, "train.steps=5", "--from", out, "--out", tmp_path / "next", "--json").stdout
    )
    assert made["valid_loss"] == pytest.approx(result["valid_loss"], abs=0.3)


@pytest.mark.slow
@pytest.mark.data
def test_chinese(run, tiny, shared_data, tmp_path):
    files = sorted((shared_data / "zh-novels").glob("*.xz"))
    words = [w for w in tiny if not w.startswith(("python-docs", "tokenizer.", "corpus."))]
    run(
        "pretrain",
        files[0],
        *words,
        "corpus.max_bytes=200000",
        "tokenizer.kind=char",
        "train.steps=40",
        "--out",
        tmp_path / "zh",
    )
    text = run("generate", tmp_path / "zh", "却说", "--max-new-tokens", 20).stdout
    assert sum("\u4e00" <= c <= "\u9fff" for c in text) >= 10
    scored = json.loads(run("evaluate", tmp_path / "zh", "--json").stdout)
    assert scored["texts"][0]["model"]["loss"] < scored["texts"][0]["baselines"]["uniform"]["loss"]
