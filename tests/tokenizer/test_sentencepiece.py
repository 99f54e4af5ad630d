"""SentencePiece's model files give the ids of SentencePiece."""

from pathlib import Path
from typing import Any

import pytest
from test_binary_formats import field

from firstlight.errors import TokenizerError
from firstlight.tokenizer import Tokenizer, import_tokenizer, load

BYTES = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
LETTERS = [(c, -10.0 - i, 1) for i, c in enumerate("▁afoxs/<>")]
PIECES = [*SPECIAL, ("<br>", 0.0, 4), ("[a b]".replace(" ", "▁"), 0.0, 4), ("▁fox", -1.0, 1), ("▁f", -2.0, 1)]
PIECES += [("ox", -3.0, 1), ("▁a", -4.0, 1), *LETTERS]


def tokenizer(
    folder: Path, kind: str, *, pieces: Any = PIECES, bytes_: bool = True, config: str = "", **normalizer: int
) -> Tokenizer:
    """Write a model file, from sentencepiece_model.proto, and import it."""
    trainer = field(3, {"unigram": 1, "bpe": 2, "char": 4}[kind]) + (field(35, 1) if bytes_ else b"")
    spec = {"add_dummy_prefix": 1, "remove_extra_whitespaces": 0, "escape_whitespaces": 1, **normalizer}
    body = b"".join(
        field(1, field(1, p.encode()) + field(2, float(s)) + field(3, t)) for p, s, t in [*pieces, *BYTES * bytes_]
    )
    body += field(2, trainer) + field(3, b"".join(field(3 + i, v) for i, v in enumerate(spec.values())))
    (folder / "tokenizer.model").write_bytes(body)
    if config:
        (folder / "tokenizer_config.json").write_text(config)
    return import_tokenizer(folder)


def split(ours: Tokenizer, text: str) -> str:
    """The pieces of a text, with those of unknown letters as they are."""
    return " ".join(ours.tokens()[i] for i in ours.encode(text))


# Pieces that sentencepiece 0.2.3 gives for these models.
BPE = {
    "": "",
    " ": "▁ ▁",
    "a<br>fox": "▁a <br> f ox",
    "<br>": "▁ <br>",
    " fox": "▁ ▁fox",
    "fox <br> fox": "▁fox ▁ <br> ▁fox",
    "<br></s><br><s>": "▁ <br> < / s > <br> < s >",
    "<br><0x0A>": "▁ <br> < <0x30> x <0x30> <0x41> >",
    "fo[a b]x": "▁f o [a▁b] x",
    "\n": "▁ <0x0A>",
    "▁fox": "▁ ▁fox",
}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("legacy", ["true", "false"])
def test_user_defined_pieces_and_what_must_not_match(tmp_path: Path, kind: str, legacy: str) -> None:
    config = f'{{"tokenizer_class": "LlamaTokenizer", "legacy": {legacy}}}'
    ours = tokenizer(tmp_path, kind, config=config)
    ours.save(tmp_path / "out")
    again = load(tmp_path / "out")
    for text, wanted in BPE.items():
        assert split(ours, text) == wanted, text
        assert ours.decode(ours.encode(text)) == text.replace("▁", " ")
        assert again.encode(text) == ours.encode(text)


@pytest.mark.parametrize(
    ("options", "text", "wanted"),
    [
        ({"add_dummy_prefix": 0}, "fox a", "f ox ▁a"),
        ({"add_dummy_prefix": 0}, "</s>", "< / s >"),
        ({"remove_extra_whitespaces": 1}, "  fox   a  ", "▁fox ▁a"),
        ({"remove_extra_whitespaces": 1}, "   ", ""),
        ({"remove_extra_whitespaces": 1}, "a\n b", "▁a <0x0A> ▁ <0x62>"),
        ({"remove_extra_whitespaces": 1}, "fox ▁", "▁fox"),
        ({"bytes_": False}, "a日本b", "▁a <unk>"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_rules_of_white_space(tmp_path: Path, kind: str, options: dict[str, Any], text: str, wanted: str) -> None:
    assert split(tokenizer(tmp_path, kind, **options), text) == wanted


def test_a_model_of_characters(tmp_path: Path) -> None:
    pieces = [p for p in PIECES if p[2] != 1 or len(p[0]) == 1]
    assert split(tokenizer(tmp_path, "char", pieces=pieces), "fox<br>a") == "▁ f o x <br> a"


def test_special_ids_are_those_of_the_model(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, "bpe")
    assert (ours.eot_id, ours.named_bos_id, ours.unk_id, ours.bos_id) == (2, 1, 0, None)
    config = '{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "pad_token": "<unk>"}'
    ours = tokenizer(tmp_path, "bpe", config=config)
    assert (ours.eot_id, ours.named_bos_id, ours.unk_id, ours.bos_id, ours.pad_id) == (2, 1, 0, 1, 0)


def test_transformers_puts_a_space_at_the_start_of_all_text_alone(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for legacy, wanted in (("false", "fox"), ("true", "▁fox")):
        config = f'{{"tokenizer_class": "LlamaTokenizer", "legacy": {legacy}}}'
        tokenizer(tmp_path, "bpe", config=config).save(tmp_path / legacy)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / legacy)
        tokens = theirs.convert_ids_to_tokens(theirs.encode("fox</s>fox"))
        assert "".join(tokens) == f"▁fox</s>{wanted}"


def test_no_space_in_front_of_a_text_where_the_folder_says_so(tmp_path: Path) -> None:
    config = '{"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false}'
    ours = tokenizer(tmp_path, "bpe", config=config)
    assert split(ours, "fox fox") == "f ox ▁fox"


def test_unsupported_rules(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="marks word boundaries in an unsupported way .*escape_whitespaces"):
        tokenizer(tmp_path, "bpe", escape_whitespaces=0)
    unused = [*PIECES, ("ox<", 0.0, 5), ("ox<a", -1.0, 1)]
    with pytest.raises(TokenizerError, match="must not match text.*'ox<'"):
        tokenizer(tmp_path, "unigram", pieces=unused)


CASES = {"spm-br": "a<br>fox", "spm-plain": " two  spaces", "spm-added": "</s> a\n"}


@pytest.mark.data
@pytest.mark.parametrize("name", [*CASES, "sp_bpe", "sp_unigram"])
def test_real_models(shared_cases: Path, name: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared_cases / "import" / name / "tokenizer.model"
    path = path if path.is_file() else shared_cases / "newcomer" / f"{name}.model"
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), import_tokenizer(path)
    for text in [
        *CASES.values(),
        "",
        " ",
        "\n\na",
        "老师收到一封信",
        "👩\u200d👩\u200d👧",
        "e\u0301",
        "a\0b",
        "<s>",
        "x <br>",
    ]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text)), text


@pytest.mark.data
def test_the_handed_piece(shared_cases: Path) -> None:
    assert split(import_tokenizer(shared_cases / "import" / "spm-br"), "a<br>fox") == "▁a <br> f o x"
