"""Causal self-attention: fused projections, rotary positions, grouped queries, local windows, documents, cache."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.model.cache import KVCache, Mask
from firstlight.model.config import ModelConfig
from firstlight.model.kernels.attention import blocked_causal_attention, use_blocked_attention
from firstlight.model.kernels.linear import Linear
from firstlight.model.norms import build_norm
from firstlight.model.positions import position_scheme


class Attention(nn.Module):
    """Multi-head causal attention with one fused projection and scaled dot-product attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        H, K, D, C = config.n_head, config.kv_heads, config.head_dim, config.n_embd
        self.n_head, self.n_kv_head, self.d_head = H, K, D
        self.layer = layer
        self.scale = config.attention_scale
        self.dropout = config.dropout
        self.rotate = position_scheme(config).rotate
        self.qkv = Linear(C, (H + 2 * K) * D, bias=config.defaults.qkv_bias)
        self.out = Linear(H * D, C, bias=config.defaults.bias)
        self.q_norm = build_norm(config, D) if config.defaults.qk_norm else None
        self.k_norm = build_norm(config, D) if config.defaults.qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        rotation: tuple[Tensor, ...],
        mask: Mask | Sequence[Mask | None] | None,
        cache: KVCache | None,
    ) -> Float[Tensor, "B T C"]:
        """Attend to earlier positions.

        Args:
            x: hidden states.
            rotation: what the position scheme rotates queries and keys by; empty where it does not.
            mask: replaces the plain causal mask; with a cache, of each of its groups.
            cache: keys and values of earlier positions, to which these are appended.
        """
        B, T, _ = x.shape
        H, K, D = self.n_head, self.n_kv_head, self.d_head
        q, k, v = self.qkv(x).split((H * D, K * D, K * D), dim=-1)
        q, k, v = q.view(B, T, H, D), k.view(B, T, K, D), v.view(B, T, K, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation:
            q, k = self.rotate(q, *rotation), self.rotate(k, *rotation)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if cache is not None:
            assert mask is not None and not isinstance(mask, Tensor)
            y = cache.attend(self.layer, q, k, v, mask, self.scale)
        elif mask is None and not dropout and use_blocked_attention(q, k):
            y = blocked_causal_attention(q, k, v, self.scale)
        else:
            assert mask is None or isinstance(mask, Tensor)
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask if mask is None or not mask.is_floating_point() else mask.to(q.dtype),
                is_causal=mask is None and T > 1,
                dropout_p=dropout,
                scale=self.scale,
                enable_gqa=K != H,
            )
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, H * D))
        return out
