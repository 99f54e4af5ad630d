"""What the model card of a checkpoint says about where the model comes from: corpus, language, base model, licence."""

from collections.abc import Sequence
from pathlib import Path

from firstlight.corpus import detect_languages, load_catalogue
from firstlight.files.run_names import short_name
from firstlight.finetuning import kind_of
from firstlight.lm import CardInfo, is_hub_name, read_card_info
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.finetune_artifacts import FinetuneArtifacts
from firstlight.stages.settings import PretrainSettings
from firstlight.tokenizer import Tokenizer

_READ_TOKENS, _READ_ROWS = 8192, 64  # from which the language is told
_HUB_HOME = "huggingface.co/datasets/"
_HUB_CORPUS = "hf:"


def pretrain_card(name: str, settings: PretrainSettings, artifacts: PretrainArtifacts) -> CardInfo:
    """Return what is known of a pre-trained model before it is trained."""
    init_lm, tokenizer, train = artifacts.init_lm, artifacts.tokenizer, artifacts.store.train
    info = inherited(settings.run.init_from, None if init_lm is None else init_lm.source)
    languages: Sequence[str] = ()
    if tokenizer is not None:
        n, size = train.n_tokens, _READ_TOKENS // 4
        starts = sorted({min(n * i // 4, max(0, n - size)) for i in range(4)})
        languages = detect_languages("\n".join(tokenizer.decode(train.tokens[at : at + size]) for at in starts))
    return CardInfo(
        name=name,
        license=info.license,
        languages=languages or info.languages,
        base_model=info.base_model,
        datasets=hub_datasets(settings.run.corpus),
    )


def finetune_card(name: str, init_from: str, artifacts: FinetuneArtifacts) -> CardInfo:
    """Return what is known of a fine-tuned model before it is trained."""
    info = inherited(init_from, artifacts.init_model.source)
    tags = list(dict.fromkeys(kind_of(spec).pipeline_tag for spec in artifacts.specs.values()))
    return CardInfo(
        name=name,
        license=info.license,
        languages=_languages_of_rows(artifacts, artifacts.tokenizer) or info.languages,
        base_model=info.base_model,
        pipeline_tag=tags[0] if len(tags) == 1 else None,
    )


def inherited(init_from: str | None, source: Path | None) -> CardInfo:
    """Return licence, languages and base model of the model that a run starts from.

    Args:
        init_from: its name in the settings.
        source: its directory.
    """
    info = CardInfo() if source is None else read_card_info(source)
    base = hub_model(init_from) or info.base_model
    return CardInfo(license=info.license, languages=info.languages, base_model=base)


def hub_model(name: str | None) -> str | None:
    """Return the name of a model if it is one on the hub, and no folder here."""
    return name if name and is_hub_name(name) and not Path(name).exists() else None


def corpus_names(settings: PretrainSettings, artifacts: PretrainArtifacts) -> list[str]:
    """Return the names of the texts of a run, without the folders of this machine."""
    named = settings.run.corpus or artifacts.store.source_names()
    return [short_name(name) for name in named]


def hub_datasets(corpus: Sequence[str]) -> list[str]:
    """Return the data sets of the hub among the names of a corpus."""
    catalogue, found = load_catalogue(), []
    for name in corpus:
        home = str(catalogue.get(name, {}).get("home", ""))
        if home.startswith(_HUB_HOME):
            found.append(home.removeprefix(_HUB_HOME))
        elif name.startswith(_HUB_CORPUS):
            found.append(name.removeprefix(_HUB_CORPUS).partition("@")[0].partition(":")[0])
    return list(dict.fromkeys(found))


def _languages_of_rows(artifacts: FinetuneArtifacts, tokenizer: Tokenizer) -> list[str]:
    texts = [
        tokenizer.decode(sequence)
        for rows in artifacts.rows.values()
        for row in rows.train[:_READ_ROWS]
        for sequence in row.sequences[:1]
    ]
    return detect_languages("\n".join(texts))
