"""Loading and importing: what others publish, with their ids, and one clear error for what is damaged."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer import END_OF_TEXT, Tokenizer, import_tokenizer, load
from messy_text import messy_text

TEXTS = [
    "",
    "Hello, world! It's 1234567 don'T",
    " a\n\n  b\r\n\t ",
    "naïve café 你好，世界。😀",
    *(messy_text(s, 80) for s in range(50, 80)),
]


# Published tokenizers


@pytest.mark.data
def test_gpt2_has_the_ids_of_tiktoken(shared_data: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    folder = shared_data / "tokenizers" / "gpt2"
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    theirs = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256})
    ours = import_tokenizer(folder)
    assert (ours.kind, ours.vocab_size, ours.eot_id, ours.lossless) == ("bpe", 50257, 50256, True)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.data
def test_gpt2_of_two_names_is_the_same(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tokenizers" / "gpt2"
    shutil.copy(folder / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(folder / "vocab.bpe", tmp_path / "merges.txt")
    assert import_tokenizer(tmp_path).hash == import_tokenizer(folder).hash


@pytest.mark.data
def test_gpt1_has_the_ids_of_transformers(shared_data: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "tokenizers" / "gpt1"
    vocabulary = json.loads((folder / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab_40000.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split()) for line in lines if line.strip()]
    theirs = transformers.OpenAIGPTTokenizer(vocab=vocabulary, merges=merges)
    ours = import_tokenizer(folder)
    assert (ours.kind, ours.vocab_size, ours.eot_id, ours.lossless) == ("other", 40479, 40478, False)
    texts = [
        "The cat sat, on 1234 mats; don't you see?",
        "Naïve CAFÉ",
        "Hello   world \n again",
        "“quotes” – and so on…",
    ]
    for text in texts:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    ours.save(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert again(text)["input_ids"] == ours.encode(text)


@pytest.fixture(scope="module")
def cl100k(shared_data: Path) -> Tokenizer:
    return import_tokenizer(shared_data / "tokenizers" / "tiktoken" / "cl100k_base.tiktoken")


@pytest.mark.slow
@pytest.mark.data
def test_cl100k_has_the_ids_of_tiktoken(shared_data: Path, cl100k: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    import tiktoken_ext.openai_public as public
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(shared_data / "tokenizers" / "tiktoken" / "cl100k_base.tiktoken"))
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *args, **kwargs: ranks)
    theirs = tiktoken.Encoding(**public.cl100k_base())
    assert (cl100k.kind, cl100k.eot_id, cl100k.lossless) == ("bpe", theirs.eot_token, True)
    assert cl100k._fast is not None
    for text in TEXTS:
        assert cl100k.encode(text) == theirs.encode_ordinary(text), text
        assert cl100k.decode(cl100k.encode(text)) == text


@pytest.mark.slow
@pytest.mark.data
def test_reference_texts_have_their_published_ids(shared_data: Path, cl100k: Tokenizer) -> None:
    ours = {"cl100k_base": cl100k, "r50k_base": import_tokenizer(shared_data / "tokenizers" / "gpt2")}
    plans = (shared_data / "tokenizers" / "tiktoken" / "TestPlans.txt").read_text(encoding="utf-8")
    compared = dict.fromkeys(ours, 0)
    for plan in plans.split("EncodingName: ")[1:]:
        name, _, rest = plan.partition("\nSample: ")
        text, _, ids = rest.rpartition("\nEncoded: ")
        # The file's texts lost their line ends when it was written; special tokens are tokens there, and text here.
        if name in ours and "\n" not in text and "\\" not in text and "<|" not in text:
            assert ours[name].encode(text) == json.loads(ids), text
            compared[name] += 1
    assert min(compared.values()) >= 20


@pytest.mark.data
@pytest.mark.parametrize("name", ["llama2", "llama2/tokenizer.model"])
def test_sentence_piece_is_loaded_only_by_importing_it(shared_data: Path, name: str) -> None:
    with pytest.raises(TokenizerError, match="SentencePiece.*tokenizer import"):
        load(shared_data / "tokenizers" / name)
    assert import_tokenizer(shared_data / "tokenizers" / name).vocab_size == 32_000


# tiktoken files of our own


def _tiktoken(folder: Path, name: str, tokens: list[bytes], ranks: list[int] | None = None) -> Path:
    path = folder / name
    numbers = range(len(tokens)) if ranks is None else ranks
    path.write_bytes(
        b"".join(base64.b64encode(t) + b" " + str(r).encode() + b"\n" for t, r in zip(tokens, numbers, strict=True))
    )
    return path


BYTES = [bytes([b]) for b in range(256)]


def test_end_of_text_takes_the_place_that_it_has_there(tmp_path: Path) -> None:
    tokens = [*BYTES, b"ab", b"abc", b"\xe5\xad", b"\xe5\xad\x97"]
    ranks = [*range(256), 50_255, 50_257, 50_258, 50_259]
    ours = import_tokenizer(_tiktoken(tmp_path, "p50k_base.tiktoken", tokens, ranks))
    assert (ours.eot_id, ours.vocab_size) == (50_256, 50_260)
    assert ours.encode("abc字b") == [50_257, 50_259, ord("b")]
    assert ours.decode([50_257, 300, 50_256, 50_259]) == "abc字"
    assert ours.byte_lengths()[[50_257, 300, 50_256, 50_259]].tolist() == [3, 0, 0, 3]
    ours.save(tmp_path)
    assert load(tmp_path).encode("abc字b") == [50_257, 50_259, ord("b")]


def test_a_token_that_merging_never_makes_is_still_a_word(tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    tokens = [*BYTES, b"xyz", b" ab"]
    ours = import_tokenizer(_tiktoken(tmp_path, "r50k_base.tiktoken", tokens))
    theirs = tiktoken.Encoding(
        "x", pat_str=r" ?\p{L}+|\s+", mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={}
    )
    for text in ("xyz", "xyzx", "xyz ab", " ab xyz"):
        assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r50k_base.tiktoken", b"YQ== 0\nnot base64! 1\n", ":2: is not a line of a tiktoken file"),
        ("r50k_base.tiktoken", b"YQ== 0\nYg==\n", ":2: is not a line of a tiktoken file"),
        ("r50k_base.tiktoken", b"YQ== 0\n", "truncated.*255 missing"),
        ("r50k_base.tiktoken", b"\xff\xfe\x00", ":1: is not a line of a tiktoken file"),
        ("mine.tiktoken", b"YQ== 0\n", "a name that starts with cl100k"),
    ],
)
def test_damaged_tiktoken_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=words):
        import_tokenizer(tmp_path / name)


def test_a_rank_in_the_place_of_end_of_text(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="special token for another one .*50256"):
        import_tokenizer(_tiktoken(tmp_path, "r50k_base.tiktoken", [*BYTES, b"ab"], [*range(256), 50_256]))


# Hugging Face directories


def _words(folder: Path, vocabulary: dict[str, int], special: list[str], config: object = None) -> Path:
    inner = Inner(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(special)
    inner.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_the_configuration_names_the_special_tokens(tmp_path: Path) -> None:
    config = {"eos_token": {"content": "<fin>", "lstrip": False}, "unk_token": "[?]"}
    vocabulary = {"<unk>": 0, "</s>": 1, "<fin>": 2, "[?]": 3, "a": 4}
    ours = load(_words(tmp_path, vocabulary, ["</s>", "<fin>", "[?]"], config))
    assert (ours.eot, ours.eot_id, ours.unk, ours.unk_id) == ("<fin>", 2, "[?]", 3)


def test_a_missing_end_of_text_is_refused_by_load_and_given_by_import(tmp_path: Path) -> None:
    folder = _words(tmp_path, {"<unk>": 0, "a": 1, "b": 5}, ["<unk>"])
    with pytest.raises(TokenizerError, match="has no end-of-text token.*firstlight tokenizer import"):
        load(folder)
    heard: list[str] = []
    with progress.listen(lambda event: heard.append(event.text)):
        ours = import_tokenizer(folder)
    # The library itself would give it id 3 or 5, and 5 is in use.
    assert (ours.eot_id, ours.vocab_size) == (6, 7)
    assert any("added <|endoftext|> as id 6" in text for text in heard)
    assert ours.encode("a b <|endoftext|>")[:2] == [1, 5]
    assert 6 not in ours.encode("a <|endoftext|>")
    ours.save(tmp_path / "ours")
    assert load(tmp_path / "ours").eot_id == 6


@pytest.mark.parametrize("where", ["", "tokenizer.json", "run"])
def test_where_a_tokenizer_is_found(trained: dict[str, Tokenizer], tmp_path: Path, where: str) -> None:
    trained["byte"].save(tmp_path / "tokenizer" if where == "run" else tmp_path)
    assert load(tmp_path / where if where == "tokenizer.json" else tmp_path).hash == trained["byte"].hash


def _cut(path: Path) -> None:
    path.write_text(path.read_text()[:-200])


def _no_json(path: Path) -> None:
    path.write_bytes(b"\xff\x00")


def _empty(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [_cut, _no_json, _empty])
@pytest.mark.parametrize("read", [load, import_tokenizer])
def test_a_damaged_file_is_named(
    trained: dict[str, Tokenizer],
    tmp_path: Path,
    damage: Callable[[Path], None],
    read: Callable[[Any], Tokenizer],
) -> None:
    trained["byte"].save(tmp_path)
    damage(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="tokenizer.json: is not a readable tokenizer.json"):
        read(tmp_path)


@pytest.mark.parametrize("config", ["{", "[1]", '"x"'])
def test_a_damaged_configuration_is_named(trained: dict[str, Tokenizer], tmp_path: Path, config: str) -> None:
    trained["byte"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(TokenizerError, match="tokenizer_config.json"):
        load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    for read in (load, import_tokenizer):
        with pytest.raises(TokenizerError, match="no tokenizer here.*expected tokenizer.json"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("vocabulary", "merges"),
    [
        ("{", "#version: 0.2\n"),
        ('{"a": 0}', "#version: 0.2\na b\n"),
        ('{"a": 0, "b": 1}', "#version: 0.2\na b c\n"),
        ('{"a": 0, "b": 1}', "#version: 0.2\nab\n"),
        ('["a"]', ""),
        ('{"a": "x"}', ""),
    ],
)
def test_damaged_gpt2_files(tmp_path: Path, vocabulary: str, merges: str) -> None:
    (tmp_path / "encoder.json").write_text(vocabulary)
    (tmp_path / "vocab.bpe").write_text(merges)
    with pytest.raises(TokenizerError, match="cannot be read|encoder.json: is not|vocab.bpe:2: is not a pair"):
        import_tokenizer(tmp_path)


def test_a_tiktoken_file_with_an_endless_token_or_a_huge_rank(tmp_path: Path) -> None:
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)]
    file = tmp_path / "cl100k_x.tiktoken"
    file.write_text("\n".join([*lines, base64.b64encode(b"ab" * 50_000).decode() + " 256"]))
    with pytest.raises(TokenizerError, match=r"cl100k_x.tiktoken:257: has a token that is too long"):
        import_tokenizer(file)
    file.write_text("\n".join([*lines, base64.b64encode(b"ab").decode() + f" {2**31}"]))
    with pytest.raises(TokenizerError, match=r"cl100k_x.tiktoken: has an id that is too high .*2,147,483,648"):
        import_tokenizer(file)


@pytest.mark.parametrize("line", ["YWI= 256", "enp6 97", "enp6 -3", " 300"])
def test_a_tiktoken_file_that_contradicts_itself(tmp_path: Path, line: str) -> None:
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)] + ["YWI= 256", "YWM= 257", line]
    (tmp_path / "r50k_base.tiktoken").write_text("\n".join(lines))
    with pytest.raises(TokenizerError, match=r"r50k_base.tiktoken:259: (has a token or a rank twice|is not a line)"):
        import_tokenizer(tmp_path / "r50k_base.tiktoken")
