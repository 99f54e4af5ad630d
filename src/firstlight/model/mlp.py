"""MLPs: a linear layer that widens, an activation, a linear layer that narrows.

To add one, write a subclass of ``MLP`` and a line in ``parts.MLPS``, or name it from outside as
``model.mlp = "package.module:Class"``.

Uncompiled on a CPU, activation and second linear layer are one autograd function that saves the activation's input
only, and recomputes its output in the backward pass: about a fifth less memory for a GPT-2 block, for one more pass
over it. A compiler makes the same choice by itself.
"""
# ruff: noqa: ARG002, ARG003 - the interface's own methods ignore their arguments

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from firstlight.model.config import ModelConfig
from firstlight.model.kernels.linear import Linear, is_batch_invariant, linear_forward
from firstlight.model.kernels.norm_rope import use_custom_backward
from firstlight.model.parts import load_part


@runtime_checkable
class Activation(Protocol):
    """An activation with a backward pass that starts from its input."""

    @staticmethod
    def forward(x: Float[Tensor, "... G"]) -> Float[Tensor, "... F"]:
        """Compute the activation."""
        ...

    @staticmethod
    def backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the activation again, and the gradient of ``x`` from that of the activation."""
        ...


class TanhGelu:
    """GELU in its tanh approximation."""

    @staticmethod
    def forward(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Compute the activation."""
        return F.gelu(x, approximate="tanh")

    @staticmethod
    def backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the activation again, and the gradient of ``x`` from that of the activation."""
        return TanhGelu.forward(x), torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


class Gelu:
    """Exact GELU, with the error function."""

    @staticmethod
    def forward(x: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Compute the activation."""
        return F.gelu(x)

    @staticmethod
    def backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the activation again, and the gradient of ``x`` from that of the activation."""
        return Gelu.forward(x), torch.ops.aten.gelu_backward(grad, x)


class SwiGLU:
    """SiLU of the first half of the last dimension, times the second half."""

    @staticmethod
    def forward(x: Float[Tensor, "... G"]) -> Float[Tensor, "... F"]:
        """Compute the activation."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    def backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the activation again, and the gradient of ``x`` from that of the activation."""
        gate, up = x.chunk(2, dim=-1)
        activated, d_x = F.silu(gate), torch.empty_like(x)
        d_gate, d_up = d_x.chunk(2, dim=-1)
        torch.mul(grad, activated, out=d_up)
        torch.mul(grad, up, out=d_gate)
        torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        return activated.mul_(up), d_x


class MLP(nn.Module, ABC):
    """The interface of an MLP, built as ``MLP(config)``.

    Matrices start normal with ``init_std``, except that of a last linear layer called ``down``, which is a residual
    projection (``model.residual_init``); vectors start at zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    @classmethod
    def default_d_ff(cls, n_embd: int) -> int:
        """Return the inner width where ``model.d_ff`` is not set."""
        return 4 * n_embd

    @classmethod
    def fused_splits(cls, config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
        """Return the rows of each part of fused matrices, by parameter name; optimizers may update parts separately."""
        return {}

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Transform each position."""


class TanhGeluMLP(MLP):
    """Two linear layers with GELU in its tanh approximation between (GPT-1 to GPT-3)."""

    activation: ClassVar[type[Activation]] = TanhGelu

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.up = Linear(config.n_embd, config.ffn_dim, bias=config.defaults.bias)
        self.down = Linear(config.ffn_dim, config.n_embd, bias=config.defaults.bias)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, activate, narrow."""
        return activation_linear(self.activation, self.up(x), self.down)


class GeluMLP(TanhGeluMLP):
    """Two linear layers with exact GELU between (nanoGPT)."""

    activation = Gelu


class SwiGLUMLP(MLP):
    """SwiGLU (Shazeer 2020) with gate and up projection fused into one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate_up = Linear(config.n_embd, 2 * config.ffn_dim, bias=config.defaults.bias)
        self.down = Linear(config.ffn_dim, config.n_embd, bias=config.defaults.bias)

    @classmethod
    def default_d_ff(cls, n_embd: int) -> int:
        """Return 8/3 of the width, rounded up to a multiple of 32: as many weights as two matrices of 4 n_embd."""
        return -(-n_embd * 8 // 3 // 32) * 32

    @classmethod
    def fused_splits(cls, config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
        """Return the rows of gate and up."""
        return {"gate_up.weight": (config.ffn_dim, config.ffn_dim)}

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, gate, narrow."""
        return activation_linear(SwiGLU, self.gate_up(x), self.down)


def mlp_class(config: ModelConfig) -> type[MLP]:
    """Return the class of a model's MLPs."""
    found: type[MLP] = load_part("mlp", config.choice("mlp"))
    return found


def activation_linear(
    activation: type[Activation], x: Float[Tensor, "B T G"], down: nn.Module
) -> Float[Tensor, "B T C"]:
    """Apply an activation, then the linear layer ``down``."""
    # An adapter in the place of our layer, or a layer with hooks, must be called as a module.
    is_plain = type(down) is Linear and not down._forward_hooks and not down._forward_pre_hooks
    if is_plain and torch.is_grad_enabled() and use_custom_backward(x, weight := cast(Tensor, down.weight)):
        output: Tensor = _ActivationLinear.apply(x, weight, down.bias, activation)  # type: ignore[no-untyped-call]
        return output
    if is_batch_invariant() and x.shape[0] > 1:
        activated = torch.cat([activation.forward(row) for row in torch.split(x, 1)])
    else:
        activated = activation.forward(x)
    y: Tensor = down(activated)
    return y


class _ActivationLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: type[Activation]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation = activation
        return linear_forward(activation.forward(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        y, d_x = ctx.activation.backward(x, linear_forward(grad, weight.t()))
        flat = grad.reshape(-1, grad.shape[-1])
        d_weight = flat.t() @ y.reshape(-1, y.shape[-1]) if needs_weight else None
        return d_x, d_weight, flat.sum(0) if needs_bias else None, None
