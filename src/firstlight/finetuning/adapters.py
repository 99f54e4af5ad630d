"""Low-rank adapters by peft: LoRA, DoRA, rsLoRA (Hu et al. 2021; Liu et al. 2024).

A checkpoint contains the model with its adapters merged, and ``adapter/``, a peft directory in transformers' names for
the transformers base model.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from firstlight.errors import CheckpointError, MissingExtra, UsageError
from firstlight.files import apply_umask, write_atomic
from firstlight.files.run_layout import BASE
from firstlight.finetuning.settings import AdapterSettings
from firstlight.lm import CARD, CardInfo, write_card
from firstlight.model import GPT, HEADS_FILE, hf_parameter_names, tensors_to_hf
from firstlight.model.quantized import QuantizedLinear, QuantType

FOLDER = "adapter"
_PREFIX = "adapter."
_MATRICES = {"attention": ("qkv", "out"), "mlp": ("up", "gate_up", "down")}
# Parameters of a peft layer, in our state dict and in its files.
_PARTS = {
    "lora_A.default.weight": "lora_A.weight",
    "lora_B.default.weight": "lora_B.weight",
    "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
}


def inject(model: GPT, settings: AdapterSettings, seed: int) -> None:
    """Add adapters to the target matrices, and freeze everything but them and the heads.

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
        raise UsageError("is empty", where="finetune.adapter.targets", expected="attention, mlp")
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"blocks\.\d+\..*\.({'|'.join(names)})",
        use_dora=settings.kind == "dora",
        use_rslora=settings.kind == "rslora",
    )
    frozen = {} if settings.base == "full" else _quantize(model, names, settings.base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    layers = _layers(model)
    for name, layer in frozen.items():
        layers[name].base_layer = layer
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("heads."))


def _quantize(model: GPT, names: list[str], bits: QuantType) -> dict[str, QuantizedLinear]:
    """Quantize the matrices, and round the model's own to them, from which adapters are initialized."""
    frozen = {}
    for module, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and module.startswith("blocks.") and module.rpartition(".")[2] in names:
            frozen[module] = QuantizedLinear(layer, bits)
            layer.weight.data.copy_(frozen[module].weight)
    return frozen


class AdapterCheckpoint:
    """The checkpoint format of a model with adapters: merged weights, and the adapters in a folder of their own.

    Loading reads adapters and heads only; the frozen weights come from the model that the run started from.
    """

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return merged weights and heads in transformers' names, and adapters in ours."""
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
        """Load adapters and heads."""
        found = _read(model, checkpoint / FOLDER) | load_file(checkpoint / HEADS_FILE)
        expected = {n for n, p in model.named_parameters() if p.requires_grad}
        if set(found) != expected:
            differing = min(set(found) ^ expected)
            raise CheckpointError("adapters do not match the run's settings", where=checkpoint, found=differing)
        model.load_state_dict(found, strict=False)


