"""The valid loss: every target of the valid split once, in disjoint windows of the block size."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstlight import parallel
from firstlight.model import GPT
from firstlight.store import Windows
from firstlight.types import Batch


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Valid loss and what it means.

    Attributes:
        loss: nats a target, end-of-text included.
        bits_per_byte: of the text's own bytes; end-of-text counts in neither nats nor bytes. None
            where ids stand for no bytes of text.
        targets: targets covered.
        text_bytes: UTF-8 bytes that the covered text has.
        unit: what a target is where ids stand for no bytes of text: a token, or a dimension of an image.
    """

    loss: float
    bits_per_byte: float | None
    targets: int
    text_bytes: int
    unit: str = "token"

    @property
    def criterion(self) -> float:
        """The loss."""
        return self.loss

    def figures(self) -> dict[str, float]:
        """Return what is logged beside the loss."""
        return {"perplexity": self.perplexity, **self.bits}

    @property
    def bits(self) -> dict[str, float]:
        """Bits per byte of text; where ids stand for none, bits per token or per dimension."""
        if self.bits_per_byte is not None:
            return {"bits_per_byte": self.bits_per_byte}
        return {f"bits_per_{self.unit}": self.loss / math.log(2)}

    @property
    def perplexity(self) -> float:
        """Exp of the loss; infinite where that overflows."""
        return math.exp(self.loss) if not self.loss >= 700 else math.inf


@torch.no_grad()
def validate(
    model: GPT,
    windows: Windows,
    byte_lengths: np.ndarray | None,
    device_context: parallel.DeviceContext,
    rows: int,
    unit: str = "token",
) -> ValidationResult:
    """Measure the loss of ``model`` over ``windows``, each process taking its share.

    Args:
        model: in any mode; left in the mode it was in.
        windows: disjoint windows of the valid split.
        byte_lengths: bytes of text that each id stands for (V,), 0 for special tokens, or None.
        device_context: device and processes.
        rows: windows of one forward pass; may differ between processes.
        unit: as in ValidResult.
    """
    lengths = None
    if byte_lengths is not None:
        lengths = torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64)).to(device_context.device)
    shares = [
        windows.n_windows * rank // device_context.world_size for rank in (device_context.rank, device_context.rank + 1)
    ]
    parts = [torch.zeros(4, device=device_context.device)]
    was_training = model.training
    model.eval()
    try:
        for first in range(shares[0], shares[1], rows):
            parts.append(_sums(model, windows.batch(first, min(rows, shares[1] - first)), lengths, device_context))
    finally:
        model.train(was_training)
    sums = torch.stack([part.cpu().double() for part in parts]).sum(0)
    total, count, text_nats, text_bytes = parallel.all_reduce_sum(sums, device_context).tolist()
    bits = text_nats / math.log(2) / text_bytes if text_bytes else None
    return ValidationResult(total / count if count else math.nan, bits, round(count), round(text_bytes), unit)


def _sums(model: GPT, batch: Batch, lengths: Tensor | None, device_context: parallel.DeviceContext) -> Tensor:
    """Return nats, targets, nats of text and bytes of text of some windows: (4,), in fp64 where the device has it."""
    wide = torch.float32 if device_context.device.type == "mps" else torch.float64
    inputs, targets = batch.inputs.to(device_context.device), batch.targets.to(device_context.device)
    starts = None if batch.starts is None else batch.starts.to(device_context.device)
    with parallel.autocast(device_context):
        nats = model.token_nll(inputs, targets, starts).to(wide)
    target_unit = torch.ones_like(targets, dtype=torch.bool)
    if batch.weights is not None:
        target_unit = batch.weights.to(device_context.device) > 0
    text = torch.zeros_like(targets) if lengths is None else lengths[targets] * target_unit
    # Selected, not multiplied: what does not count may be infinite.
    return torch.stack(
        [
            torch.where(target_unit, nats, 0).sum(),
            target_unit.sum().to(wide),
            torch.where(text > 0, nats, 0).sum(),
            text.sum().to(wide),
        ]
    )
