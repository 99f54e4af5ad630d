"""``probe``: linear probes, the accuracy of a linear classifier on the hidden states of every layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from firstlight import parallel, progress
from firstlight.config import parse_overrides, resolve
from firstlight.errors import UsageError
from firstlight.finetuning import encode_task, head_of, kind_of, load_task, read_spec
from firstlight.finetuning.probe import ProbeResult, features, fit_probes
from firstlight.lm import LM
from firstlight.stages.probe_images import ProbeSettings, probe_images
from firstlight.tokenizer import PixelCodec


def probe(
    run: str | Path,
    task: str | Path | None = None,
    *,
    data: str | Path | None = None,
    pool: Literal["mean", "last"] = "mean",
    device: str = "auto",
    seed: int = 1337,
    rows: int = 10_000,
    overrides: Sequence[str] = (),
) -> ProbeResult:
    """Fit a linear classifier on the hidden states of every layer of a frozen model.

    Args:
        run: a run, checkpoint or Hugging Face directory.
        task: a TASK.toml of classification or pairs; of a model of images, labelled images to evaluate on, by default
            the validation split of its run.
        data: folder that contains the task's data folder.
        pool: mean over positions, or the last position.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: of the rows that are drawn.
        rows: limit of images to fit on, and to evaluate on.
        overrides: settings of how images are read, as ``corpus.follow_symlinks=true``.

    Raises:
        UsageError: the task is of another kind, or settings without images.
        CorpusError: a row cannot be read.
    """
    settings = resolve(ProbeSettings, parse_overrides(overrides))
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    lm = LM.load_fp32(run).to(device_context)
    if isinstance(lm.codec, PixelCodec):
        return probe_images(lm, run, task, settings, pool=pool, max_images=rows)
    if overrides:
        found = " ".join(overrides)
        raise UsageError("only images are read with settings", found=found, fix="Set them in TASK.toml.")
    if lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it cannot read text", where=run)
    if task is None:
        raise UsageError("no task is given", where="probe", expected="RUN TASK.toml")
    spec = read_spec(Path(task), data=None if data is None else Path(data))
    head = head_of(spec)
    if not kind_of(spec).sequence_classification or head is None or not head.has_classes:
        raise UsageError("is not a task of classes", where=task, found=spec.kind, expected="classification or pair")
    dataset = load_task(spec, seed=seed)
    spec = dataset.spec
    encoded = encode_task(dataset, lm.tokenizer, lm.config.block_size)
    for note in [*dataset.notes, *encoded.notes]:
        progress.notice(f"{spec.name}: {note}")
    train, valid = encoded.train, encoded.valid
    labels, true = (torch.tensor([row.label for row in rows]) for rows in (train, valid))
    train_states, valid_states = (features(lm.model, rows, device_context, pool) for rows in (train, valid))
    layers = fit_probes(train_states, labels, valid_states, true, len(spec.labels))
    majority = float((true == labels.mode().values).float().mean())
    return ProbeResult(str(run), spec.name, pool, len(train), majority, layers)
