"""``verify-resume``: prove on this machine, with these settings, that stop and resume equals no stop."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from firstlight import progress
from firstlight.config import dump_toml, read_toml
from firstlight.stages import request
from firstlight.stages.pretrain import pretrain


@dataclass(frozen=True, slots=True)
class ResumeProof:
    """What the comparison found.

    Attributes:
        equal: every tensor and counter is the same, bit for bit.
        compared: tensors compared.
        difference: the first one that differs, or None.
    """

    equal: bool
    steps: int
    stopped_at: int
    compared: int
    difference: str | None


def verify_resume(
    settings: str | Path, *, steps: int = 20, stop_at: int = 9, overrides: Sequence[str] = ()
) -> ResumeProof:
    """Train ``steps`` steps unbroken, and again with a stop after ``stop_at`` and a resume; compare every bit.

    Args:
        settings: a RUN.toml; its stop limits are replaced, all else is as in the run.
        steps: length of both runs.
        stop_at: the step after which the second run is stopped.
        overrides: ``key=value`` words, applied to both.
    """
    table = read_toml(Path(settings))
    for limit in ("tokens", "epochs", "minutes", "convergence"):
        table.get("train", {}).pop(limit, None)
    common = [
        *overrides,
        "train.checkpoint_every=0",
        "train.eval_every=0",
        "train.sample_every=0",
        "train.trackers=[]",
        "train.log_every=1",
        "train.keep_last=1",
    ]
    with tempfile.TemporaryDirectory(prefix="firstlight-resume-") as folder:
        # What is wrong with the settings is told here, where it names the user's own file.
        request.resolve_request(
            [str(settings)],
            out=Path(folder) / "none",
            preset_name=None,
            start_from=None,
            resume=False,
            overrides=overrides,
        )
        same = Path(folder) / "same.toml"
        same.write_text(dump_toml(table), encoding="utf-8")
        unbroken, broken = Path(folder) / "unbroken", Path(folder) / "broken"
        progress.notice(f"training {steps} steps without a stop")
        pretrain([str(same)], out=unbroken, overrides=[*common, f"train.steps={steps}"])
        progress.notice(f"training {stop_at} steps, stopping, and going on to {steps}")
        # The schedule counts on all steps in both runs, so the stop is a checkpoint in the middle, not a shorter run.
        pretrain([str(same)], out=broken, overrides=[*common, f"train.steps={steps}", f"train.stop_after={stop_at}"])
        pretrain([str(broken)], resume=True, overrides=[f"train.stop_after={0}"])
        return _compare(unbroken, broken, steps, stop_at)


def _compare(unbroken: Path, broken: Path, steps: int, stop_at: int) -> ResumeProof:
    name = f"step-{steps:08d}"
    one, two = unbroken / "checkpoints" / name, broken / "checkpoints" / name
    compared = 0
    for file in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        a, b = load_file(one / file), load_file(two / file)
        for key in sorted(a.keys() | b.keys()):
            compared += 1
            if key not in a or key not in b:
                return ResumeProof(False, steps, stop_at, compared, f"{file}: {key} is in one run only")
            if not torch.equal(a[key], b[key]):
                at = int((a[key] != b[key]).flatten().nonzero()[0])
                return ResumeProof(
                    False,
                    steps,
                    stop_at,
                    compared,
                    f"{file}: {key}[{at}] is {a[key].flatten()[at].item()!r} unbroken, "
                    f"{b[key].flatten()[at].item()!r} resumed",
                )
    losses = [_losses(run) for run in (unbroken, broken)]
    for step, (a_loss, b_loss) in enumerate(zip(*losses, strict=True), start=1):
        if a_loss != b_loss:
            return ResumeProof(
                False, steps, stop_at, compared, f"loss of step {step}: {a_loss} unbroken, {b_loss} resumed"
            )
    return ResumeProof(True, steps, stop_at, compared, None)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
