import gzip
from pathlib import Path

import pytest
from tiny_lm import lm

import firstlight
from firstlight import progress
from firstlight.cli.app import run as command
from firstlight.errors import ConfigError, UsageError
from firstlight.lm import LM, GenerateSettings
from firstlight.stages.generate import Conversation, generate, read_prompts, resolve_settings, stream


@pytest.fixture
def saved(tmp_path) -> Path:
    lm("gpt2", "byte").save(tmp_path / "m")
    return tmp_path / "m"


def test_a_path_and_a_loaded_model_write_the_same(saved):
    loaded = firstlight.load(saved, device="cpu")
    samples = firstlight.generate(saved, ["a", "b"], max_new_tokens=6, num_samples=2, seed=5)
    assert samples == generate(loaded, ["a", "b"], max_new_tokens=6, num_samples=2, seed=5)
    assert [s.prompt for s in samples] == ["a", "a", "b", "b"]
    assert all(0 < s.tokens <= 6 for s in samples)
    assert generate(loaded, max_new_tokens=6)[0].prompt == ""
    assert "".join(stream(loaded, "a", max_new_tokens=6, seed=5)) == samples[0].text


def test_what_is_none_keeps_its_default():
    assert resolve_settings({"top_k": None, "temperature": 0.5}) == GenerateSettings(temperature=0.5)
    with pytest.raises(ConfigError, match="temprature"):
        resolve_settings({"temprature": 1})


def test_a_conversation_has_what_was_said_before_as_context(saved):
    model = firstlight.load(saved, device="cpu")
    talk = Conversation(model, max_new_tokens=5, seed=1)
    first = "".join(talk.reply("one"))
    assert talk.text == "one" + first
    wanted = generate(model, talk.text + ("" if talk.text.endswith("\n") else "\n") + "two", max_new_tokens=5, seed=1)[
        0
    ]
    assert "".join(talk.reply("two")) == wanted.text
    assert talk.text == wanted.prompt + wanted.text


def test_a_reply_that_is_broken_off_keeps_what_was_written(saved):
    talk = Conversation(firstlight.load(saved, device="cpu"), max_new_tokens=5, seed=1)
    pieces = talk.reply("one")
    first = next(pieces)
    pieces.close()
    assert talk.text == "one" + first


@pytest.mark.parametrize("data", [b"one\ntwo\n", b"\xef\xbb\xbfone\r\n\r\ntwo", b"one\n  \ntwo"])
def test_prompts_are_lines(tmp_path, data):
    (tmp_path / "p").write_bytes(data)
    assert read_prompts(tmp_path / "p") == ["one", "two"]


def test_only_line_ends_end_a_prompt(tmp_path):
    (tmp_path / "p").write_text("one\u2028still one\x0cand one\ntwo", encoding="utf-8")
    assert read_prompts(tmp_path / "p") == ["one\u2028still one\x0cand one", "two"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no prompts"), (b"\n \n", "no prompts"), (b"ab\n\xffc", "byte 3: is not UTF-8")],
)
def test_a_file_without_prompts_is_refused(tmp_path, data, words):
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_prompts(tmp_path / "p")


def test_a_missing_file_of_prompts_is_refused(tmp_path):
    for name in ("nothing", ".", "p/q"):
        (tmp_path / "p").write_text("x")
        with pytest.raises(UsageError, match="no such file"):
            read_prompts(tmp_path / name)


def test_int8_writes_text_scores_nearly_the_same_and_is_not_saved(saved, tmp_path):
    small = firstlight.load(saved, device="cpu", int8=True)
    written = generate(small, ["ab", "c"], max_new_tokens=50, seed=2)  # beyond the block, so that the context slides
    assert [s.tokens for s in written] == [50, 50]
    assert written == generate(firstlight.load(saved, int8=True), ["ab", "c"], max_new_tokens=50, seed=2)
    exact = firstlight.load(saved, device="cpu").score([("the ", "sun")])[0].logprob
    assert 0 < abs(small.score([("the ", "sun")])[0].logprob - exact) < 0.1 * abs(exact)
    with pytest.raises(UsageError, match="another precision"):
        firstlight.load(saved, device="cpu", precision="bf16", int8=True)
    with pytest.raises(UsageError, match="int8 models cannot be saved"):
        small.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_int8_keeps_fp32_beside_it_where_the_place_would_take_bf16(saved, monkeypatch):
    """As on a GPU, where auto is bf16: norms in bf16 beside matrices that give fp32 would not fit together."""
    device_context = firstlight.load(saved, device="cpu", precision="bf16").device_context
    monkeypatch.setattr("firstlight.parallel.resolve_hardware", lambda _: device_context)
    small = firstlight.load(saved, int8=True)
    assert {p.dtype.itemsize for p in small.model.parameters()} == {4}
    assert small.generate("ab", GenerateSettings(max_new_tokens=5, temperature=0))[0].ids
    assert small.score([("the ", "sun")])[0].logprob < 0


def test_prompts_may_be_compressed_and_records_are_pointed_out(tmp_path):
    (tmp_path / "p.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_prompts(tmp_path / "p.txt.gz") == ["one", "two"]
    said = []
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    with progress.listen(lambda event: said.append(event.text)):
        assert read_prompts(tmp_path / "p.jsonl") == ['{"prompt": "one"}', '{"prompt": "two"}']
    expected = "its lines are JSON, and each is a prompt as it stands; write one prompt per line"
    assert said == [f"{tmp_path / 'p.jsonl'}: {expected}"]


@pytest.mark.parametrize(("option", "value"), [("--keep", "0.3"), ("--class", "3"), ("--out", "x.png")])
def test_options_of_images_are_refused_for_a_model_of_text(saved, capsys, option, value):
    assert command(["generate", str(saved), "a", "--max-new-tokens", "2", option, value]) == 2
    assert f"is not a model of images (found {option})" in capsys.readouterr().err


def test_a_chat_template_that_is_not_applied_is_said(tmp_path):
    plain = lm("gpt2", "byte")
    chat = plain.tokenizer.with_special_tokens([], extra_config={"chat_template": "{{ messages }}"})
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        generate(plain, "a", max_new_tokens=2)
        assert not any("chat template" in line for line in said)
        generate(LM(plain.model, chat), "a", max_new_tokens=2)
    assert sum("a prompt is continued as it stands" in line for line in said) == 1
