"""The valid loss: every target of the valid split once, in disjoint windows of the block size."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from firstlight import parallel
from firstlight.model import GPT
from firstlight.store import Windows


@dataclass(frozen=True, slots=True)
class ValidResult:
    """Valid loss and what it means.

    Attributes:
        loss: nats a target, end-of-text included.
        bits_per_byte: of the text's own bytes; end-of-text counts in neither nats nor bytes. None
            where ids stand for no bytes of text.
        targets: targets covered.
        text_bytes: UTF-8 bytes that the covered text has.
    """

    loss: float
    bits_per_byte: float | None
    targets: int
    text_bytes: int

    @property
    def perplexity(self) -> float:
        """Exp of the loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def validate(
    model: GPT, windows: Windows, byte_lengths: np.ndarray | None, place: parallel.Place, rows: int
) -> ValidResult:
    """Measure the loss of ``model`` over ``windows``, each process taking its share.

    Args:
        model: in any mode; left in the mode it was in.
        windows: disjoint windows of the valid split.
        byte_lengths: bytes of text that each id stands for (V,), 0 for special tokens, or None.
        place: device and processes.
        rows: windows of one forward pass.
    """
    lengths = None if byte_lengths is None else torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64)).to(place.device)
    # nats, targets, nats of text, bytes of text
    sums = torch.zeros(4, dtype=torch.float64, device=place.device)
    was_training = model.training
    model.eval()
    try:
        for first in range(place.rank * rows, windows.n_windows, rows * place.world_size):
            batch = windows.batch(first, min(rows, windows.n_windows - first))
            inputs, targets = batch.inputs.to(place.device), batch.targets.to(place.device)
            weights = torch.ones_like(targets, dtype=torch.float32) if batch.weights is None else batch.weights.to(place.device)
            starts = None if batch.starts is None else batch.starts.to(place.device)
            with parallel.autocast(place):
                nats = model.token_nats(inputs, targets, starts).double() * weights
            text_bytes = torch.zeros_like(targets) if lengths is None else lengths[targets] * (weights > 0)
            sums += torch.stack(
                [nats.sum(), weights.sum(dtype=torch.float64), nats[text_bytes > 0].sum(), text_bytes.sum().double()]
            )
    finally:
        model.train(was_training)
    total, count, text_nats, n_bytes = parallel.all_sum(sums, place).tolist()
    bits = text_nats / math.log(2) / n_bytes if n_bytes else None
    return ValidResult(total / max(count, 1.0), bits, round(count), round(n_bytes))
