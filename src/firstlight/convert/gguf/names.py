"""llama.cpp's names of architectures, weights and pre-tokenizers, and its layouts where they differ."""

import numpy as np
import torch
from torch import Tensor

from firstlight.model import ModelConfig, RopeScaling, scale_rope
from firstlight.tokenizer import PATTERNS

# Our family by llama.cpp's architecture.
FAMILIES = {"gpt2": "gpt2", "llama": "llama", "qwen3": "modern"}
HEAD, ROPE_FACTORS = "output.weight", "rope_freqs.weight"

# Keys of the tokens that end a text, a turn and a message, without tokenizer.ggml and _token_id.
ENDS = ("eos", "eot", "eom")
CHAT_TEMPLATE = "tokenizer.chat_template"

# Single digits, then GPT-2's pattern.
_DIGITS = (r"\p{N}", PATTERNS["gpt2"])
# Patterns that split text, by llama.cpp's name of the pre-tokenizer.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "gpt-2": (PATTERNS["gpt2"],),
    "llama-bpe": (PATTERNS["llama3"],),
    "qwen2": (PATTERNS["qwen2"],),
    "gpt-4o": (PATTERNS["gpt4o"],),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
}

# llama.cpp requires at least one merge. The result of this one is not a token, so it falls back to the two bytes.
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


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Map transformers' names of the weights to llama.cpp's."""
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
            f"{block}.{i}.{hf_name}.{kind}": f"blk.{i}.{name}.{kind}"
            for hf_name, name in parts.items()
            for kind in kinds
        }
    return table if config.tied else {**table, "lm_head.weight": HEAD}


def rope_factors(scaling: RopeScaling, d_head: int, theta: float) -> np.ndarray:
    """Compute the divisor of each rotary frequency (D/2,), the form in which GGUF stores Llama 3's RoPE scaling."""
    frequencies = theta ** (-torch.arange(d_head // 2, dtype=torch.float64) / (d_head // 2))
    return (frequencies / scale_rope(frequencies, scaling)).float().numpy()


def permute_qk(weight: Tensor, d_head: int, *, to_hf: bool) -> Tensor:
    """Reorder the rows of a query or key weight between the two layouts of rotary embeddings.

    Meta's code, and so llama.cpp's llama, rotates neighbouring dimensions of a head; transformers rotates its halves.

    Args:
        weight: (H D, C).
        d_head: D.
        to_hf: from Meta's layout to transformers', else the reverse.
    """
    first, second = (d_head // 2, 2) if to_hf else (2, d_head // 2)
    return weight.reshape(-1, first, second, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
