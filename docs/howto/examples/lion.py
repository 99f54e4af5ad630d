"""Lion (Chen et al. 2023): the sign of interpolated momentum, with decoupled weight decay."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from firstlight.optim import OptimizerSettings


class Lion(OptimizerSettings):
    """Settings of Lion, and how to build it."""

    lr: float = Field(1e-4, gt=0, description="learning rate; about a tenth of AdamW's")
    weight_decay: float = Field(1.0, ge=0, description="of matrices and embeddings; about ten times AdamW's")
    betas: tuple[float, float] = Field((0.9, 0.99), description="of the momentum: in the update, and its decay")

    def build(
        self,
        named_parameters: Sequence[tuple[str, nn.Parameter]],
        *,
        fused_splits: Mapping[str, Sequence[int]],
        lr_scales: Mapping[str, float],
    ) -> torch.optim.Optimizer:
        """Build the optimizer, without weight decay for norms and biases."""
        matrices = [p for _, p in named_parameters if p.ndim >= 2]
        vectors = [p for _, p in named_parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return LionOptimizer([g for g in groups if g["params"]], lr=self.lr, betas=self.betas)

    def state_shapes(self, name: str, parameter: nn.Parameter) -> dict[str, tuple[int, ...]]:
        """Return the momentum, which is all the state there is."""
        return {"exp_avg": tuple(parameter.shape)}


class LionOptimizer(torch.optim.Optimizer):
    """The update rule."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            update_beta, momentum_beta = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p not in self.state:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                momentum = self.state[p]["exp_avg"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.lerp(p.grad, momentum, update_beta).sign_(), alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - momentum_beta)
