"""Every preset is valid, and has the parameters that its paper or model card says."""

import pytest

from firstlight.config import preset, preset_names, resolve
from firstlight.model import count_parameters
from firstlight.stages.settings import PretrainSettings

PACKAGE = "firstlight.stages.presets.pretrain"
# Millions, as published; GPT-3's table rounds more roughly.
PUBLISHED = {
    "gpt1-117m": 116.5,
    "gpt2-124m": 124.4,
    "gpt2-350m": 354.8,
    "gpt2-774m": 774.0,
    "gpt2-1.5b": 1557.6,
    "gpt3-125m": 125,
    "gpt3-350m": 356,
    "gpt3-760m": 760,
    "gpt3-1.3b": 1316,
    "gpt3-2.7b": 2650,
    "gpt3-6.7b": 6650,
    "gpt3-13b": 12850,
    "gpt3-175b": 174600,
    "smollm2-135m": 134.5,
    "smollm2-360m": 361.8,
    "smollm2-1.7b": 1711,
}


@pytest.mark.parametrize("name", preset_names(PACKAGE))
def test_a_preset_is_valid(name: str) -> None:
    settings = resolve(PretrainSettings, preset(PACKAGE, name))
    assert settings.train.batch_tokens % settings.model.block_size == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_its_parameters(name: str) -> None:
    settings = resolve(PretrainSettings, preset(PACKAGE, name))
    vocabulary = settings.tokenizer.vocab_size
    assert isinstance(vocabulary, int)
    assert count_parameters(settings.model.complete(vocabulary)).total / 1e6 == pytest.approx(PUBLISHED[name], rel=0.01)


def test_the_article_and_the_small_machines_are_there() -> None:
    assert {"article", "nano", "micro", "tiny", "small", "quickstart", "shakespeare-char-cpu"} <= set(
        preset_names(PACKAGE)
    )
    article = resolve(PretrainSettings, preset(PACKAGE, "article"))
    shape = article.model
    assert (article.tokenizer.vocab_size, shape.n_embd, shape.n_head, shape.n_layer) == (10_000, 768, 12, 12)
