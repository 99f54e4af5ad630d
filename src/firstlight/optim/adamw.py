"""AdamW (Loshchilov and Hutter 2019), torch's own, fused."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from firstlight.config import Settings
from firstlight.optim.groups import Named
from firstlight.optim.schedule import Schedule

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Settings):
    """Settings of AdamW."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="of matrices and embeddings; never of vectors")
    clip_norm: float = Field(1.0, ge=0, description="bound on the norm of the gradient; 0 = none")
    clip_value: float = Field(0.0, ge=0, description="bound on each value of the gradient; 0 = none")
    schedule: Schedule = Schedule()


def build_adamw(named: list[Named], settings: AdamW) -> torch.optim.Optimizer:
    """Return AdamW with two groups: matrices decay, vectors (norms, biases) do not."""
    decay = [p for _, p in named if p.ndim >= 2]
    keep = [p for _, p in named if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )
