"""The validation loss over every target of the validation split once, in disjoint windows of the block size."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from firstlight import parallel, progress
from firstlight.model import GPT
from firstlight.store import Windows
from firstlight.types import Batch


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of a validation.

    Attributes:
        loss: mean over targets in nats, end-of-text included.
        bits_per_byte: of the text; end-of-text counts in neither bits nor bytes. None if the ids do not stand for
            text.
        targets: number of targets.
        text_bytes: UTF-8 bytes of the text.
        unit: what a target is if the ids do not stand for text: a token, or a dimension of an image.
        position_nats, position_targets: sum of the losses, and number of targets, at each position of a window: (T,).
        bits_per_character: of the text; None if the number of its characters is not known.
    """

    loss: float
    bits_per_byte: float | None
    targets: int
    text_bytes: int
    unit: str = "token"
    position_nats: np.ndarray | None = field(default=None, compare=False, repr=False)
    position_targets: np.ndarray | None = field(default=None, compare=False, repr=False)
    bits_per_character: float | None = None

    @property
    def criterion(self) -> float:
        """The loss."""
        return self.loss

    def metrics(self) -> dict[str, float]:
        """Return the metrics to log besides the loss."""
        return {"perplexity": self.perplexity, **self.bits}

    @property
    def bits(self) -> dict[str, float]:
        """Bits per byte and per character of text, or per token or dimension if the ids do not stand for text."""
        if self.bits_per_byte is not None:
            characters = self.bits_per_character
            more = {} if characters is None else {"bits_per_character": characters}
            return {"bits_per_byte": self.bits_per_byte, **more}
        return {f"bits_per_{self.unit}": self.loss / math.log(2)}

    @property
    def perplexity(self) -> float:
        """Exp of the loss; infinite if that overflows."""
        return math.exp(self.loss) if not self.loss >= 700 else math.inf


@torch.no_grad()
def validate(
    model: GPT,
    windows: Windows,
    byte_lengths: np.ndarray | None,
    device_context: parallel.DeviceContext,
    rows: int,
    unit: str = "token",
    *,
    more_nats: np.ndarray | None = None,
    characters: np.ndarray | None = None,
) -> ValidationResult:
    """Compute the loss of ``model`` over ``windows``, each process on a part of them.

    Args:
        model: in any mode, which does not change.
        windows: disjoint windows of the validation split.
        byte_lengths: bytes of text of each id (V,), 0 for special tokens, or None.
        device_context: device and processes.
        rows: windows per forward pass; may differ between processes.
        unit: as in ValidationResult.
        more_nats: what each id costs in bits per byte in addition to its loss (V,), as the unknown token does.
        characters: of text of each id (V,); None where they are not known.

    Raises:
        Interrupted: a signal arrived while a run trains.
    """
    dtype = torch.float32 if device_context.device.type == "mps" else torch.float64
    lengths, more, character_lengths = (
        None if table is None else torch.from_numpy(np.asarray(table)).to(device_context.device, dtype)
        for table in (byte_lengths, more_nats, characters)
    )
    bounds = [
        windows.n_windows * rank // device_context.world_size for rank in (device_context.rank, device_context.rank + 1)
    ]
    parts = [torch.zeros(5, device=device_context.device)]
    by_position = torch.zeros(2, windows.block_size, device=device_context.device, dtype=dtype)
    was_training = model.training
    model.eval()
    try:
        with (
            parallel.interruptible(device_context),
            progress.task("validate", bounds[1] - bounds[0], "windows") as task,
        ):
            for first in range(bounds[0], bounds[1], rows):
                n = min(rows, bounds[1] - first)
                batch = windows.batch(first, n)
                parts.append(_sums(model, batch, lengths, more, character_lengths, device_context, by_position))
                task.advance(n)
    finally:
        model.train(was_training)
    sums = torch.stack([part.cpu().double() for part in parts]).sum(0)
    total, count, text_nats, text_bytes, n_characters = parallel.all_reduce_sum(sums, device_context).tolist()
    per_byte, per_character = (text_nats / math.log(2) / n if n else None for n in (text_bytes, n_characters))
    positions = parallel.all_reduce_sum(by_position.cpu().double(), device_context).numpy()
    loss = total / count if count else math.nan
    return ValidationResult(
        loss, per_byte, round(count), round(text_bytes), unit, positions[0], positions[1], per_character
    )


def _sums(
    model: GPT,
    batch: Batch,
    lengths: Tensor | None,
    more: Tensor | None,
    characters: Tensor | None,
    device_context: parallel.DeviceContext,
    by_position: Tensor,
) -> Tensor:
    """Return nats, targets, and nats, bytes and characters of text of a batch: (5,), in fp64 if the device has it.

    Nats and targets at each position are added to ``by_position`` (2, T).
    """
    dtype = torch.float32 if device_context.device.type == "mps" else torch.float64
    inputs, targets = batch.inputs.to(device_context.device), batch.targets.to(device_context.device)
    starts = None if batch.starts is None else batch.starts.to(device_context.device)
    with parallel.autocast(device_context):
        nats = model.token_nll(inputs, targets, starts).to(dtype)
    is_target = torch.ones_like(targets, dtype=torch.bool)
    if batch.weights is not None:
        is_target = batch.weights.to(device_context.device) > 0
    text = torch.zeros_like(nats) if lengths is None else lengths[targets] * is_target
    text_nats = nats if more is None else nats + more[targets]
    # torch.where instead of a product: masked values may be infinite.
    target_nats = torch.where(is_target, nats, 0)
    by_position += torch.stack([target_nats.sum(0), is_target.sum(0).to(dtype)])
    return torch.stack(
        [
            target_nats.sum(),
            is_target.sum().to(dtype),
            torch.where(text > 0, text_nats, 0).sum(),
            text.sum(),
            text.new_zeros(()) if characters is None else (characters[targets] * is_target).sum(),
        ]
    )
