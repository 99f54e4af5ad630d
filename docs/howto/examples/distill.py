"""Pre-training with knowledge distillation (Hinton et al. 2015): a student also learns a teacher's probabilities.

python distill.py mybooks/ --out runs/student distill.teacher=runs/mine model.n_layer=2 train.steps=500
"""

import argparse
from pathlib import Path

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn, no_grad

from firstlight import parallel
from firstlight.config import Settings
from firstlight.errors import CompatibilityError, FirstlightError
from firstlight.lm import LM
from firstlight.model import GPT
from firstlight.parallel import DeviceContext
from firstlight.runs import RunDirectory, run_recipe
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.finalize import write_report
from firstlight.stages.pretrain import PretrainRecipe
from firstlight.stages.process_clock import process_start
from firstlight.stages.request import pretrain_request
from firstlight.stages.settings import PretrainSettings
from firstlight.train import TrainContext


class DistillationSettings(Settings):
    """The table ``distill`` of run.toml."""

    teacher: str = Field(description="a run, checkpoint or Hugging Face directory with the same tokenizer")
    weight: float = Field(0.5, ge=0, le=1, description="weight of the teacher's part of the loss")


class Distillation(PretrainSettings):
    """The settings of pre-training, and a teacher."""

    distill: DistillationSettings


class DistillationLoss(nn.Module):
    """Cross-entropy with the targets, mixed with cross-entropy with the teacher's probabilities.

    Args:
        student: the model to train.
        teacher: its parameters are not trained, and no part of a checkpoint.
        weight: weight of the teacher's part.
    """

    def __init__(self, student: GPT, teacher: GPT, weight: float) -> None:
        super().__init__()
        self.student, self.weight = student, weight
        self.teacher = [teacher.eval()]  # in a list, so that it is not a submodule

    def forward(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over (B, T) targets, and their number: never a mean."""
        with no_grad():
            probabilities = self.teacher[0](inputs, starts=starts).float().softmax(-1)  # (B, T, V)
        logits = self.student(inputs, starts=starts).float().flatten(0, 1)  # (B T, V)
        hard = F.cross_entropy(logits, targets.flatten(), reduction="none")
        soft = F.cross_entropy(logits, probabilities.flatten(0, 1), reduction="none")
        losses = (1 - self.weight) * hard + self.weight * soft
        per_target = losses.new_ones(losses.shape) if weights is None else weights.flatten()
        return (losses * per_target).sum(), per_target.sum()


class DistillationRecipe(PretrainRecipe):
    """Pre-training with another loss; data, optimizer, evaluation, checkpoints and resume are inherited."""

    kind = "distill"
    settings_class = Distillation

    def build(
        self,
        run: RunDirectory,
        settings: PretrainSettings,
        artifacts: PretrainArtifacts,
        device_context: DeviceContext,
        process_start: float,
    ) -> TrainContext:
        """Build pre-training, and replace its loss."""
        assert isinstance(settings, Distillation)
        teacher = LM.load_fp32(settings.distill.teacher)
        if teacher.vocab is None or teacher.vocab.hash != artifacts.vocab.hash:
            raise CompatibilityError(
                "the teacher has another tokenizer",
                where="distill.teacher",
                found=settings.distill.teacher,
                fix="Set tokenizer.path to the teacher's tokenizer.",
            )
        ctx = super().build(run, settings, artifacts, device_context, process_start)
        loss = DistillationLoss(ctx.state.model, teacher.model.to(device_context.device), settings.distill.weight)
        ctx.module = parallel.wrap_ddp(parallel.compile_module(loss, device_context), device_context)
        return ctx


def main() -> None:
    """Train a student, or resume its run."""
    started = process_start()
    parser = argparse.ArgumentParser(description="Pre-train with knowledge distillation.")
    parser.add_argument("inputs", nargs="*", metavar="CORPUS|KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_intermixed_args()
    recipe = DistillationRecipe()
    try:
        request = pretrain_request(
            recipe,
            [word for word in arguments.inputs if "=" not in word],
            out=arguments.out,
            preset_name=None,
            init_from=None,
            resume=arguments.resume,
            overrides=[word for word in arguments.inputs if "=" in word],
        )
        result = run_recipe(recipe, request, process_start=started, write_report=write_report)
    except FirstlightError as error:
        raise SystemExit(f"error: {error.message}") from error
    print(f"{result.run}: step {result.step}, validation loss {result.valid_loss}")


if __name__ == "__main__":
    main()
