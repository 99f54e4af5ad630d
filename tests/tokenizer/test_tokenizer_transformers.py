"""What is saved loads in transformers, with the same ids and the same text."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors

from firstlight.tokenizer import END_OF_TEXT, Tokenizer, import_tokenizer, load
from messy_text import NAMES, messy_text

transformers = pytest.importorskip("transformers")

# Transformers takes the words of special tokens in a text for the tokens; that is its way, not ours.
TEXTS = [
    "",
    " two  spaces and\n\nlines\t",
    "It's 2024, don't! naïve café",
    "你好，世界。 한국 Привет 😀👩‍👩‍👧",
    *(messy_text(seed, 60).replace(END_OF_TEXT, "").replace("<unk>", "") for seed in range(20, 40)),
]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_text_are_the_same(trained: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
    trained[name].save(tmp_path, model_max_length=128)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ in ("PreTrainedTokenizerFast", "TokenizersBackend")
    assert len(theirs) == trained[name].vocab_size
    for text in TEXTS:
        ids = trained[name].encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids, skip_special_tokens=True) == trained[name].decode(ids)
        ends = [trained[name].eot_id, *ids, trained[name].eot_id]
        assert theirs.decode(ends, skip_special_tokens=True) == trained[name].decode(ends)


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_known(trained: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
    trained[name].save(tmp_path, model_max_length=128)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token, theirs.eos_token_id) == (END_OF_TEXT, trained[name].eot_id)
    assert theirs.pad_token is None
    assert theirs.unk_token_id == trained[name].unk_id
    assert theirs.model_max_length == 128
    assert theirs.convert_tokens_to_ids(END_OF_TEXT) == trained[name].eot_id


def test_what_transformers_saves_loads_here(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    trained["bpe-llama3"].save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert again.hash == trained["bpe-llama3"].hash
    assert (again.eot, again.unk) == (trained["bpe-llama3"].eot, trained["bpe-llama3"].unk)


def test_a_space_put_in_front_stays_there(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    inner = Inner.from_str(trained["bpe-gpt2"]._inner.to_str())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    ours = Tokenizer(inner, eot=END_OF_TEXT, unk=None)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("Hello") == ours.encode(" Hello")
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text)


def test_the_chat_template_and_begin_of_text_are_kept(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    inner = Inner.from_str(trained["bpe-gpt2"]._inner.to_str())
    inner.add_special_tokens(["<s>"])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END_OF_TEXT, bos_token="<s>")
    theirs.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    theirs.save_pretrained(tmp_path / "theirs")
    load(tmp_path / "theirs").save(tmp_path / "ours")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (again.bos_token, again.eos_token) == ("<s>", END_OF_TEXT)
    assert again.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False) == "Hello"


def test_what_is_put_around_a_text_is_left_out_of_an_import(tmp_path: Path) -> None:
    inner = Inner(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    inner.save(str(tmp_path / "tokenizer.json"))
    import_tokenizer(tmp_path).save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs("a b")["input_ids"] == load(tmp_path / "ours").encode("a b") == [3, 4]
