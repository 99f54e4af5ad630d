"""The interface of an optimizer: common settings, and the methods that the rest of the package calls."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import nn

from firstlight.config import TaggedSettings
from firstlight.optim.groups import NamedParameter
from firstlight.optim.schedule import ScheduleSettings


class OptimizerSettings(TaggedSettings):
    """Settings of an optimizer, and its interface.

    A new optimizer is one file with a class that derives from this one and implements ``build`` and ``state_shapes``:
    an entry of ``OPTIMIZERS``, or of another package, as ``optim.name="package.module:Class"``.
    """

    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of matrices and embeddings; vectors have none")
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 = none")
    clip_value: float = Field(0.0, ge=0, description="largest absolute value in the gradient; 0 = none")
    schedule: ScheduleSettings = ScheduleSettings()

    lr_fields: ClassVar[tuple[str, ...]] = ("lr",)
    """The settings that are learning rates."""

    resume_fields: ClassVar[tuple[str, ...]] = (
        "weight_decay",
        "clip_norm",
        "clip_value",
        "schedule",
        "betas",
        "momentum",
    )
    """The settings that a resumed run may change, besides the learning rates; a class need not have all of them."""

    supports_lr_scales: ClassVar[bool] = False
    """Whether ``build`` accepts ``lr_scales`` (layer-wise learning rate decay needs them)."""

    @abstractmethod
    def build(
        self,
        named_parameters: Sequence[NamedParameter],
        *,
        fused_splits: Mapping[str, Sequence[int]],
        lr_scales: Mapping[str, float],
    ) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            named_parameters: the trainable parameters and their names, each once.
            fused_splits: rows of each part of matrices that are several linear maps in one, by parameter name.
            lr_scales: factors of the learning rate by parameter name, 1 where a name is missing; empty unless
                ``supports_lr_scales``.
        """

    @abstractmethod
    def state_shapes(self, name: str, parameter: nn.Parameter) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor that ``optimizer.state[parameter]`` has after a step.

        Checkpoints save exactly these, and plans count their memory, so all state of an optimizer must be in them.
        """

    def resolve(self, device: torch.device) -> Self:
        """Return the settings with every ``auto`` replaced by its value on a device."""
        del device
        return self

    @property
    def equivalent_adamw_lr(self) -> float | None:
        """The learning rate that AdamW would have in this training, from which fine-tuning derives its own, or None."""
        return None
