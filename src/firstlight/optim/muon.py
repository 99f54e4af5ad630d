"""Muon (Jordan et al. 2024): orthogonalized momentum for hidden matrices, AdamW for all other parameters.

Why not torch.optim.Muon: it computes in bf16 one matrix at a time, which on a CPU costs several times as much. Here
matrices of equal shape (a tall one as its transpose) are stacked and iterated together, in bf16 where the processor has
units for it and in fp32 elsewhere. Fused matrices are split into their parts first, since each orthogonalized matrix
must be one linear map.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from firstlight.optim.adamw import Beta, FusedAdamW, adamw_state_shapes
from firstlight.optim.groups import NamedParameter, group_parameters, is_hidden
from firstlight.optim.settings import OptimizerSettings

# Coefficients of the quintic whose iteration sends singular values to about 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315

# Values in one stack: larger stacks are not faster, and iterating costs several times their memory.
_MAX_STACK_NUMEL = 2**24


class Muon(OptimizerSettings):
    """Settings of Muon, and of AdamW for the parameters that are not hidden matrices."""

    former_names: ClassVar = {"adjust": "adjust_lr_fn"}

    name: Literal["muon"] = "muon"
    lr: float = Field(0.02, gt=0, description="learning rate of hidden matrices")
    momentum: float = Field(0.95, ge=0, lt=1, description="decay of the momentum of hidden matrices")
    nesterov: bool = Field(True, description="use Nesterov momentum")
    ns_steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations")
    ns_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="precision of these iterations; auto: bf16 on a GPU and on a CPU that has bf16 units, else fp32",
    )
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = Field(
        "original",
        description="scale of the update by matrix shape: sqrt(max(1, rows/columns)), or 0.2 sqrt(max(rows, columns))",
    )
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay of hidden matrices (Muon), embeddings and head (AdamW)"
    )
    adamw_lr: float = Field(3e-3, gt=0, description="learning rate of embeddings, head, norms and biases")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="decay of AdamW's two moments")
    eps: float = Field(1e-8, gt=0, description="added to the denominator of AdamW's update")

    lr_fields: ClassVar = ("lr", "adamw_lr")

    def build(
        self,
        named_parameters: Sequence[NamedParameter],
        *,
        fused_splits: Mapping[str, Sequence[int]],
        lr_scales: Mapping[str, float],
    ) -> torch.optim.Optimizer:
        """Build Muon with a group of hidden matrices, and groups of embeddings and of vectors, which AdamW updates."""
        del lr_scales
        return MuonOptimizer(named_parameters, self, fused_splits)

    def state_shapes(self, name: str, parameter: nn.Parameter) -> dict[str, tuple[int, ...]]:
        """Return the momentum of a hidden matrix, and AdamW's state of any other parameter."""
        if is_hidden(name, parameter):
            return {"momentum": tuple(parameter.shape)}
        return adamw_state_shapes(parameter)

    def resolve(self, device: torch.device) -> Self:
        """Return the settings with the precision of the iterations on a device."""
        if self.ns_precision != "auto":
            return self
        return self.model_copy(update={"ns_precision": "bf16" if has_fast_bf16(device) else "fp32"})

    @property
    def equivalent_adamw_lr(self) -> float:
        """The learning rate of AdamW's part."""
        return self.adamw_lr


@dataclass(slots=True)
class _MatrixView:
    """One linear map: ``n_rows`` rows of a parameter from ``start``, transposed in the stack if it is tall."""

    parameter: nn.Parameter
    start: int
    n_rows: int
    tall: bool

    def of(self, tensor: Tensor) -> Tensor:
        part = tensor[self.start : self.start + self.n_rows]
        return part.t() if self.tall else part


