"""Decoders: the forward pass of generation, plain or in C++ compiled on the machine that runs it."""

from firstlight.model.decoders.build import load_library
from firstlight.model.decoders.decoder import Decoder, Segment
from firstlight.model.decoders.native import NativeDecoder, why_not_native
from firstlight.model.decoders.plain import PlainDecoder
from firstlight.model.gpt import GPT

__all__ = ["Decoder", "NativeDecoder", "PlainDecoder", "Segment", "load_library", "new_decoder", "why_not_native"]


def new_decoder(model: GPT, *, native: bool | None = None) -> Decoder:
    """Return the decoder of a model: in C++ where that is possible, else the plain one.

    Args:
        model: whose weights are not replaced while the decoder is in use.
        native: whether it is in C++; None: where that is possible.
    """
    if native is None:
        native = why_not_native(model) is None
    return NativeDecoder(model) if native else PlainDecoder(model)
