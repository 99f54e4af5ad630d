"""MLPs: a matrix that widens, a bend, a matrix that narrows.

Uncompiled on a CPU, the second product keeps what went into the bend and not what came out, and bends once more in
the backward pass: about a fifth less to keep of a GPT-2 block, for one more pass over it. A compiler makes the same
choice by itself.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from firstlight.model.config import ModelConfig
from firstlight.model.kernels.linear import Linear, product
from firstlight.model.kernels.norm_rope import use_custom_backward


class GeluMLP(nn.Module):
    """Two matrices with a GELU between: in its tanh form as GPT-1 to GPT-3 have it, or the exact one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.n_embd)
        self.bend: Bend = Gelu if config.gelu == "tanh" else ExactGelu

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, bend, narrow."""
        return bent(self.bend, self.up(x), self.down)


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020) with gate and up in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.n_embd, 2 * config.ffn_dim, bias=False)
        self.down = Linear(config.ffn_dim, config.n_embd, bias=False)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Let one half gate the other."""
        return bent(SwiGLU, self.gate_up(x), self.down)


class Gelu:
    """GELU in its tanh form."""

    @staticmethod
    def value(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Return x times the normal distribution's function of x, nearly."""
        return F.gelu(x, approximate="tanh")

    @staticmethod
    def slope(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bent numbers again, and the gradient of ``x`` from theirs."""
        return Gelu.value(x), torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


class ExactGelu:
    """GELU by the error function, as nanoGPT has it."""

    @staticmethod
    def value(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Return x times the normal distribution's function of x."""
        return F.gelu(x)

    @staticmethod
    def slope(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bent numbers again, and the gradient of ``x`` from theirs."""
        return ExactGelu.value(x), torch.ops.aten.gelu_backward(grad, x)


class SwiGLU:
    """SiLU of the first half of the last dimension, times the second."""

    @staticmethod
    def value(x: Float[Tensor, "... G"]) -> Float[Tensor, "... F"]:
        """Return the gated half."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    def slope(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated half and the gradient of both."""
        gate, up = x.chunk(2, dim=-1)
        opened, both = F.silu(gate), torch.empty_like(x)
        d_gate, d_up = both.chunk(2, dim=-1)
        torch.mul(grad, opened, out=d_up)
        torch.mul(grad, up, out=d_gate)
        torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        return opened.mul_(up), both


Bend = type[Gelu] | type[ExactGelu] | type[SwiGLU]


def bent(bend: Bend, x: Float[Tensor, "B T F"], down: nn.Module) -> Float[Tensor, "B T C"]:
    """Return ``down`` of the bent numbers."""
    # What stands in the place of our matrix (an adapter), or watches it (a hook), is called as a module.
    is_plain = type(down) is Linear and not down._forward_hooks and not down._forward_pre_hooks
    if is_plain and torch.is_grad_enabled() and use_custom_backward(x, weight := cast(Tensor, down.weight)):
        narrowed: Tensor = _Bent.apply(x, weight, down.bias, bend)  # type: ignore[no-untyped-call]
        return narrowed
    y: Tensor = down(bend.value(x))
    return y


class _Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, bend: Bend) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bend = bend
        return product(bend.value(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        y, d_x = ctx.bend.slope(x, product(grad, weight.t()))
        flat = grad.reshape(-1, grad.shape[-1])
        d_weight = flat.t() @ y.reshape(-1, y.shape[-1]) if wants_weight else None
        return d_x, d_weight, flat.sum(0) if wants_bias else None, None
