"""What llama.cpp calls things: architectures, weights, ways to cut text into words."""

import numpy as np
import torch
from torch import Tensor

from firstlight.model import ModelConfig, RopeScaling, scale_rope
from firstlight.tokenizer import PATTERNS

FAMILIES = {"gpt2": "gpt2", "llama": "llama", "qwen3": "modern"}
HEAD, ROPE_FACTORS = "output.weight", "rope_freqs.weight"

# Each digit by itself, and GPT-2's words.
_DIGITS = (r"\p{N}", PATTERNS["gpt2"])
PRE: dict[str, tuple[str, ...]] = {
    "gpt-2": (PATTERNS["gpt2"],),
    "llama-bpe": (PATTERNS["llama3"],),
    "qwen2": (PATTERNS["qwen2"],),
    "gpt-4o": (PATTERNS["gpt4o"],),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
}

# llama.cpp takes no tokenizer without merges. This one makes what is no token, which it then writes as the two bytes.
NO_MERGES = "Ā Ā"

_LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QK_NORM = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def names(config: ModelConfig) -> dict[str, str]:
    """Return llama.cpp's names by transformers'."""
    if config.family == "gpt2":
        table = {
            "transformer.wte.weight": "token_embd.weight",
            "transformer.wpe.weight": "position_embd.weight",
            "transformer.ln_f.weight": "output_norm.weight",
            "transformer.ln_f.bias": "output_norm.bias",
        }
        block, parts, kinds = "transformer.h", _GPT2, ["weight", "bias"]
    else:
        table = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        block, kinds = "model.layers", ["weight"]
        parts = _LLAMA | (_QK_NORM if config.family == "modern" else {})
    for i in range(config.n_layer):
        table |= {
            f"{block}.{i}.{ours}.{kind}": f"blk.{i}.{theirs}.{kind}" for ours, theirs in parts.items() for kind in kinds
        }
    return table if config.tied else {**table, "lm_head.weight": HEAD}


def rope_factors(scaling: RopeScaling, d_head: int, theta: float) -> np.ndarray:
    """Return by what each pair's speed is divided (D/2,), as llama.cpp keeps the stretched positions of Llama 3."""
    speeds = theta ** (-torch.arange(d_head // 2, dtype=torch.float64) / (d_head // 2))
    return (speeds / scale_rope(speeds, scaling)).float().numpy()


def qk_turned(weight: Tensor, d_head: int, *, back: bool) -> Tensor:
    """Return q or k with the rows of each head in the other order.

    llama.cpp's llama turns neighbouring numbers of a head, as Meta's own code does, transformers' the two halves.

    Args:
        weight: (H D, C).
        d_head: D.
        back: from llama.cpp's order to transformers'.
    """
    first, second = (d_head // 2, 2) if back else (2, d_head // 2)
    return weight.reshape(-1, first, second, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
