"""The default learning rate of a run that starts from a trained model."""

from collections.abc import Collection
from dataclasses import replace

from firstlight import parallel, progress
from firstlight.config import merge, resolve, without_keys
from firstlight.errors import ConfigError
from firstlight.lm import LM
from firstlight.optim import OptimizerSettings
from firstlight.parallel import DeviceContext
from firstlight.runs import Layers, RunDirectory
from firstlight.stages.settings import PretrainSettings
from firstlight.store import TokenStore, Windows
from firstlight.train import validate

# As fractions of a fresh start's learning rate, on text like the model's own and on other text; and the steps of
# warm-up. How they were measured: docs/decisions/0016-continued-learning-rate.md.
KNOWN_TEXT_RATIO, NEW_TEXT_RATIO = 0.3, 1.0
KNOWN_TEXT_NATS, NEW_TEXT_NATS = 0.1, 0.4  # loss above that on the model's own validation text, in nats per token
WARMUP_STEPS = 10
_MAX_WINDOWS = 128


def add_continued_warmup(layers: Layers, run: RunDirectory) -> tuple[Layers, Collection[str]]:
    """Add the default warm-up of a run that starts from a model, below what the user set.

    A run that is resumed keeps its warm-up and its learning rate.

    Returns:
        The layers, and the names of the optimizer's learning rates that ``scale_default_lr`` decides on.
    """
    given = merge(layers.file, layers.arguments)
    source = run.read_settings() if run.exists else given
    if not source.get("run", {}).get("init_from"):
        return layers, ()
    try:
        optim = resolve(PretrainSettings, {"optim": merge(layers.preset, given).get("optim", {})}).optim
    except ConfigError:  # reported with the request
        return layers, ()
    if run.exists:
        keys = [f"optim.{name}" for name in (*optim.lr_fields, "schedule.warmup_steps")]
        return replace(layers, preset=without_keys(layers.preset, keys)), ()
    optim_given = given.get("optim", {})
    if not {"warmup_steps", "warmup_ratio"} & set(optim_given.get("schedule", {})):
        schedule = {"warmup_steps": max(optim.schedule.warmup_steps, WARMUP_STEPS)}
        layers = replace(layers, preset=merge(layers.preset, {"optim": {"schedule": schedule}}))
    return layers, [name for name in optim.lr_fields if name not in optim_given]


def scale_default_lr(
    optim: OptimizerSettings, names: Collection[str], lm: LM, store: TokenStore, device_context: DeviceContext
) -> OptimizerSettings:
    """Multiply default learning rates by what a run that starts from a model needs on this text.

    A fresh start's rate makes a model worse on text like its own, where a low one still gains; on other text it learns
    most with the full rate (Ibrahim et al. 2024). How new the text is, the model's loss on it says.

    Args:
        optim: the optimizer's settings.
        names: of its learning rates that are not set.
        lm: the model that the run starts from.
        store: the run's text.
        device_context: device and processes.
    """
    if not names:
        return optim
    before, now = _recorded_loss(lm), _loss(lm, store, device_context)
    new = None if before is None or now is None else now - before
    ratio = lr_ratio(new)
    rates = {name: getattr(optim, name) * ratio for name in names}
    named = ", ".join(f"optim.{name}={value:.3g}" for name, value in rates.items())
    reason = "since the run starts from a trained model"
    if new is not None:
        reason += f", whose loss on this text is {now:.3f}, and {before:.3f} on its own validation text"
    progress.notice(f"{named}: {ratio:.2g} of a fresh start's learning rate, {reason}")
    return optim.model_copy(update=rates)


def lr_ratio(nats: float | None) -> float:
    """Return the fraction of a fresh start's learning rate for text on which the model's loss is ``nats`` higher.

    Between text like the model's own and other text it is interpolated geometrically; None if the loss is not known.
    """
    if nats is None:
        return KNOWN_TEXT_RATIO
    newness = min(1.0, max(0.0, (nats - KNOWN_TEXT_NATS) / (NEW_TEXT_NATS - KNOWN_TEXT_NATS)))
    return float(KNOWN_TEXT_RATIO * (NEW_TEXT_RATIO / KNOWN_TEXT_RATIO) ** newness)


def _loss(lm: LM, store: TokenStore, device_context: DeviceContext) -> float | None:
    """Return the loss on a part of the validation split, in nats per token; None without one."""
    windows = Windows(
        store.valid,
        block_size=lm.config.block_size,
        max_windows=_MAX_WINDOWS,
        eot_id=store.eot_id,
        sequence_length=store.sequence_length,
    )
    if not windows.n_windows:
        return None
    lm.model.to(device_context.device)
    try:
        loss = validate(lm.model, windows, None, device_context, rows=8).loss
    finally:
        lm.model.to("cpu")
    return float(parallel.broadcast_object(loss, device_context))


def _recorded_loss(lm: LM) -> float | None:
    """Return the validation loss that the model's run recorded for its checkpoint, or None."""
    if lm.source is None:
        return None
    run = RunDirectory(lm.source.parent.parent)
    if run.kind != "pretrain" or not lm.source.name.startswith("step-"):
        return None
    return run.validation_loss(int(lm.source.name.removeprefix("step-")))
