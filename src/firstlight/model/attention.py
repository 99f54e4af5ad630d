"""Causal self-attention: fused projections, rotary positions, grouped heads, bands, documents, cache."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from firstlight.model.cache import KVCache
from firstlight.model.config import ModelConfig, RopeScaling
from firstlight.model.kernels.attention import causal_attention, suits
from firstlight.model.kernels.linear import Linear
from firstlight.model.kernels.norm_rope import apply_rotary
from firstlight.model.norms import norm

Turn = tuple[Float[Tensor, "... T 1 D"], Float[Tensor, "... T 1 D"]]


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021), halves rotated against each other as in GPT-NeoX."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = config.head_dim // 2
        # On the CPU also where a model is only counted, on "meta": there arange would load the compiler.
        pairs, places = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (half, config.block_size))
        speeds = config.rope_theta ** (-pairs / half)
        if config.rope_scaling is not None:
            speeds = scale_rope(speeds, config.rope_scaling)
        angle = torch.outer(places, speeds)  # (T, D/2)
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos().float(), persistent=False)
        self.register_buffer("sin", torch.cat((-angle, angle), -1).sin().float(), persistent=False)

    def forward(self, positions: Int[Tensor, "..."]) -> Turn:
        """Return cosines and sines of the angles at positions (T,) or (B, T), to turn (B, T, H, D) by."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)  # (…, T, 1, D)


def scale_rope(speeds: Float[Tensor, " d"], scaling: RopeScaling) -> Float[Tensor, " d"]:
    """Return how fast each pair of numbers turns with stretched positions."""
    if scaling.original is None:
        return speeds / scaling.factor
    turns = scaling.original * speeds / (2 * math.pi)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return speeds * (kept + (1 - kept) / scaling.factor)


class Attention(nn.Module):
    """Multi-head causal attention through one fused projection and scaled dot-product attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        H, K, D, C = config.n_head, config.kv_heads, config.head_dim, config.n_embd
        self.heads, self.kv_heads, self.width = H, K, D
        self.layer = layer
        self.scale = config.attention_scale
        self.dropout = config.dropout
        bias = not config.rotary
        self.qkv = Linear(C, (H + 2 * K) * D, bias=bias and config.family != "gpt3")
        self.out = Linear(H * D, C, bias=bias)
        self.q_norm = norm(config, D) if config.choices["qk_norm"] else None
        self.k_norm = norm(config, D) if config.choices["qk_norm"] else None

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        angles: Turn | None,
        mask: Bool[Tensor, "..."] | None,
        cache: KVCache | None,
    ) -> Float[Tensor, "B T C"]:
        """Attend to earlier positions; ``mask`` (True = seen) replaces the plain causal rule.

        Rotary families turn queries and keys by ``angles``.
        """
        B, T, _ = x.shape
        H, K, D = self.heads, self.kv_heads, self.width
        q, k, v = self.qkv(x).split((H * D, K * D, K * D), dim=-1)
        q, k, v = q.view(B, T, H, D), k.view(B, T, K, D), v.view(B, T, K, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = apply_rotary(q, *angles), apply_rotary(k, *angles)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, K, S, D)
        dropout = self.dropout if self.training else 0.0
        if mask is None and cache is None and not dropout and suits(q, k):
            y = causal_attention(q, k, v, self.scale)
        else:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None and T > 1,
                dropout_p=dropout,
                scale=self.scale,
                enable_gqa=K != H,
            )
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, H * D))
        return out
