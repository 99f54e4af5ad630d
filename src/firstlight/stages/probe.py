"""``probe``: what each layer of a model knows of a task, by a linear classifier on its hidden states."""

from pathlib import Path
from typing import Literal

import torch

from firstlight import parallel, progress
from firstlight.errors import UsageError
from firstlight.finetuning import Preprocessor, load_task, read_spec
from firstlight.finetuning.probe import ProbeResult, features
from firstlight.finetuning.probe import probe as fit_layers
from firstlight.lm import LM
from firstlight.tokenizer import Pixels


def probe(
    run: str | Path,
    task: str | Path | None = None,
    *,
    data: str | Path | None = None,
    pool: Literal["mean", "last"] = "mean",
    device: str = "auto",
    seed: int = 1337,
    rows: int = 10_000,
) -> ProbeResult:
    """Fit a linear classifier on the hidden states of every layer of a model that stays as it is.

    Args:
        run: a run, checkpoint or Hugging Face directory.
        task: a TASK.toml of classification or of pairs; of a model of images, labelled images to score on, by
            default the valid split of its run.
        data: folder of the task's data folder.
        pool: mean over positions, or the last position.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: of the rows that are drawn.
        rows: images to fit on, and to score on, at most.

    Raises:
        UsageError: another kind of task.
        CorpusError: a row cannot be read.
    """
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    lm = LM.load_fp32(run).to(device_context)
    if isinstance(lm.codec, Pixels):
        from firstlight.stages.probe_images import probe_images

        return probe_images(lm, run, task, pool=pool, most=rows)
    if lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it reads no text", where=run)
    if task is None:
        raise UsageError("names no task", where="probe", expected="RUN TASK.toml")
    found = load_task(read_spec(Path(task), data=None if data is None else Path(data)), seed=seed)
    spec = found.spec
    if spec.kind not in ("classification", "pair"):
        raise UsageError("is no task of classes", where=task, found=spec.kind, expected="classification or pair")
    for note in found.notes:
        progress.notice(f"{spec.name}: {note}")
    transform = Preprocessor(spec, lm.tokenizer, lm.config.block_size)
    train, valid = transform(found.train), transform(found.valid)
    labels, true = (torch.tensor([row.label for row in part]) for part in (train, valid))
    seen, unseen = (features(lm.model, part, device_context, pool) for part in (train, valid))
    layers = fit_layers(seen, labels, unseen, true, len(spec.labels))
    majority = float((true == labels.mode().values).float().mean())
    return ProbeResult(str(run), spec.name, pool, len(train), majority, layers)
