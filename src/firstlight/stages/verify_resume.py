"""``verify-resume``: check on this machine that an interrupted and resumed run is bit-identical to another."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from firstlight import progress
from firstlight.config import dump_toml, read_toml
from firstlight.runs import RunDirectory
from firstlight.stages.pretrain import PretrainRecipe, pretrain
from firstlight.stages.request import pretrain_request
from firstlight.types import as_list


@dataclass(frozen=True, slots=True)
class VerifyResumeResult:
    """The result of the comparison.

    Attributes:
        equal: whether every tensor and loss is the same, bit for bit.
        steps: length of both runs.
        stopped_at: the step after which the second run was stopped.
        compared: number of tensors compared.
        difference: the first one that differs, or None.
    """

    equal: bool
    steps: int
    stopped_at: int
    compared: int
    difference: str | None


def verify_resume(
    settings: str | Path, *, steps: int = 20, stop_at: int = 9, overrides: str | Sequence[str] = ()
) -> VerifyResumeResult:
    """Train ``steps`` steps without a stop, and again with a stop after ``stop_at`` and a resume; compare every bit.

    Args:
        settings: a RUN.toml; its limits are replaced, everything else is as in the run.
        steps: length of both runs.
        stop_at: the step after which the second run is stopped.
        overrides: settings as ``key=value``, applied to both.

    Raises:
        Interrupted: a signal ended one of the runs.
    """

    def train(inputs: list[str], **options: Any) -> None:
        pretrain(inputs, **options).raise_if_interrupted()

    table = read_toml(Path(settings))
    for limit in ("tokens", "epochs", "minutes", "convergence"):
        table.get("train", {}).pop(limit, None)
    common = [
        *as_list(overrides),
        "train.checkpoint_every=0",
        "train.eval_every=0",
        "train.sample_every=0",
        "train.trackers=[]",
        "train.log_every=1",
        "train.keep_last=1",
    ]
    with tempfile.TemporaryDirectory(prefix="firstlight-resume-") as folder:
        # Wrong settings are reported here, where the error names the user's own file.
        pretrain_request(
            PretrainRecipe(),
            [str(settings)],
            out=Path(folder) / "none",
            preset_name=None,
            init_from=None,
            resume=False,
            overrides=overrides,
        )
        same = Path(folder) / "same.toml"
        same.write_text(dump_toml(table), encoding="utf-8")
        unbroken, resumed = Path(folder) / "unbroken", Path(folder) / "resumed"
        progress.notice(f"training {steps} steps without a stop")
        train([str(same)], out=unbroken, overrides=[*common, f"train.steps={steps}"])
        progress.notice(f"training {stop_at} steps, stopping, and resuming up to {steps}")
        # Both runs have the same schedule, so the stop is a checkpoint in the middle, not a shorter run.
        train([str(same)], out=resumed, overrides=[*common, f"train.steps={steps}", f"train.stop_after={stop_at}"])
        train([str(resumed)], resume=True, overrides=[f"train.stop_after={0}"])
        return _compare(unbroken, resumed, steps, stop_at)


def _compare(unbroken: Path, resumed: Path, steps: int, stop_at: int) -> VerifyResumeResult:
    name = f"step-{steps:08d}"
    one, two = (RunDirectory(run).checkpoints / name for run in (unbroken, resumed))
    compared = 0
    for file in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        a, b = load_file(one / file), load_file(two / file)
        for key in sorted(a.keys() | b.keys()):
            compared += 1
            if key not in a or key not in b:
                return VerifyResumeResult(False, steps, stop_at, compared, f"{file}: {key} is in one of the runs only")
            if not torch.equal(a[key], b[key]):
                at = int((a[key] != b[key]).flatten().nonzero()[0])
                return VerifyResumeResult(
                    False,
                    steps,
                    stop_at,
                    compared,
                    f"{file}: {key}[{at}] is {a[key].flatten()[at].item()!r} without a stop, "
                    f"{b[key].flatten()[at].item()!r} resumed",
                )
    losses = [_losses(run) for run in (unbroken, resumed)]
    for step, (a_loss, b_loss) in enumerate(zip(*losses, strict=True), start=1):
        if a_loss != b_loss:
            return VerifyResumeResult(
                False, steps, stop_at, compared, f"loss of step {step}: {a_loss} without a stop, {b_loss} resumed"
            )
    return VerifyResumeResult(True, steps, stop_at, compared, None)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in RunDirectory(run).metrics.read_bytes().split(b"\n") if line]
    return [line["loss"] for line in lines if "loss" in line]
