"""The code of a model card, for models of English and of Chinese."""

from pathlib import Path

import pytest
from tiny_lm import lm

from firstlight.lm.card import CardInfo


@pytest.mark.parametrize(
    ("info", "prompt"),
    [
        (CardInfo(), '"The"'),
        (CardInfo(languages=["zh"], sample="。”之间：于此阵前相待。"), '"之间"'),
        (CardInfo(languages=["zh"], sample="却说曹操引兵而来。"), '"却说曹操"'),
        (CardInfo(languages=["zh"], sample="12 \ufffd"), '"The"'),
        (CardInfo(languages=["en"], sample='"Mary went'), '"Mary"'),
        (CardInfo(languages=["zh"], sample="之间", prompt="次日，"), '"次日，"'),
    ],
)
def test_the_prompt_of_the_example_is_in_the_language_of_the_model(info: CardInfo, prompt: str, tmp_path: Path) -> None:
    lm("gpt2", "byte").save(tmp_path, {}, info)
    assert f"print(generate({prompt}, do_sample=True)" in (tmp_path / "README.md").read_text(encoding="utf-8")