def write(
    folder: Path,
    model: GPT,
    weights: dict[str, Tensor],
    settings: AdapterSettings,
    *,
    base: str,
    head: str | None,
    card: CardInfo,
    embeddings: bool = False,
) -> dict[str, Tensor]:
    """Write ``adapter/`` as peft does, and return the weights without the adapters.

    Args:
        folder: of the checkpoint.
        model: whose configuration maps our names to those of transformers.
        weights: from ``AdapterCheckpoint.export``.
        settings: of the adapters.
        base: name of the base model: on the hub, or in the folder of the run.
        head: name of the head that transformers has a class for, if any.
        card: what the model card says; its base model is this one, or None if that is not on the hub.
        embeddings: write the embeddings, too, as peft does where a base that lacks tokens of the rows is resized.
    """
    adapters = {k.removeprefix(_PREFIX): v for k, v in weights.items() if k.startswith(_PREFIX)}
    written: dict[str, Tensor] = {}
    targets = set()
    for name, tensor in adapters.items():
        part = next(p for p in _PARTS if name.endswith(p))
        theirs, rows, turned = hf_parameter_names(model.config, name.removesuffix(f".{part}") + ".weight")
        # The parts of a fused matrix share its A; its B is split among them.
        pieces = [tensor] * len(theirs) if "lora_A" in part else list(torch.split(tensor, rows)) if rows else [tensor]
        for their, slice_rows in zip(theirs, pieces, strict=True):
            module = their.removesuffix(".weight")
            targets.add(module.rpartition(".")[2])
            written[f"base_model.model.{module}.{_PARTS[part]}"] = slice_rows.contiguous().clone()
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
    for name in ("embed.weight", "head.weight") if embeddings else ():
        if name in dict(model.named_parameters()):
            (their,), _, _ = hf_parameter_names(model.config, name)
            written[f"base_model.model.{their}"] = weights[their].contiguous().clone()
    if head is not None:
        written["base_model.model.score.weight"] = weights[f"heads.{head}.weight"]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    save_file(written, folder / FOLDER / "adapter_model.safetensors")
    apply_umask(folder / FOLDER / "adapter_model.safetensors")
    write_atomic(folder / FOLDER / "adapter_config.json", json.dumps(table, indent=1) + "\n")
    n_labels = None if head is None else len(weights[f"heads.{head}.weight"])
    write_atomic(folder / FOLDER / CARD, _card(card, settings, base, n_labels))
    return {k: v for k, v in weights.items() if not k.startswith(_PREFIX)}


# Where a checkpoint's adapters find the base that their run keeps.
_KEPT_BASE = f"../../../{BASE}"


def _card(card: CardInfo, settings: AdapterSettings, base: str, n_labels: int | None) -> str:
    """Return the model card of the adapters alone."""
    kind = "CausalLM" if n_labels is None else "SequenceClassification"
    place = card.base_model or _KEPT_BASE
    labels = "" if n_labels is None else f", num_labels={n_labels}"
    code = f"""from peft import PeftModel
from transformers import AutoModelFor{kind}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
base = AutoModelFor{kind}.from_pretrained("{place}"{labels})
if len(tokenizer) > base.config.vocab_size:
    base.resize_token_embeddings(len(tokenizer))
base.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base, ".")"""
    use = "The adapters change the base model that they were trained on, and work with no other."
    if card.base_model is None:
        use += f" It is not on the hub: put its folder in the place of `{place}`, where the run has it."
    return write_card(
        replace(card, name=f"{card.name}, adapters" if card.name else ""),
        library="peft",
        pipeline_tag="text-generation" if n_labels is None else "text-classification",
        rows={"base model": base, "adapters": f"{settings.kind}, r {settings.r}, alpha {settings.alpha}"},
        code=code,
        use=use,
    )


def _read(model: GPT, folder: Path) -> dict[str, Tensor]:
    """Read the adapters back in our names, bit for bit."""
    held = load_file(folder / "adapter_model.safetensors")
    found = {}
    for module in _layers(model):
        theirs, rows, _ = hf_parameter_names(model.config, f"{module}.weight")
        for ours, part in _PARTS.items():
            pieces = [held.get(f"base_model.model.{t.removesuffix('.weight')}.{part}") for t in theirs]
            there = [slice_rows for slice_rows in pieces if slice_rows is not None]
            if there:
                found[f"{module}.{ours}"] = torch.cat(there) if rows and "lora_A" not in ours else there[0]
    return found


def _layers(model: GPT) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _merged(layer: nn.Module) -> Tensor:
    """Return a matrix with its adapter merged into it; the layer is not changed."""
    joined: Any = copy.deepcopy(layer)
    if isinstance(joined.base_layer, QuantizedLinear):
        joined.base_layer = joined.base_layer.dequantize()
    joined.merge()
    weight: Tensor = joined.get_base_layer().weight
    return weight.detach()
