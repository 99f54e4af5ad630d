"""Muon (Jordan et al. 2024): momentum made orthogonal, for hidden matrices; AdamW for the rest.

Ours, because torch.optim.Muon computes in bf16 one matrix at a time, which on a CPU costs several
times as much. Here matrices of equal shape (a tall one as its transpose) are stacked and iterated
together, in fp32 on a CPU and bf16 on a GPU. Fused matrices are cut into their parts first: what is
orthogonal must be one linear map.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from firstlight.config import Settings
from firstlight.optim.schedule import Schedule

# Quintic whose repetition sends singular values to about 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(Settings):
    """Settings of Muon and of the AdamW beside it."""

    name: Literal["muon"] = "muon"
    lr: float = Field(0.02, gt=0, description="learning rate of hidden matrices")
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = Field(True, description="look ahead by one step of momentum")
    ns_steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations")
    adjust: Literal["original", "match_rms_adamw"] = Field(
        "original", description="scale by shape: sqrt(max(1, rows/columns)), or 0.2 sqrt(max(rows, columns))"
    )
    weight_decay: float = Field(0.0, ge=0, description="of hidden matrices, and of embeddings and head in AdamW")
    adamw_lr: float = Field(3e-3, gt=0, description="learning rate of embeddings, head, norms and biases")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's")
    eps: float = Field(1e-8, gt=0, description="AdamW's")
    clip_norm: float = Field(1.0, ge=0, description="bound on the norm of the gradient; 0 = none")
    clip_value: float = Field(0.0, ge=0, description="bound on each value of the gradient; 0 = none")
    schedule: Schedule = Schedule()


@dataclass(slots=True)
class _Piece:
    """One linear map: rows ``first`` to ``first + rows`` of a parameter, transposed in the stack if tall."""

    parameter: nn.Parameter
    first: int
    rows: int
    tall: bool

    def of(self, tensor: Tensor) -> Tensor:
        part = tensor[self.first : self.first + self.rows]
        return part.t() if self.tall else part


class MuonOptimizer(torch.optim.Optimizer):
    """Muon over stacks of equal shape, with an AdamW for all other parameters.

    Args:
        named: every parameter with its name.
        settings: learning rates and the rest.
        splits: rows of each part of a fused matrix, by name.
        is_hidden: tells the matrices that Muon takes.
    """

    def __init__(
        self, named: Sequence[tuple[str, nn.Parameter]], settings: Muon, splits: Mapping[str, Sequence[int]],
        is_hidden: Callable[[str, nn.Parameter], bool],
    ) -> None:  # fmt: skip
        hidden = [(n, p) for n, p in named if is_hidden(n, p)]
        rest = [(n, p) for n, p in named if not is_hidden(n, p)]
        groups: list[dict[str, Any]] = [
            {"params": [p for _, p in hidden], "lr": settings.lr, "weight_decay": settings.weight_decay},
            {"params": [p for _, p in rest if p.ndim >= 2], "lr": settings.adamw_lr, "weight_decay": settings.weight_decay},
            {"params": [p for _, p in rest if p.ndim < 2], "lr": settings.adamw_lr, "weight_decay": 0.0},
        ]
        super().__init__([g for g in groups if g["params"]], {})
        self._settings = settings
        self._hidden_group = self.param_groups[0] if hidden else None
        adamw_groups = [g for g in self.param_groups if g is not self._hidden_group]
        self.adamw = (
            torch.optim.AdamW([{**g} for g in adamw_groups], betas=settings.betas, eps=settings.eps, fused=True)
            if adamw_groups
            else None
        )
        self._adamw_groups = adamw_groups
        self._stacks: dict[tuple[int, int], list[_Piece]] = {}
        for name, parameter in hidden:
            first = 0
            for rows in splits.get(name, (parameter.shape[0],)):
                columns = parameter.shape[1]
                shape = (min(rows, columns), max(rows, columns))
                self._stacks.setdefault(shape, []).append(_Piece(parameter, first, rows, rows > columns))
                first += rows
        # One buffer a parameter, so that a checkpoint does not depend on how matrices are stacked.
        self.buffers = {p: torch.zeros_like(p) for _, p in hidden}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        if self.adamw is not None:
            for mine, theirs in zip(self._adamw_groups, self.adamw.param_groups, strict=True):
                theirs["lr"] = mine["lr"]
            self.adamw.step()
        if self._hidden_group is None:
            return
        s, lr = self._settings, float(self._hidden_group["lr"])
        held = [p for p in self.buffers if p.grad is not None]
        grads = [p.grad for p in held if p.grad is not None]
        momenta = [self.buffers[p] for p in held]
        torch._foreach_lerp_(momenta, grads, 1 - s.momentum)
        ahead = dict(zip(held, torch._foreach_lerp(grads, momenta, s.momentum) if s.nesterov else momenta, strict=True))
        if s.weight_decay:
            torch._foreach_mul_(held, 1 - lr * s.weight_decay)
        for pieces in self._stacks.values():
            live = [piece for piece in pieces if piece.parameter in ahead]
            if not live:
                continue
            updates = orthogonal(torch.stack([piece.of(ahead[piece.parameter]) for piece in live]), s.ns_steps)
            for piece, update in zip(live, updates.unbind(), strict=True):
                target = piece.of(piece.parameter)
                target.add_(update.to(target.dtype), alpha=-lr * self._scale(piece))

    def _scale(self, piece: _Piece) -> float:
        rows, columns = piece.rows, piece.parameter.shape[1]
        if self._settings.adjust == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))


def orthogonal(stack: Tensor, steps: int) -> Tensor:
    """Return the nearly orthogonal factor of each matrix of a stack (N, R, S), R <= S, by Newton-Schulz."""
    x = stack.bfloat16() if stack.device.type == "cuda" else stack
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram, poly, fresh = torch.empty_like(x[:, :, : x.shape[1]]), torch.empty_like(x[:, :, : x.shape[1]]), torch.empty_like(x)
    for _ in range(steps):
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C, out=poly)
        torch.baddbmm(x, poly, x, beta=_A, out=fresh)
        x, fresh = fresh, x
    return x
