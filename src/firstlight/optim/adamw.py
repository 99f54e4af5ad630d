"""AdamW (Loshchilov and Hutter 2019), torch's own, fused."""

import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from firstlight.optim.groups import Named
from firstlight.optim.settings import OptimizerSettings

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(OptimizerSettings):
    """Settings of AdamW."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="of matrices and embeddings; never of vectors")


class FusedAdamW(torch.optim.AdamW):
    """torch's, fused, with a step that does not load the compiler only to keep out of its way."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        _STEP(self, closure)


_STEP = inspect.unwrap(torch.optim.Adam.step)


def spare_the_compiler() -> None:
    """Keep torch's optimisers from loading the compiler, for a second and a half, only to be left alone by it.

    Each such method asks the compiler at its first call for a form of itself that is not compiled, and keeps that
    in an attribute. We compile no optimiser, so the method itself serves.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)  # noqa: B010 - two underscores look like a class's own name


def build_adamw(named: list[Named], settings: AdamW, scales: Mapping[str, float]) -> torch.optim.Optimizer:
    """Return AdamW with two groups for each scale: matrices decay, vectors (norms, biases) do not."""
    groups = []
    for scale in dict.fromkeys(scales.get(name, 1.0) for name, _ in named):
        mine = [p for name, p in named if scales.get(name, 1.0) == scale]
        for decays in (True, False):
            members = [p for p in mine if (p.ndim >= 2) == decays]
            weight_decay = settings.weight_decay if decays else 0.0
            groups.append({"params": members, "weight_decay": weight_decay, "lr": settings.lr * scale})
    return FusedAdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps)
