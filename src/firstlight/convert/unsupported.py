"""Formats of weights that are known, and not read: what each is called, and how to convert it."""

from pathlib import Path

from firstlight.errors import CheckpointError

# Pattern of a file's name: whose format, and how to convert it.
_FORMATS = {
    "consolidated*.pth": ("Meta's original format", "Use the Hugging Face version of the model."),
    "*.distcp": (
        "PyTorch's format of distributed checkpoints",
        "Convert it with torch.distributed.checkpoint.format_utils, and rename its weights as in transformers.",
    ),
    "lit_model*.pth": ("LitGPT's format", "Convert it with litgpt convert_from_litgpt."),
    "adapter_model.*": ("PEFT's format of adapters", "Merge it into its model with peft: merge_and_unload."),
    "tf_model.h5": ("TensorFlow's format", "Use a version of the model in safetensors or pytorch_model.bin."),
    "flax_model.msgpack": ("Flax's format", "Use a version of the model in safetensors or pytorch_model.bin."),
    "weights*.npz": ("MLX's format", "Use a version of the model in safetensors or pytorch_model.bin."),
    "*.nemo": ("NeMo's format", "Convert it to Hugging Face's format with NeMo."),
    "mp_rank_*_model_states.pt": ("DeepSpeed's format", "Convert it with DeepSpeed's zero_to_fp32.py."),
}


def refuse_known_format(path: Path) -> None:
    """Refuse weights of a known format that is not read.

    Args:
        path: a file or a folder.

    Raises:
        CheckpointError: it is, or contains, such a file; names the format and how to convert it.
    """
    for pattern, (title, fix) in _FORMATS.items():
        found = path if path.is_file() and path.match(pattern) else next(iter(sorted(path.glob(pattern))), None)
        if found is not None:
            raise CheckpointError(f"is in {title}, which is not supported", where=found, fix=fix)
