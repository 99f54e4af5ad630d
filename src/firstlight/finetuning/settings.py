"""How a pre-trained model is turned to tasks: losses, what learns how fast, mixing, adapters."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from firstlight.config import Settings


class AdapterSettings(Settings):
    """Small matrices that learn in the place of the large ones (Hu et al. 2021), by the library peft."""

    kind: Literal["none", "lora", "dora", "rslora"] = Field("none", description="none: all weights learn")
    r: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="the product counts alpha / r times (rslora: alpha / sqrt(r))")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what the small matrices read")
    base: Literal["full", "int8", "nf4"] = Field(
        "full", description="the matrices beside them: as they are, or in eight or four bits (QLoRA)"
    )
    targets: list[Literal["attention", "mlp"]] = Field(["attention", "mlp"], description="which matrices get them")

    @model_validator(mode="after")
    def _learns(self) -> "AdapterSettings":
        if self.base != "full" and self.kind == "none":
            raise ValueError(f"base {self.base} learns nothing by itself; set kind to lora")
        return self


class TuningSettings(Settings):
    """The choices of fine-tuning."""

    batch_size: int = Field(32, ge=1, description="rows of one update")
    lm_weight: float = Field(
        0.5, ge=0, description="weight of the language-model loss beside a task's own (GPT-1's lambda)"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of embeddings, attention and residuals; as pre-trained where not set"
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="of what the heads read")
    marks: Literal["auto", "new", "eot"] = Field(
        "auto",
        description="start, delimiter, extract tokens: new ones, or end-of-text for all; auto: eot with adapters",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of a layer, as a share of that of the layer above it"
    )
    freeze: list[str] = Field([], description="patterns of parameters that do not learn, such as embed.* or blocks.0.*")
    thaw_every: float = Field(
        0.0,
        ge=0,
        description="epochs between layers that begin to learn, from the last one down; 0 = all from the start",
    )
    mixing: Literal["proportional", "equal"] | Annotated[float, Field(ge=1)] = Field(
        "proportional", description="of several tasks; a number is a temperature: 1 is proportional"
    )
    replay: float = Field(0.0, ge=0, lt=1, description="share of updates on the text that the model was pre-trained on")
    adapter: AdapterSettings = AdapterSettings()
