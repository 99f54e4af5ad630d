"""``presets``: list the presets of ``pretrain`` and ``finetune``, or show one with every setting."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from firstlight.config import Settings, dump_toml, preset, preset_names, resolve, used_settings, without_keys
from firstlight.errors import UnknownName
from firstlight.model import count_parameters
from firstlight.stages.finetune import PRESETS as FINETUNE_PRESETS
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.request import PRESETS as PRETRAIN_PRESETS
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.vocab_settings import unused_of_kind

# Per command: the package of its presets, and the settings that they are resolved to.
PACKAGES: dict[str, tuple[str, type[Settings]]] = {
    "pretrain": (PRETRAIN_PRESETS, PretrainSettings),
    "finetune": (FINETUNE_PRESETS, FinetuneSettings),
}


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """One preset.

    Attributes:
        description: the first comment line of its TOML file.
        family: of the model; None for presets of ``finetune``.
        parameters: None where the size of the vocabulary is not known before the tokenizer is trained.
        non_embedding_parameters: without embeddings and an untied head.
        context: positions; ``model.block_size``.
    """

    name: str
    command: str
    description: str
    family: str | None = None
    parameters: int | None = None
    non_embedding_parameters: int | None = None
    context: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def list_presets() -> list[PresetInfo]:
    """List the presets of every command, the smallest models first."""
    found = [_describe(command, name) for command in PACKAGES for name in preset_names(PACKAGES[command][0])]
    return sorted(found, key=lambda info: (list(PACKAGES).index(info.command), info.non_embedding_parameters or 0))


def show_preset(name: str) -> str:
    """Return a preset as TOML with every setting that has an effect, its own and the defaults.

    Raises:
        UnknownName: no command has a preset of that name.
    """
    command = next((command for command, preset_name in _names() if preset_name == name), None)
    if command is None:
        raise UnknownName("preset", name, [info.name for info in list_presets()])
    header = f"Preset {name} of the command {command}, with every setting.\n{_comment(command, name)}"
    # Those of pre-training are for text.
    return dump_toml(without_keys(used_settings(_resolved(command, name)), unused_of_kind("text")), header=header)


def _names() -> Iterator[tuple[str, str]]:
    for command, (package, _) in PACKAGES.items():
        yield from ((command, name) for name in preset_names(package))


def _describe(command: str, name: str) -> PresetInfo:
    description = _comment(command, name)
    settings = _resolved(command, name)
    if not isinstance(settings, PretrainSettings):
        return PresetInfo(name, command, description)
    vocab_size = settings.model.vocab_size or settings.tokenizer.vocab_size
    known = isinstance(vocab_size, int)
    count = count_parameters(settings.model.complete(vocab_size if isinstance(vocab_size, int) else 1))
    return PresetInfo(
        name,
        command,
        description,
        settings.model.family,
        count.total if known else None,
        count.non_embedding,
        settings.model.block_size,
    )


def _resolved(command: str, name: str) -> Settings:
    package, root = PACKAGES[command]
    return resolve(root, preset(package, name))


def _comment(command: str, name: str) -> str:
    """Return the first comment line of a preset's file, without its mark."""
    text = (resources.files(PACKAGES[command][0]) / f"{name}.toml").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
