"""Settings of fine-tuning: losses, what is trained and how fast, the mixing of tasks, adapters."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from firstlight.config import Settings


class AdapterSettings(Settings):
    """Low-rank adapters (Hu et al. 2021), by the library peft."""

    kind: Literal["none", "lora", "dora", "rslora"] = Field(
        "none", description="lora, dora, rslora, or none: all weights are trained"
    )
    r: int = Field(16, ge=1, description="rank of the adapters")
    alpha: int = Field(32, ge=1, description="the adapter's output is scaled by alpha / r (rslora: alpha / sqrt(r))")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapters' inputs")
    base: Literal["full", "int8", "nf4"] = Field(
        "full", description="precision of the frozen matrices: full, or quantized to eight or four bits (QLoRA)"
    )
    targets: list[Literal["attention", "mlp"]] = Field(["attention", "mlp"], description="matrices that get adapters")

    @model_validator(mode="after")
    def _check_base(self) -> "AdapterSettings":
        if self.base != "full" and self.kind == "none":
            raise ValueError(f"base {self.base} cannot be trained without adapters; set kind to lora")
        return self

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of adapters where there is none."""
        names = ("r", "alpha", "dropout", "targets") if self.kind == "none" else ()
        return dict.fromkeys(names, "applies to adapters, but kind is none")


class TuningSettings(Settings):
    """Settings of fine-tuning; the key ``finetune``."""

    former_names: ClassVar = {
        "marks": "special_tokens",
        "thaw_every": "unfreeze_every_epochs",
        "replay": "replay_fraction",
    }

    batch_size: int = Field(16, ge=1, description="rows per update")
    lm_weight: float = Field(
        0.5, ge=0, description="weight of the language-model loss added to a head's own (GPT-1's lambda)"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of embeddings, attention and residuals; by default as in pre-training"
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the heads' inputs")
    pool: Literal["last", "mean"] = Field(
        "mean",
        description="what the heads of tasks whose pool is auto read: the mean of a text's tokens, or the last one, "
        "which transformers has a class for",
    )
    special_tokens: Literal["auto", "new", "eot"] = Field(
        "auto",
        description="start, delimiter, extract: new tokens, or end-of-text for all of them; auto: eot with adapters",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="layer-wise learning rate decay: factor per layer, from the last one down"
    )
    freeze: list[str] = Field([], description="patterns of parameters that are not trained: embed.* or blocks.0.*")
    unfreeze_every_epochs: float = Field(
        0.0,
        ge=0,
        description="gradual unfreezing: epochs until the next layer is trained, from the last one down; 0 = off",
    )
    max_restarts: int = Field(
        0,
        ge=0,
        description="restarts with another random head where a model answers every row alike after a quarter of the "
        "updates; 0 = that is only reported",
    )
    mixing: Literal["proportional", "equal"] | Annotated[float, Field(ge=1)] = Field(
        "proportional", description="sampling of several tasks; a number is a temperature: 1 is proportional"
    )
    replay_fraction: float = Field(
        0.0, ge=0, lt=1, description="fraction of updates on the text that the model was pre-trained on"
    )
    adapter: AdapterSettings = AdapterSettings()
    keep_base: bool = Field(
        True,
        description="keep the model that adapters are trained on in the run, as hard links or a copy; false: the run "
        "depends on that model, by its path and hash",
    )

    def unused_settings(self) -> dict[str, str]:
        """Return the settings that apply to adapters only, where there are none."""
        return (
            {"keep_base": "applies to adapters, not finetune.adapter.kind none"} if self.adapter.kind == "none" else {}
        )
