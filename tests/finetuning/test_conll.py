"""Files of words in the format of CoNLL: sentences end with a blank line."""

from pathlib import Path

import pytest

from firstlight.errors import ConfigError, CorpusError
from firstlight.finetuning import TaskSpec, load_task, read_unlabelled
from firstlight.finetuning.kinds import check_spec

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN B-NP O

-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
CONLLU = """# text = au parc
1-2\tau\t_\t_
1\tà\tà\tADP
2\tle\tle\tDET
2.1\tnull\t_\t_
3\tparc\tparc\tNOUN

# text = New York
1\tNew York\tNew York\tPROPN"""


def task(folder: Path, name: str, text: str, **columns: int) -> TaskSpec:
    (folder / name).write_text(text, encoding="utf-8")
    table = {"name": "t", "kind": "token_classification", "data": {"folder": str(folder), "train": name, "valid": name}}
    return TaskSpec.model_validate({**table, "columns": {"tokens": 0, "label": 3, **columns}})


def test_the_format_of_conll_2003(tmp_path: Path) -> None:
    for label in (3, -1):
        spec = task(tmp_path, "eng.conll", CONLL_2003.replace("\n", "\r\n"), label=label)
        data = load_task(spec, seed=0)
        assert [row.texts for row in data.train] == [("EU", " rejects", " #"), ("Peter", " Blackburn")]
        assert data.spec.labels == ["B-ORG", "B-PER", "I-PER", "O"]
        assert [row.label for row in data.train] == [(0, 3, 3), (1, 2)]
        assert [row.where for row in data.train] == [f"{tmp_path}/eng.conll:3", f"{tmp_path}/eng.conll:9"]


def test_the_format_of_universal_dependencies(tmp_path: Path) -> None:
    data = load_task(task(tmp_path, "fr.conllu", CONLLU, tokens=1), seed=0)
    assert [row.texts for row in data.train] == [("à", " le", " parc"), ("New York",)]


def test_words_with_tabs_and_hashes_are_words(tmp_path: Path) -> None:
    data = load_task(task(tmp_path, "tweets.iob", "#now\tO\n10\u00a0000\tB-N\n\n\n#\tO\nx\tO\n", label=1), seed=0)
    assert [row.texts for row in data.train] == [("#now", " 10\u00a0000"), ("#", " x")]


def test_words_alone_are_predicted(tmp_path: Path) -> None:
    spec = load_task(task(tmp_path, "eng.conll", CONLL_2003), seed=0).spec
    (tmp_path / "new.conll").write_text("One\nday\n\nPeter\n", encoding="utf-8")
    assert [row.texts for row in read_unlabelled(spec, tmp_path / "new.conll")] == [("One", " day"), ("Peter",)]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a.conll:2: does not have the fields of the first word .*found 1"):
        load_task(task(tmp_path, "a.conll", "a O\nb\n", label=1), seed=0)
    with pytest.raises(CorpusError, match=r'train.txt:3: has no such column .*Set data.format = "conll"'):
        load_task(task(tmp_path, "train.txt", CONLL_2003), seed=0)
    with pytest.raises(CorpusError, match='data.format = "conll" where a blank line ends each sentence'):
        load_task(task(tmp_path, "b.tsv", "word\tlabel\na\tO\nb\tB-N\n", tokens="word", label="label"), seed=0)
    spec = task(tmp_path, "c.conll", CONLL_2003).model_copy(update={"kind": "classification"})
    with pytest.raises(ConfigError, match="do not fit a task of kind classification"):
        check_spec(spec.model_copy(update={"columns": spec.columns.model_copy(update={"text": 0, "tokens": None})}))
