"""AdamW (Loshchilov and Hutter 2019), torch's own, fused."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from firstlight.optim.groups import NamedParameter
from firstlight.optim.settings import OptimizerSettings

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(OptimizerSettings):
    """Settings of AdamW."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0, description="added to the denominator of the update")
    weight_decay: float = Field(0.1, ge=0, description="weight decay of matrices and embeddings; vectors have none")

    supports_lr_scales: ClassVar[bool] = True

    def build(
        self,
        named_parameters: Sequence[NamedParameter],
        *,
        fused_splits: Mapping[str, Sequence[int]],
        lr_scales: Mapping[str, float],
    ) -> torch.optim.Optimizer:
        """Build AdamW with two groups for each learning rate: matrices decay, vectors (norms, biases) do not."""
        del fused_splits
        groups = []
        for scale in dict.fromkeys(lr_scales.get(name, 1.0) for name, _ in named_parameters):
            scaled = [p for name, p in named_parameters if lr_scales.get(name, 1.0) == scale]
            for decays in (True, False):
                members = [p for p in scaled if (p.ndim >= 2) == decays]
                weight_decay = self.weight_decay if decays else 0.0
                groups.append({"params": members, "weight_decay": weight_decay, "lr": self.lr * scale})
        return FusedAdamW([g for g in groups if g["params"]], lr=self.lr, betas=self.betas, eps=self.eps)

    def state_shapes(self, name: str, parameter: nn.Parameter) -> dict[str, tuple[int, ...]]:
        """Return AdamW's two moments and its count of steps."""
        del name
        return adamw_state_shapes(parameter)

    @property
    def equivalent_adamw_lr(self) -> float:
        """The learning rate."""
        return self.lr


def adamw_state_shapes(parameter: nn.Parameter) -> dict[str, tuple[int, ...]]:
    """Return name and shape of the tensors that torch's AdamW keeps for a parameter."""
    return {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}


class FusedAdamW(torch.optim.AdamW):
    """torch's AdamW, fused, with a step that does not import torch.compile's machinery."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        _STEP(self, closure)


_STEP = inspect.unwrap(torch.optim.Adam.step)


def avoid_dynamo_import() -> None:
    """Keep torch's optimizers from importing torch._dynamo, which takes a second and a half and is not used.

    Methods of ``torch.optim.Optimizer`` are excluded from compilation: each asks dynamo at its first call for an
    uncompiled form of itself, and keeps that in an attribute. No optimizer is compiled here, so the method itself does.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        wrapped = getattr(method, "__wrapped__", None)
        if wrapped is not None and not hasattr(wrapped, "__dynamo_disable"):
            setattr(wrapped, "__dynamo_disable", wrapped)  # noqa: B010 - two underscores look like a private name
