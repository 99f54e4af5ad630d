"""Adapters by peft: small matrices that learn while the large ones stay (Hu et al. 2021; Liu et al. 2024).

A checkpoint holds the model with its adapters merged in, which anything loads, and beside it ``adapter/``: peft's own
directory, in transformers' names, which works on the transformers base.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from firstlight.errors import CheckpointError, MissingExtra, UsageError
from firstlight.files import apply_umask, write_atomic
from firstlight.finetuning.settings import AdapterSettings
from firstlight.model import GPT, HEADS_FILE, hf_parameter_names, tensors_to_hf
from firstlight.model.quantized import QuantizedLinear, QuantType

FOLDER = "adapter"
_PREFIX = "adapter."
_MATRICES = {"attention": ("qkv", "out"), "mlp": ("up", "gate_up", "down")}
# Parts of a module of peft's, in our names and in its files.
_PARTS = {
    "lora_A.default.weight": "lora_A.weight",
    "lora_B.default.weight": "lora_B.weight",
    "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
}


def inject(model: GPT, settings: AdapterSettings, seed: int) -> None:
    """Put adapters beside the matrices asked for; all else but the heads stops learning.

    Raises:
        MissingExtra: peft is not installed.
        UsageError: the settings name no matrix.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("fine-tuning with adapters", "adapters") from error
    names = [name for target in dict.fromkeys(settings.targets) for name in _MATRICES[target]]
    if not names:
        raise UsageError("names no matrix", where="finetune.adapter.targets", expected="attention, mlp")
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"blocks\.\d+\..*\.({'|'.join(names)})",
        use_dora=settings.kind == "dora",
        use_rslora=settings.kind == "rslora",
    )
    frozen = {} if settings.base == "full" else _in_few_bits(model, names, settings.base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    layers = _layers(model)
    for name, layer in frozen.items():
        layers[name].base_layer = layer
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("heads."))


def _in_few_bits(model: GPT, names: list[str], bits: QuantType) -> dict[str, QuantizedLinear]:
    """Return the matrices in few bits, and round those of the model to them: adapters begin at what they will see."""
    frozen = {}
    for module, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and module.startswith("blocks.") and module.rpartition(".")[2] in names:
            frozen[module] = QuantizedLinear(layer, bits)
            layer.weight.data.copy_(frozen[module].weight)
    return frozen


class Adapted:
    """How a model with adapters stands in a checkpoint: merged, and its adapters beside it.

    The matrices that do not learn are not read from it: they come from the model that the run started from.
    """

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return merged weights in transformers' names, heads, and adapters in ours."""
        plain: dict[str, Tensor] = {}
        adapters: dict[str, Tensor] = {}
        layers = _layers(model)
        for name, tensor in model.state_dict().items():
            module = next((m for m in layers if name.startswith(f"{m}.")), None)
            part = "" if module is None else name.removeprefix(f"{module}.")
            if module is None:
                plain[name] = tensor
            elif part in _PARTS:
                adapters[_PREFIX + name] = tensor
            elif part == "base_layer.bias":
                plain[f"{module}.bias"] = tensor
        plain |= {f"{module}.weight": _merged(layer) for module, layer in layers.items()}
        return tensors_to_hf(model.config, plain) | adapters

    def load(self, model: GPT, checkpoint: Path) -> None:
        """Take up adapters and heads."""
        found = _read(model, checkpoint / FOLDER) | load_file(checkpoint / HEADS_FILE)
        expected = {n for n, p in model.named_parameters() if p.requires_grad}
        if set(found) != expected:
            odd = min(set(found) ^ expected)
            raise CheckpointError("adapters are others than the run's settings ask for", where=checkpoint, found=odd)
        model.load_state_dict(found, strict=False)


def write(
    folder: Path, model: GPT, weights: dict[str, Tensor], settings: AdapterSettings, *, base: str, head: str | None
) -> dict[str, Tensor]:
    """Write ``adapter/`` as peft has it; return the weights without the adapters.

    Args:
        folder: of the checkpoint.
        model: tells what became of our matrices in transformers.
        weights: as ``Adapted.export`` gave them.
        settings: of the adapters.
        base: the model that they work on.
        head: name of the head that transformers' class has, if any.
    """
    adapters = {k.removeprefix(_PREFIX): v for k, v in weights.items() if k.startswith(_PREFIX)}
    written: dict[str, Tensor] = {}
    targets = set()
    for name, tensor in adapters.items():
        part = next(p for p in _PARTS if name.endswith(p))
        theirs, rows, turned = hf_parameter_names(model.config, name.removesuffix(f".{part}") + ".weight")
        # What reads is shared by all parts of a fused matrix; what writes is cut into them.
        pieces = [tensor] * len(theirs) if "lora_A" in part else list(torch.split(tensor, rows)) if rows else [tensor]
        for their, piece in zip(theirs, pieces, strict=True):
            module = their.removesuffix(".weight")
            targets.add(module.rpartition(".")[2])
            written[f"base_model.model.{module}.{_PARTS[part]}"] = piece.contiguous().clone()
    table: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "target_modules": sorted(targets),
        "fan_in_fan_out": turned,
        "use_dora": settings.kind == "dora",
        "use_rslora": settings.kind == "rslora",
        "inference_mode": True,
        "modules_to_save": None if head is None else ["score"],
    }
    if head is not None:
        written["base_model.model.score.weight"] = weights[f"heads.{head}.weight"]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    save_file(written, folder / FOLDER / "adapter_model.safetensors")
    apply_umask(folder / FOLDER / "adapter_model.safetensors")
    write_atomic(folder / FOLDER / "adapter_config.json", json.dumps(table, indent=1) + "\n")
    return {k: v for k, v in weights.items() if not k.startswith(_PREFIX)}


def _read(model: GPT, folder: Path) -> dict[str, Tensor]:
    """Return the adapters in our names, bit for bit those that were written."""
    held = load_file(folder / "adapter_model.safetensors")
    found = {}
    for module in _layers(model):
        theirs, rows, _ = hf_parameter_names(model.config, f"{module}.weight")
        for ours, part in _PARTS.items():
            pieces = [held.get(f"base_model.model.{t.removesuffix('.weight')}.{part}") for t in theirs]
            there = [piece for piece in pieces if piece is not None]
            if there:
                found[f"{module}.{ours}"] = torch.cat(there) if rows and "lora_A" not in ours else there[0]
    return found


def _layers(model: GPT) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _merged(layer: nn.Module) -> Tensor:
    """Return a matrix with its adapter added, leaving both as they are."""
    joined: Any = copy.deepcopy(layer)
    if isinstance(joined.base_layer, QuantizedLinear):
        joined.base_layer = joined.base_layer.dequantize()
    joined.merge()
    weight: Tensor = joined.get_base_layer().weight
    return weight.detach()
