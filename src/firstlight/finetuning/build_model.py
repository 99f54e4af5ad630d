"""The model of a fine-tuning run: pre-trained weights, new tokens, heads and adapters; which of them are trained."""

import fnmatch
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.errors import ConfigError
from firstlight.finetuning import adapters
from firstlight.finetuning.kinds import head_of
from firstlight.finetuning.settings import TuningSettings
from firstlight.finetuning.spec import TaskSpec
from firstlight.model import GPT, skip_init

_HEADS = "heads."


def build_task_model(
    start: GPT,
    specs: Mapping[str, TaskSpec],
    vocab_size: int,
    settings: TuningSettings,
    seed: int,
    *,
    n_known: int | None = None,
) -> GPT:
    """Build a model with pre-trained weights, embeddings of new tokens, a head per task, adapters and frozen parts.

    Args:
        start: the pre-trained model; a head of the same task and shape is kept.
        specs: the tasks by name.
        vocab_size: of the tokenizer; larger than the model's where tokens were added.
        settings: of fine-tuning.
        seed: of all random initialization.
        n_known: ids from this one on are those of new tokens, also where the model has rows for them: published
            vocabularies are padded with rows that were never trained. Its vocabulary size by default.

    Raises:
        ConfigError: dropout where the family has none, or a pattern of ``freeze`` that matches nothing or everything.
        MissingExtra: adapters without peft.
    """
    before = start.config.vocab_size or 0
    config = start.config.model_copy(update={"vocab_size": max(before, vocab_size)})
    if settings.dropout is not None:
        if config.rotary and settings.dropout:
            raise ConfigError(
                "is not supported by this model family",
                where="finetune.dropout",
                found=config.family,
                fix="Leave it out.",
            )
        config = config.model_copy(update={"dropout": settings.dropout})
    with skip_init():
        model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    pretrained = start.state_dict()
    weights = {name: tensor for name, tensor in pretrained.items() if not name.startswith(_HEADS)}
    for name in ("embed.weight", "head.weight"):
        known = min(before, vocab_size if n_known is None else n_known)
        if name in weights and vocab_size > known:
            old = weights[name]
            rows = [old[:known], _new_rows(old[:known], vocab_size - known, generator), old[vocab_size:]]
            weights[name] = torch.cat(rows)
    for name, spec in specs.items():
        head = head_of(spec)
        if head is not None:
            n = head.n_outputs(spec)
            model.add_head(name, n)
            fresh = torch.randn((n, config.n_embd), generator=generator) * config.init_std
            kept = pretrained.get(f"{_HEADS}{name}.weight")
            weights[f"{_HEADS}{name}.weight"] = kept if kept is not None and kept.shape == fresh.shape else fresh
    model.load_state_dict(weights)
    if settings.adapter.kind != "none":
        adapters.inject(model, settings.adapter, seed)
    _freeze(model, settings.freeze)
    return model


def _new_rows(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return embeddings of new tokens, with the mean and deviation of the trained ones (Hewitt 2021).

    Trained embeddings are much larger than initial ones: next to them, one drawn with init_std would hardly count.
    """
    mean, deviation = rows.mean(0), rows.std(0)
    return mean + deviation * torch.randn((n, rows.shape[1]), generator=generator)


def _freeze(model: GPT, patterns: Sequence[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise ConfigError(
                "matches no parameter",
                where="finetune.freeze",
                found=pattern,
                expected=f"one of {', '.join(names[:3])} …",
            )
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("leaves no parameter to train", where="finetune.freeze", found=", ".join(patterns))


def depth(name: str, n_layer: int) -> int:
    """Return a parameter's distance from the heads: 0 for them, 1 for the last block, n_layer + 1 for embeddings."""
    if name.startswith((_HEADS, "norm.", "head.")):
        return 0
    found = re.match(r"blocks\.(\d+)\.", name)
    return n_layer - int(found[1]) if found else n_layer + 1


def layer_lr_scales(model: GPT, layer_decay: float) -> dict[str, float]:
    """Return the factor of each parameter's learning rate: ``layer_decay`` ** depth (Howard & Ruder 2018)."""
    return {name: layer_decay ** depth(name, model.config.n_layer) for name, _ in model.named_parameters()}


def unfreeze_layers(model: GPT, trainable: frozenset[str], done: int, every: float) -> None:
    """Unfreeze the heads and the ``1 + done // every`` last blocks, among the trainable parameters.

    Args:
        model: the model.
        trainable: names of the parameters that are not frozen for good.
        done: updates so far.
        every: updates between two layers.
    """
    max_depth = 1 + int(done / every)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable and depth(name, model.config.n_layer) <= max_depth)
