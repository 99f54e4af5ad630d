"""Muon (Jordan et al. 2024): momentum made orthogonal, for hidden matrices; AdamW for the rest.

Ours, because torch.optim.Muon computes in bf16 one matrix at a time, which on a CPU costs several
times as much. Here matrices of equal shape (a tall one as its transpose) are stacked and iterated
together, in bf16 where the processor has units for it and in fp32 elsewhere. Fused matrices are cut into
their parts first: what is orthogonal must be one linear map.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from firstlight.optim.adamw import Beta, FusedAdamW
from firstlight.optim.groups import Named, grouped
from firstlight.optim.settings import OptimizerSettings

# Quintic whose repetition sends singular values to about 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315

# Numbers in one stack: more of them would gain no speed and cost several times their own memory.
_STACK = 2**24


class Muon(OptimizerSettings):
    """Settings of Muon and of the AdamW beside it."""

    name: Literal["muon"] = "muon"
    lr: float = Field(0.02, gt=0, description="learning rate of hidden matrices")
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = Field(True, description="look ahead by one step of momentum")
    ns_steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations")
    ns_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the iterations; auto: bf16 on a GPU and on a CPU that has bf16 units, else fp32"
    )
    adjust: Literal["original", "match_rms_adamw"] = Field(
        "original", description="scale by shape: sqrt(max(1, rows/columns)), or 0.2 sqrt(max(rows, columns))"
    )
    weight_decay: float = Field(0.0, ge=0, description="of hidden matrices, and of embeddings and head in AdamW")
    adamw_lr: float = Field(3e-3, gt=0, description="learning rate of embeddings, head, norms and biases")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW's")
    eps: float = Field(1e-8, gt=0, description="AdamW's")


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

    Both keep their state in ``state``, one tensor a parameter, so that a checkpoint does not depend
    on how matrices are stacked.

    Args:
        named: every parameter with its name.
        settings: learning rates and the rest.
        splits: rows of each part of a fused matrix, by name.
    """

    def __init__(self, named: Sequence[Named], settings: Muon, fused_splits: Mapping[str, Sequence[int]]) -> None:
        members = grouped(named)
        groups: list[dict[str, Any]] = []
        for name, pairs in members.items():
            ours = name == "hidden"
            groups.append(
                {
                    "params": [p for _, p in pairs],
                    "name": name,
                    "fused": not ours,
                    "lr": settings.lr if ours else settings.adamw_lr,
                    "weight_decay": 0.0 if name == "vectors" else settings.weight_decay,
                }
            )
        super().__init__(groups, {})
        self._settings = settings
        rest = [{**g} for g in self.param_groups if g["name"] != "hidden"]
        self.adamw = FusedAdamW(rest, betas=settings.betas, eps=settings.eps) if rest else None
        self._stacks: dict[tuple[int, int], list[_Piece]] = {}
        for name, parameter in members.get("hidden", []):
            self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            for piece in _pieces(parameter, fused_splits.get(name)):
                columns = parameter.shape[1]
                shape = (min(piece.rows, columns), max(piece.rows, columns))
                self._stacks.setdefault(shape, []).append(piece)
        self._share_state()

    def _share_state(self) -> None:
        if self.adamw is not None:
            self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave, for callers that know torch's protocol only."""
        super().load_state_dict(state_dict)
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        groups = {g["name"]: g for g in self.param_groups}
        if self.adamw is not None:
            for group in self.adamw.param_groups:
                group["lr"] = groups[group["name"]]["lr"]
            self.adamw.step()
        if "hidden" not in groups:
            return
        s, lr = self._settings, float(groups["hidden"]["lr"])
        held = [p for p in groups["hidden"]["params"] if p.grad is not None]
        if not held:
            return
        grads = [p.grad for p in held]
        momenta = [self.state[p]["momentum"] for p in held]
        torch._foreach_lerp_(momenta, grads, 1 - s.momentum)
        ahead = dict(zip(held, torch._foreach_lerp(grads, momenta, s.momentum) if s.nesterov else momenta, strict=True))
        if s.weight_decay:
            torch._foreach_mul_(held, 1 - lr * s.weight_decay)
        for pieces in self._live(ahead):
            stack = torch.stack([piece.of(ahead[piece.parameter]) for piece in pieces])
            for piece, update in zip(pieces, orthogonal(stack, s.ns_steps, s.ns_precision).unbind(), strict=True):
                target = piece.of(piece.parameter)
                target.add_(update.to(target.dtype), alpha=-lr * self._scale(piece))

    def _live(self, ahead: Mapping[nn.Parameter, Tensor]) -> Iterator[list[_Piece]]:
        """Yield pieces of equal shape that have a gradient, as many at a time as one stack takes."""
        for (rows, columns), pieces in self._stacks.items():
            live = [piece for piece in pieces if piece.parameter in ahead]
            n = max(1, _STACK // (rows * columns))
            yield from (live[i : i + n] for i in range(0, len(live), n))

    def _scale(self, piece: _Piece) -> float:
        rows, columns = piece.rows, piece.parameter.shape[1]
        if self._settings.adjust == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))


def _pieces(parameter: nn.Parameter, split: Sequence[int] | None) -> Iterator[_Piece]:
    parts = split or (parameter.shape[0],)
    assert sum(parts) == parameter.shape[0], f"parts {tuple(parts)} of a matrix of shape {tuple(parameter.shape)}"
    first = 0
    for rows in parts:
        yield _Piece(parameter, first, rows, rows > parameter.shape[1])
        first += rows


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether bf16 matrix products are faster than fp32 ones on a device."""
    if device.type == "cpu":
        return _cpu_has_bf16_units()
    return device.type == "cuda"


@cache
def _cpu_has_bf16_units() -> bool:
    # Without units oneDNN emulates bf16, several times slower than fp32.
    flags = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(flag is not None and flag() for flag in flags)


def orthogonal(stack: Tensor, steps: int, precision: str = "auto") -> Tensor:
    """Return the nearly orthogonal factor of each matrix of a stack (N, R, S), R <= S, by Newton-Schulz.

    Args:
        stack: the matrices.
        steps: iterations.
        precision: fp32, bf16, or auto: bf16 where the device has units for it, else the stack's own.
    """
    fast = stack.dtype != torch.float64 and has_bf16_units(stack.device)
    low = precision == "bf16" or (precision == "auto" and fast)
    x = stack.bfloat16() if low else stack.float() if precision == "fp32" else stack
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram = x.new_empty(x.shape[0], x.shape[1], x.shape[1])
    poly, fresh = torch.empty_like(gram), torch.empty_like(x)
    for _ in range(steps):
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C, out=poly)
        torch.baddbmm(x, poly, x, beta=_A, out=fresh)
        x, fresh = fresh, x
    return x