class MuonOptimizer(torch.optim.Optimizer):
    """Muon over stacks of matrices of equal shape, with an AdamW for all other parameters.

    Both keep their state in ``state``, one tensor per parameter, so that a checkpoint does not depend
    on how matrices are stacked.

    Args:
        named_parameters: every parameter with its name.
        settings: learning rates and the rest.
        fused_splits: rows of each part of a fused matrix, by name.
    """

    def __init__(
        self, named_parameters: Sequence[NamedParameter], settings: Muon, fused_splits: Mapping[str, Sequence[int]]
    ) -> None:
        members = group_parameters(named_parameters)
        groups: list[dict[str, Any]] = []
        for name, pairs in members.items():
            hidden = name == "hidden"
            groups.append(
                {
                    "params": [p for _, p in pairs],
                    "name": name,
                    "fused": not hidden,
                    "lr": settings.lr if hidden else settings.adamw_lr,
                    "weight_decay": 0.0 if name == "vectors" else settings.weight_decay,
                }
            )
        super().__init__(groups, {})
        self._settings = settings
        adamw_groups = [{**g} for g in self.param_groups if g["name"] != "hidden"]
        self.adamw = FusedAdamW(adamw_groups, betas=settings.betas, eps=settings.eps) if adamw_groups else None
        self._stacks: dict[tuple[int, int], list[_MatrixView]] = {}
        for name, parameter in members.get("hidden", []):
            self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            for view in _views(parameter, fused_splits.get(name)):
                columns = parameter.shape[1]
                shape = (min(view.n_rows, columns), max(view.n_rows, columns))
                self._stacks.setdefault(shape, []).append(view)
        self._share_state()

    def _share_state(self) -> None:
        if self.adamw is not None:
            self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, for callers of torch's own protocol."""
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
        params = [p for p in groups["hidden"]["params"] if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params]
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - s.momentum)
        directions = torch._foreach_lerp(grads, momenta, s.momentum) if s.nesterov else momenta
        direction_of = dict(zip(params, directions, strict=True))
        if s.weight_decay:
            torch._foreach_mul_(params, 1 - lr * s.weight_decay)
        for views in self._batches(direction_of):
            stack = torch.stack([view.of(direction_of[view.parameter]) for view in views])
            for view, update in zip(views, orthogonalize(stack, s.ns_steps, s.ns_precision).unbind(), strict=True):
                target = view.of(view.parameter)
                target.add_(update.to(target.dtype), alpha=-lr * self._lr_ratio(view))

    def _batches(self, direction_of: Mapping[nn.Parameter, Tensor]) -> Iterator[list[_MatrixView]]:
        """Yield the matrices that have a gradient, equal shapes together, as many at a time as one stack takes."""
        for (rows, columns), views in self._stacks.items():
            with_grad = [view for view in views if view.parameter in direction_of]
            n = max(1, _MAX_STACK_NUMEL // (rows * columns))
            yield from (with_grad[i : i + n] for i in range(0, len(with_grad), n))

    def _lr_ratio(self, view: _MatrixView) -> float:
        rows, columns = view.n_rows, view.parameter.shape[1]
        if self._settings.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))


def _views(parameter: nn.Parameter, split: Sequence[int] | None) -> Iterator[_MatrixView]:
    parts = split or (parameter.shape[0],)
    assert sum(parts) == parameter.shape[0], f"parts {tuple(parts)} of a matrix of shape {tuple(parameter.shape)}"
    start = 0
    for n_rows in parts:
        yield _MatrixView(parameter, start, n_rows, n_rows > parameter.shape[1])
        start += n_rows


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are faster than fp32 ones on a device."""
    if device.type == "cpu":
        return _cpu_has_fast_bf16()
    return device.type == "cuda"


@cache
def _cpu_has_fast_bf16() -> bool:
    # Without units oneDNN emulates bf16, several times slower than fp32.
    flags = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(flag is not None and flag() for flag in flags)


def orthogonalize(stack: Tensor, steps: int, precision: str = "auto") -> Tensor:
    """Orthogonalize each matrix of a stack (N, R, S), R <= S, approximately, by Newton-Schulz iterations.

    Args:
        stack: the matrices.
        steps: number of iterations.
        precision: fp32, bf16, or auto: bf16 where it is fast on the device, else the dtype of the stack.
    """
    fast = stack.dtype != torch.float64 and has_fast_bf16(stack.device)
    use_bf16 = precision == "bf16" or (precision == "auto" and fast)
    x = stack.bfloat16() if use_bf16 else stack.float() if precision == "fp32" else stack
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram = x.new_empty(x.shape[0], x.shape[1], x.shape[1])
    poly, out = torch.empty_like(gram), torch.empty_like(x)
    for _ in range(steps):
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C, out=poly)
        torch.baddbmm(x, poly, x, beta=_A, out=out)
        x, out = out, x
    return x
