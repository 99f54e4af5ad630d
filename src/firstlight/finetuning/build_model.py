"""The model that learns tasks: the pre-trained body with new tokens, heads and adapters; what learns, and how fast."""

import fnmatch
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.errors import ConfigError
from firstlight.finetuning import adapters
from firstlight.finetuning.settings import TuningSettings
from firstlight.finetuning.spec import TaskSpec
from firstlight.model import GPT, skip_init

_HEADS = "heads."


def build_task_model(
    start: GPT, specs: Mapping[str, TaskSpec], vocab_size: int, table: TuningSettings, seed: int
) -> GPT:
    """Return a model with the weights of ``start``, room for new tokens, a head a task, adapters, and what is frozen.

    Args:
        start: the pre-trained model; a head that it has already, of the same task, goes on learning.
        specs: the tasks by name.
        vocab_size: of the tokenizer; more than the model's where tokens were added.
        table: the choices of fine-tuning.
        seed: of what is drawn.

    Raises:
        ConfigError: dropout where the family has none, or a pattern of freeze that fits nothing or everything.
        MissingExtra: adapters without peft.
    """
    before = start.config.vocab_size or 0
    config = start.config.model_copy(update={"vocab_size": max(before, vocab_size)})
    if table.dropout is not None:
        if config.rotary and table.dropout:
            raise ConfigError("has no place in this family", where="finetune.dropout", found=config.family)
        config = config.model_copy(update={"dropout": table.dropout})
    with skip_init():
        model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    known = start.state_dict()
    weights = {name: tensor for name, tensor in known.items() if not name.startswith(_HEADS)}
    for name in ("embed.weight", "head.weight"):
        if name in weights and (config.vocab_size or 0) > before:
            weights[name] = torch.cat(
                [weights[name], _more(weights[name], (config.vocab_size or 0) - before, generator)]
            )
    for name, spec in specs.items():
        if spec.has_head:
            model.add_head(name, spec.n_outputs)
            drawn = torch.randn((spec.n_outputs, config.n_embd), generator=generator) * config.init_std
            head = known.get(f"{_HEADS}{name}.weight")
            weights[f"{_HEADS}{name}.weight"] = head if head is not None and head.shape == drawn.shape else drawn
    model.load_state_dict(weights)
    if table.adapter.kind != "none":
        adapters.inject(model, table.adapter, seed)
    _freeze(model, table.freeze)
    return model


def _more(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return rows for new tokens, drawn as the known ones are spread (Hewitt 2021).

    Trained rows have grown far beyond a model's first ones: beside them a row drawn as at first would hardly be seen.
    """
    mean, deviation = rows.mean(0), rows.std(0)
    return mean + deviation * torch.randn((n, rows.shape[1]), generator=generator)


def _freeze(model: GPT, patterns: Sequence[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise ConfigError(
                "fits no parameter", where="finetune.freeze", found=pattern, expected=f"such as {', '.join(names[:3])}"
            )
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("leaves nothing to learn", where="finetune.freeze", found=", ".join(patterns))


def depth(name: str, n_layer: int) -> int:
    """Return how far a parameter lies below the heads: 0 for them, 1 for the last block, n_layer + 1 for embeddings."""
    if name.startswith((_HEADS, "norm.", "head.")):
        return 0
    found = re.match(r"blocks\.(\d+)\.", name)
    return n_layer - int(found[1]) if found else n_layer + 1


def layer_lr_scales(model: GPT, decay: float) -> dict[str, float]:
    """Return each parameter's share of the learning rate, ``decay`` a layer down (Howard & Ruder 2018)."""
    return {name: decay ** depth(name, model.config.n_layer) for name, _ in model.named_parameters()}


def unfreeze_layers(model: GPT, learning: frozenset[str], done: int, every: float) -> None:
    """Let the heads and the ``1 + done // every`` last blocks learn, of those parameters that learn at all."""
    reach = 1 + int(done / every)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning and depth(name, model.config.n_layer) <= reach)
