"""The shape of a model: a family sets the architecture, which settings may refine."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from firstlight.config import Settings
from firstlight.errors import FirstlightError
from firstlight.model.parts import MLPS, NORMS, POSITIONS, Part, load_part

Family = Literal["gpt1", "gpt2", "gpt3", "llama", "modern"]


@dataclass(frozen=True, slots=True)
class FamilyDefaults:
    """The architecture of a family, as its transformers class has it.

    Attributes:
        positions: position scheme, unless ``model.positions`` names another.
        norm: norm, unless ``model.norm`` names another.
        mlp: MLP, unless ``model.mlp`` names another.
        norm_position: before each sublayer, or after its residual sum.
        qk_norm: queries and keys are normalised.
        bias: linear layers have biases (except ``qkv``: see ``qkv_bias``).
        qkv_bias: the query, key and value projection has a bias.
        tied: embeddings and head share weights, unless ``model.tie_embeddings`` decides.
        has_dropout: dropout may be used.
        has_gqa: grouped-query attention may be used, and heads of any width.
    """

    positions: str
    norm: str
    mlp: str
    norm_position: Literal["pre", "post"]
    qk_norm: bool
    bias: bool
    qkv_bias: bool
    tied: bool
    has_dropout: bool
    has_gqa: bool


_GPT2 = FamilyDefaults("learned", "layernorm", "gelu_tanh", "pre", False, True, True, True, True, False)
_LLAMA = FamilyDefaults("rotary", "rmsnorm", "swiglu", "pre", False, False, False, False, False, True)

FAMILIES: dict[str, FamilyDefaults] = {
    "gpt1": FamilyDefaults("learned", "layernorm", "gelu_tanh", "post", False, True, True, True, True, False),
    "gpt2": _GPT2,
    "gpt3": FamilyDefaults("learned", "layernorm", "gelu_tanh", "pre", False, True, False, True, True, False),
    "llama": _LLAMA,
    "modern": FamilyDefaults("rotary", "rmsnorm", "swiglu", "pre", True, False, False, False, False, True),
}


class RopeScaling(Settings):
    """Rotary positions scaled for contexts longer than those of pre-training, as in Llama 3.1, or linearly.

    High frequencies, which rotate often within ``original`` positions, stay as they are; low ones are divided by
    ``factor``; between the two bounds they are interpolated. Without ``original`` all are divided (Chen et al. 2023).
    """

    factor: float = Field(ge=1, description="divisor of the frequencies")
    original: int | None = Field(None, ge=1, description="context length of pre-training")
    low: float = Field(
        1.0, gt=0, description="frequencies with fewer rotations within original are divided by the whole factor"
    )
    high: float = Field(4.0, gt=0, description="frequencies with more rotations within original are unchanged")

    @model_validator(mode="after")
    def _check_order(self) -> "RopeScaling":
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        return self

    def unused_settings(self) -> dict[str, str]:
        """Return the bounds of interpolation where all frequencies are divided."""
        names = ("low", "high") if self.original is None else ()
        return dict.fromkeys(names, "applies with rope_scaling.original, which is not set")


def _names(table: dict[str, str]) -> str:
    return f"{', '.join(table)} or package.module:Class; by default the family's"


class ModelConfig(Settings):
    """The shape of a GPT.

    ``None`` means the default of the family and the other sizes; ``complete`` fills it in.
    """

    former_names: ClassVar = {"init_out": "residual_init", "gelu": "mlp"}

    family: Family = Field("modern", description="architecture, and the transformers class it is saved as")
    n_layer: int = Field(6, ge=1, description="number of blocks")
    n_head: int = Field(6, ge=1, description="number of query heads")
    n_kv_head: int | None = Field(
        None, ge=1, description="number of key and value heads; fewer than n_head: grouped-query attention"
    )
    n_embd: int = Field(384, ge=1, description="width of the hidden states")
    d_head: int | None = Field(None, ge=1, description="width of a head; n_embd / n_head where not set")
    d_ff: int | None = Field(
        None, ge=1, description="inner width of the MLP; 4 n_embd, or 8/3 n_embd rounded up to 32 for SwiGLU"
    )
    vocab_size: int | None = Field(None, ge=1, description="taken from the tokenizer where not set")
    block_size: int = Field(256, ge=1, description="context length in tokens")
    positions: str | None = Field(None, description=f"position scheme: {_names(POSITIONS)}")
    norm: str | None = Field(None, description=f"norm: {_names(NORMS)}")
    mlp: str | None = Field(None, description=f"MLP: {_names(MLPS)}")
    window: int = Field(256, ge=1, description="positions that gpt3's local layers see, the current one included")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    rope_scaling: RopeScaling | None = Field(None, description="scaling of rotary positions, for longer contexts")
    norm_eps: float | None = Field(
        None, gt=0, description="added to the variance; 1e-5 for layernorm, 1e-6 for rmsnorm"
    )
    tie_embeddings: bool | None = Field(None, description="head and embedding share weights; true for gpt1 to gpt3")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of embeddings, attention and residuals; not supported by llama and modern"
    )
    init_std: float = Field(0.02, gt=0, description="standard deviation of initial embeddings and matrices")
    residual_init: Literal["scaled", "zero"] = Field(
        "scaled", description="initial residual projections: std / sqrt(2 n_layer), or zero"
    )

    @field_validator(*get_args(Part))
    @classmethod
    def _check_part(cls, name: str | None, info: Any) -> str | None:  # a ValidationInfo, which is not checkable
        part: Any = info.field_name
        try:
            if name is not None:
                load_part(part, name)
        except FirstlightError as error:
            hint = f": expected {error.expected}" if error.expected else ""
            raise ValueError(f"{error.problem}{hint}{f'. {error.fix}' if error.fix else ''}") from error
        return name

    @model_validator(mode="after")
    def _check_shape(self) -> "ModelConfig":
        if self.d_head is None and self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}; set d_head or another n_head"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head={self.n_head} is not a multiple of n_kv_head={self.n_kv_head}")
        scheme = load_part("positions", self.choice("positions"))
        if self.rope_scaling is not None and "rope_scaling" not in scheme.settings:
            raise ValueError(f"rope_scaling does not apply to {self.choice('positions')} positions; use rotary ones")
        scheme.validate(self)
        self._check_family()
        return self

    def _check_family(self) -> None:
        defaults = self.defaults
        if self.dropout and not defaults.has_dropout:
            raise ValueError(
                f"the family {self.family} does not support dropout; set dropout=0, or use gpt1, gpt2 or gpt3"
            )
        if not defaults.has_gqa:
            if self.kv_heads != self.n_head:
                raise ValueError(
                    f"the family {self.family} does not support grouped-query attention; use llama or modern"
                )
            if self.head_dim * self.n_head != self.n_embd:
                raise ValueError(f"the family {self.family} needs n_head * d_head = n_embd")
        if self.family == "gpt1" and self.tie_embeddings is False:
            raise ValueError("the family gpt1 ties embeddings and head")
        if self.family == "gpt1" and self.ffn_dim != 4 * self.n_embd:
            raise ValueError("the family gpt1 has an MLP of 4 n_embd")

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of other position schemes, and the window of another family."""
        unused = {} if self.family == "gpt3" else {"window": f"applies to family gpt3, not {self.family}"}
        positions = self.choice("positions")
        if "rope_theta" not in load_part("positions", positions).settings:
            unused["rope_theta"] = f"applies to rotary positions, not {positions}"
        return unused

    @property
    def defaults(self) -> FamilyDefaults:
        """The architecture of the family."""
        return FAMILIES[self.family]

    def choice(self, part: Part) -> str:
        """Return the name of the position scheme, norm or MLP: as set, else the family's."""
        name: str | None = getattr(self, part)
        return name or getattr(self.defaults, part)

    @property
    def rotary(self) -> bool:
        """Whether positions rotate queries and keys."""
        return self.choice("positions") == "rotary"

    @property
    def gated(self) -> bool:
        """Whether the MLP is SwiGLU."""
        return self.choice("mlp") == "swiglu"

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
        default: int = load_part("mlp", self.choice("mlp")).default_d_ff(self.n_embd)
        return default

    @property
    def eps(self) -> float:
        """The epsilon that norms add to the variance."""
        default: float = load_part("norm", self.choice("norm")).default_eps
        return self.norm_eps or default

    @property
    def tied(self) -> bool:
        """Whether head and embedding share one matrix."""
        return self.tie_embeddings if self.tie_embeddings is not None else self.defaults.tied

    @property
    def attention_scale(self) -> float:
        """Factor of the attention scores; 1 in GPT-Neo, whose initialisation compensates for it."""
        return 1.0 if self.family == "gpt3" else float(self.head_dim**-0.5)

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees only ``window`` positions: every second one of gpt3."""
        return self.family == "gpt3" and layer % 2 == 1

    def complete(self, vocab_size: int) -> "ModelConfig":
        """Return a copy with every default filled in."""
        return ModelConfig(
            **{
                **self.model_dump(),
                **{part: self.choice(part) for part in get_args(Part)},
                "n_kv_head": self.kv_heads,
                "d_head": self.head_dim,
                "d_ff": self.ffn_dim,
                "norm_eps": self.eps,
                "tie_embeddings": self.tied,
                "vocab_size": vocab_size,
            }
        )
