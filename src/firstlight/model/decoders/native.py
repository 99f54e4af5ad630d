"""The forward pass of generation in C++: a few new positions of several sequences, each with its own cache.

It computes what ``GPT`` computes without gradients, up to rounding, for the norms, MLPs and position schemes that are
in the tables of ``parts``, on a CPU, in fp32, with matrices in fp32, bf16 or int8. Activations of int8 matrices are
quantised as well, in groups of 32, so that products are sums of integers. A logit depends on its own sequence only,
bit for bit: not on other rows, not on the chunks that a prompt is read in, not on the number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.errors import UsageError
from firstlight.model.attention import Attention
from firstlight.model.decoders.build import load_library
from firstlight.model.decoders.decoder import Segment
from firstlight.model.gpt import GPT, Block
from firstlight.model.kernels.linear import Linear
from firstlight.model.mlp import GeluMLP, SwiGLUMLP, TanhGeluMLP, mlp_class
from firstlight.model.norms import LayerNorm, RMSNorm
from firstlight.model.positions import AlibiPositions, LearnedPositions, PositionScheme, RotaryPositions
from firstlight.model.quantized import Int8Embedding, Int8Linear, Int8Weight

_FORMATS = {torch.float32: 0, torch.bfloat16: 1}
_INT8 = 2
_NORMS: dict[type[nn.Module], int] = {nn.Identity: 0, LayerNorm: 1, RMSNorm: 2}
_MLPS: dict[type[nn.Module], int] = {TanhGeluMLP: 0, GeluMLP: 1, SwiGLUMLP: 2}
_POSITIONS = {PositionScheme, LearnedPositions, RotaryPositions, AlibiPositions}
_pointer, _int64, _int32, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, _pointer) for name in ("data", "scale", "bias")),
        *((name, _int32) for name in ("rows", "columns", "stride", "format")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("bias", _pointer), ("kind", _int32), ("eps", _float)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("norm1", "norm2", "q_norm", "k_norm")),
        *((name, _Matrix) for name in ("qkv", "out", "up", "down")),
        ("window", _int64),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        ("embed", _Matrix),
        ("head", _Matrix),
        *((name, _pointer) for name in ("positions", "cos", "sin", "slopes")),
        ("norm", _Norm),
        *((name, _int64) for name in ("n_layer", "n_head", "n_kv_head", "d_head", "n_embd", "d_ff")),
        ("scale", _float),
        ("mlp", _int32),
        ("post_norm", _int32),
    ]


class _Segment(ctypes.Structure):
    _fields_ = [("cache", _pointer), *((name, _int64) for name in ("capacity", "row", "n", "position"))]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, _pointer) for name in ("ids", "segments", "wanted", "logits")),
        *((name, _int64) for name in ("n_rows", "n_segments", "n_wanted")),
    ]


class NativeDecoder:
    """A GPT whose forward pass is the C++ library's.

    Its matrices are the model's own, so that changes of their values are seen; norms and biases of another precision
    than fp32 are copied.

    Args:
        model: its weights are those of now: where they change in place, the changes of matrices are seen.

    Attributes:
        threads: of a forward pass; at first torch's number.

    Raises:
        UsageError: it cannot run this model; ``why_not_native`` says why.
    """

    chunk_invariant = True

    def __init__(self, model: GPT) -> None:
        if (reason := why_not_native(model)) is not None:
            raise UsageError("the decoder in C++ cannot run this model", found=reason, fix="Use the plain decoder.")
        library = load_library()
        assert not isinstance(library, str)
        self._library = library
        self.threads = torch.get_num_threads()
        library.firstlight_new_decoder.restype = _pointer
        self._decoder = _pointer(library.firstlight_new_decoder())
        self._kept: list[Tensor] = []
        config = self.config = model.config
        self.position_bytes = 2 * config.n_layer * config.kv_heads * config.head_dim * 4
        self._limit = None if model.positions.extrapolates else config.block_size
        self._layers = (_Layer * config.n_layer)(*(self._layer(model, i) for i in range(config.n_layer)))
        embed = self._matrix(model.embed)
        self._model = _Model(
            layers=self._layers,
            embed=embed,
            head=embed if model.head is None else self._matrix(model.head),
            norm=self._norm(model.norm),
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.kv_heads,
            d_head=config.head_dim,
            n_embd=config.n_embd,
            d_ff=config.ffn_dim,
            scale=config.attention_scale,
            mlp=_MLPS[type(cast(Block, model.blocks[0]).mlp)],
            post_norm=config.defaults.norm_position == "post",
            **self._positions(model.positions),
        )

    def __del__(self) -> None:
        if hasattr(self, "_decoder"):
            self._library.firstlight_free_decoder(self._decoder)

    @torch.inference_mode()
    def new_cache(self, capacity: int) -> Float[Tensor, "L 2 K S D"]:
        """Allocate the cache of a sequence of up to ``capacity`` positions."""
        if self._limit is not None and capacity > self._limit:
            raise ValueError(f"{capacity} positions do not fit block_size={self._limit}")
        c = self.config
        return torch.empty(c.n_layer, 2, c.kv_heads, capacity, c.head_dim)

    def count_positions(self, capacities: Sequence[int]) -> int:
        """Count the positions of all caches."""
        return sum(capacities)

    def free(self, cache: Tensor) -> None:
        """Give a cache back: its memory is freed with the last reference."""

    @torch.inference_mode()
    def copy_prefix(self, source: Tensor, target: Tensor, n: int) -> None:
        """Copy the first ``n`` positions of a cache into another."""
        target[:, :, :, :n] = source[:, :, :, :n]

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Float[Tensor, "N V"]:
        """Append new positions to their caches; return the wanted logits, in the order of the segments."""
        rows, wanted, structures = 0, list[int](), (_Segment * len(segments))()
        for structure, segment in zip(structures, segments, strict=True):
            n = len(segment.ids)
            assert segment.position + n <= segment.cache.shape[3], "the cache is too short"
            structure.cache, structure.capacity = segment.cache.data_ptr(), segment.cache.shape[3]
            structure.row, structure.n, structure.position = rows, n, segment.position
            rows += n
            wanted.extend(range(rows - segment.n_logits, rows))
        ids = torch.tensor([i for segment in segments for i in segment.ids], dtype=torch.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= self._model.embed.rows:
            raise IndexError(f"ids from {int(ids.min())} to {int(ids.max())}, the model has {self._model.embed.rows}")
        wanted_rows = torch.tensor(wanted, dtype=torch.int64)
        logits = torch.empty(len(wanted), self._model.head.rows)
        batch = _Batch(
            ids=ids.data_ptr(),
            segments=ctypes.addressof(structures),
            wanted=wanted_rows.data_ptr(),
            logits=logits.data_ptr(),
            n_rows=rows,
            n_segments=len(segments),
            n_wanted=len(wanted),
        )
        failed = self._library.firstlight_forward(
            self._decoder, ctypes.byref(self._model), ctypes.byref(batch), self.threads
        )
        if failed:
            raise MemoryError(f"not enough memory for {rows:,} new positions")
        return logits

    def _layer(self, model: GPT, index: int) -> _Layer:
        block = model.blocks[index]
        assert isinstance(block, Block)
        attention, mlp = block.attention, cast(Any, block.mlp)
        up = mlp.gate_up if isinstance(mlp, SwiGLUMLP) else mlp.up
        return _Layer(
            norm1=self._norm(block.norm1),
            norm2=self._norm(block.norm2),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            qkv=self._matrix(attention.qkv),
            out=self._matrix(attention.out),
            up=self._matrix(up),
            down=self._matrix(mlp.down),
            window=self.config.window if self.config.is_local(index) else 0,
        )

    def _positions(self, scheme: nn.Module) -> dict[str, int | None]:
        if isinstance(scheme, LearnedPositions):
            return {"positions": self._floats(scheme.weight)}
        if isinstance(scheme, RotaryPositions):
            return {"cos": self._floats(scheme.cos), "sin": self._floats(scheme.sin)}
        return {"slopes": self._floats(scheme.slopes)} if isinstance(scheme, AlibiPositions) else {}

    def _norm(self, norm: Any) -> _Norm:
        if norm is None or isinstance(norm, nn.Identity):
            return _Norm(kind=0)
        return _Norm(
            weight=self._floats(norm.weight),
            bias=self._floats(getattr(norm, "bias", None)),
            kind=_NORMS[type(norm)],
            eps=norm.eps,
        )

    def _matrix(self, module: nn.Module) -> _Matrix:
        bias = self._floats(getattr(module, "bias", None))
        if isinstance(module, Int8Weight):
            data = self._keep(module.quantized)
            scale, stride = self._floats(module.scale), module.quantized.stride(0)
            return _Matrix(data, scale, bias, module.rows, module.columns, stride, _INT8)
        weight = module.weight
        assert isinstance(weight, Tensor)
        return _Matrix(self._keep(weight), None, bias, *weight.shape, weight.shape[1], _FORMATS[weight.dtype])

    def _floats(self, x: Tensor | None) -> int | None:
        return None if x is None else self._keep(x.detach().float().contiguous())

    def _keep(self, x: Tensor) -> int:
        self._kept.append(x.detach())  # the memory stays where a parameter gets another
        return x.data_ptr()


def why_not_native(model: GPT) -> str | None:
    """Return why the C++ decoder cannot run a model, or None if it can."""
    found = _unsupported_part(model)
    if found is not None:
        return found
    library = load_library()
    return library if isinstance(library, str) else None


def _unsupported_part(model: GPT) -> str | None:
    if (device := next(model.parameters()).device.type) != "cpu":
        return f"the model is on {device}"
    known = {Linear, nn.Linear, Int8Linear, *_NORMS, *_MLPS, *_POSITIONS, nn.Embedding, Int8Embedding}
    known |= {Attention, Block, GPT, nn.ModuleList, nn.ModuleDict, nn.Dropout}
    for name, module in model.named_modules():
        if type(module) not in known and not name.startswith("heads"):
            return f"{name} is a {type(module).__name__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name} has a hook"
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter:
            return f"{name} is a {type(parameter).__name__}"
        if parameter.dtype not in _FORMATS:
            return f"{name} is {parameter.dtype}"
        if not parameter.is_contiguous():
            return f"{name} is not contiguous"
    return _unexpected_shape(model)


def _unexpected_shape(model: GPT) -> str | None:
    """Return a part that differs from what the model's config says: C++ relies on it."""
    c = model.config
    H, K, D, C, F = c.n_head, c.kv_heads, c.head_dim, c.n_embd, c.ffn_dim
    expected_mlp = mlp_class(c)
    shapes = {"qkv": ((H + 2 * K) * D, C), "out": (C, H * D), "up": (F, C), "gate_up": (2 * F, C), "down": (C, F)}
    for name, module in model.named_modules():
        part = name.rpartition(".")[2]
        if part == "mlp" and type(module) is not expected_mlp:
            return f"{name} is a {type(module).__name__}"
        shape = _matrix_shape(module)
        if part in shapes and shape != shapes[part]:
            return f"{name} has the shape {shape}"
    return None


def _matrix_shape(module: nn.Module) -> tuple[int, ...] | None:
    if isinstance(module, Int8Weight):
        return module.rows, module.columns
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None
