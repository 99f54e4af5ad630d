"""The choices that make a model: a family names a set of them, which settings may refine."""

from typing import Any, Literal

from pydantic import Field, model_validator

from firstlight.config import Settings

Family = Literal["gpt1", "gpt2", "gpt3", "llama", "modern"]

# What a family fixes, since its transformers class can express nothing else.
FIXED: dict[str, dict[str, Any]] = {
    "gpt1": {"positions": "learned", "norm": "layernorm", "norm_position": "post", "mlp": "gelu", "qk_norm": False},
    "gpt2": {"positions": "learned", "norm": "layernorm", "norm_position": "pre", "mlp": "gelu", "qk_norm": False},
    "gpt3": {"positions": "learned", "norm": "layernorm", "norm_position": "pre", "mlp": "gelu", "qk_norm": False},
    "llama": {"positions": "rope", "norm": "rmsnorm", "norm_position": "pre", "mlp": "swiglu", "qk_norm": False},
    "modern": {"positions": "rope", "norm": "rmsnorm", "norm_position": "pre", "mlp": "swiglu", "qk_norm": True},
}


class RopeScaling(Settings):
    """Rotary positions stretched for texts longer than those of pre-training, as Llama 3.1 has them, or all alike.

    Turns that go round often within ``original`` positions stay as they are, slow ones go ``factor`` times as slow, and
    between the two bounds one passes into the other. Without ``original`` all turns are slower (Chen et al. 2023).
    """

    factor: float = Field(ge=1, description="how many times as slow")
    original: int | None = Field(None, ge=1, description="positions of pre-training")
    low: float = Field(1.0, gt=0, description="turns within them below which all of the factor counts")
    high: float = Field(4.0, gt=0, description="turns within them above which nothing changes")

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScaling":
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        return self


class ModelConfig(Settings):
    """The shape of a GPT.

    ``None`` means: as the family and the other sizes have it; ``complete`` fills it in.
    """

    family: Family = Field("modern", description="set of choices, and the transformers class it is saved as")
    n_layer: int = Field(6, ge=1, description="blocks")
    n_head: int = Field(6, ge=1, description="query heads")
    n_kv_head: int | None = Field(
        None, ge=1, description="key and value heads; fewer than n_head: grouped-query attention"
    )
    n_embd: int = Field(384, ge=1, description="width")
    d_head: int | None = Field(None, ge=1, description="width of a head; n_embd / n_head where not set")
    d_ff: int | None = Field(
        None, ge=1, description="inner width of the MLP; 4 n_embd, or 8/3 n_embd rounded up to 32 for SwiGLU"
    )
    vocab_size: int | None = Field(None, ge=1, description="taken from the tokenizer where not set")
    block_size: int = Field(256, ge=1, description="positions that a text may have")
    window: int = Field(256, ge=1, description="positions that gpt3's banded layers see, the current one included")
    gelu: Literal["tanh", "erf"] = Field(
        "tanh", description="GELU's tanh form, or the exact one of nanoGPT; gpt2 and gpt3 have both"
    )
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    rope_scaling: RopeScaling | None = Field(None, description="stretches rotary positions; set by models that have it")
    norm_eps: float | None = Field(
        None, gt=0, description="added to the variance; 1e-5 for layernorm, 1e-6 for rmsnorm"
    )
    tie_embeddings: bool | None = Field(None, description="head and embedding share weights; true for gpt1 to gpt3")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of embeddings, attention and residuals; none in llama and modern"
    )
    init_std: float = Field(0.02, gt=0, description="standard deviation of embeddings and matrices at the start")
    residual_init: Literal["scaled", "zero"] = Field(
        "scaled", description="residual projections: std / sqrt(2 n_layer), or zero"
    )

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if self.d_head is None and self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is no multiple of n_head={self.n_head}; set d_head or another n_head"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head={self.n_head} is no multiple of n_kv_head={self.n_kv_head}")
        if self.gelu == "erf" and self.family not in ("gpt2", "gpt3"):
            raise ValueError(f"gelu=erf has no place in the family {self.family}; use gpt2 or gpt3")
        if self.rotary:
            if self.head_dim % 2:
                raise ValueError(f"rotary positions need an even d_head, not {self.head_dim}")
            if self.dropout:
                raise ValueError(f"dropout has no place in the family {self.family}; use gpt1, gpt2 or gpt3")
        else:
            if self.rope_scaling is not None:
                raise ValueError(f"rope_scaling has no place in the family {self.family}; use llama or modern")
            if self.kv_heads != self.n_head:
                raise ValueError(
                    f"grouped-query attention has no place in the family {self.family}; use llama or modern"
                )
            if self.head_dim * self.n_head != self.n_embd:
                raise ValueError(f"the family {self.family} needs n_head * d_head = n_embd")
            if self.tie_embeddings is False and self.family == "gpt1":
                raise ValueError("the family gpt1 ties embeddings and head")
            if self.family == "gpt1" and self.ffn_dim != 4 * self.n_embd:
                raise ValueError("the family gpt1 has an MLP of 4 n_embd")
        return self

    @property
    def choices(self) -> dict[str, Any]:
        """What the family fixes."""
        return FIXED[self.family]

    @property
    def rotary(self) -> bool:
        """Positions turn queries and keys, instead of being added to embeddings."""
        return bool(self.choices["positions"] == "rope")

    @property
    def gated(self) -> bool:
        """The MLP is SwiGLU."""
        return bool(self.choices["mlp"] == "swiglu")

    @property
    def kv_heads(self) -> int:
        """K: key and value heads."""
        return self.n_kv_head or self.n_head

    @property
    def head_dim(self) -> int:
        """D: width of a head."""
        return self.d_head or self.n_embd // self.n_head

    @property
    def ffn_dim(self) -> int:
        """F: inner width of the MLP."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-self.n_embd * 8 // 3 // 32) * 32 if self.gated else 4 * self.n_embd

    @property
    def eps(self) -> float:
        """What the norms add to the variance."""
        return self.norm_eps or (1e-5 if self.choices["norm"] == "layernorm" else 1e-6)

    @property
    def tied(self) -> bool:
        """Head and embedding share one matrix."""
        return self.tie_embeddings if self.tie_embeddings is not None else not self.rotary

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by: GPT-Neo's is 1, made up for at the start."""
        return 1.0 if self.family == "gpt3" else float(self.head_dim**-0.5)

    def is_local(self, layer: int) -> bool:
        """Tell whether a layer sees only ``window`` positions: every second one of gpt3."""
        return self.family == "gpt3" and layer % 2 == 1

    def complete(self, vocab_size: int) -> "ModelConfig":
        """Return the same model with every size written out."""
        return ModelConfig(
            **{
                **self.model_dump(),
                "n_kv_head": self.kv_heads,
                "d_head": self.head_dim,
                "d_ff": self.ffn_dim,
                "norm_eps": self.eps,
                "tie_embeddings": self.tied,
                "vocab_size": vocab_size,
            }
        )
