"""Keys of earlier versions are refused, and the error names the present key."""

from pathlib import Path

import pytest

from firstlight.config import Settings, parse_overrides, resolve
from firstlight.errors import ConfigError
from firstlight.finetuning import read_spec
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.settings import PretrainSettings


@pytest.mark.parametrize(
    ("root", "old", "new"),
    [
        (PretrainSettings, "run.start_from", "run.init_from"),
        (FinetuneSettings, "run.start_from", "run.init_from"),
        (PretrainSettings, "tokenizer.words", "tokenizer.vocab_source"),
        (PretrainSettings, "model.init_out", "model.residual_init"),
        (PretrainSettings, "model.gelu", "model.mlp"),
        (PretrainSettings, "model.embeddings_length", "model.embeddings_norm"),
        (PretrainSettings, "optim.adjust", "optim.adjust_lr_fn"),
        (PretrainSettings, "train.average_decay", "train.ema_decay"),
        (PretrainSettings, "image.unlabelled", "image.class_dropout"),
        (FinetuneSettings, "finetune.marks", "finetune.special_tokens"),
        (FinetuneSettings, "finetune.thaw_every", "finetune.unfreeze_every_epochs"),
        (FinetuneSettings, "finetune.replay", "finetune.replay_fraction"),
    ],
)
def test_an_old_setting_names_the_new_one(root: type[Settings], old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"^{old}: unknown setting .*Did you mean {new}\\?$"):
        resolve(root, parse_overrides([f"{old}=0.5"]))


def test_a_setting_of_another_table_is_named_rather_than_a_like_one_of_this() -> None:
    with pytest.raises(ConfigError, match=r"^finetune\.epochs: unknown setting .*Did you mean train\.epochs\?$"):
        resolve(FinetuneSettings, parse_overrides(["finetune.epochs=1"]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind='choice'", "multiple_choice"),
        ("kind='tokens'", "token_classification"),
        ("values=['a']", "label_values"),
        ("long='start'", "truncation"),
        ("max_rows=3", "max_train_rows"),
        ("data.fields=3", "data.max_fields"),
        ("data.path='x'", "data.field"),
        ("data.each='x'", "data.explode"),
        ("data.empty='x'", "data.on_empty"),
    ],
)
def test_an_old_key_of_a_task_names_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    kind = "" if old.startswith("kind") else "kind='classification'\n"
    (tmp_path / "task.toml").write_text(f"{kind}{old}\ndata.train='a.tsv'\ncolumns={{text='a', label='b'}}\n")
    with pytest.raises(ConfigError, match=f"Did you mean '?{new}'?\\?"):
        read_spec(tmp_path / "task.toml")
