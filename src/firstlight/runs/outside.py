"""What a run needs that is not in its directory: a token store or, by setting, a model; it is kept by path and hash."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight.config import read_toml
from firstlight.errors import UsageError
from firstlight.files.run_names import list_checkpoints
from firstlight.runs.directory import RunDirectory, read_json_object


@dataclass(frozen=True, slots=True)
class OutsideInput:
    """Something that a run depends on: it cannot be resumed without it, and must be told its new place after a move.

    Attributes:
        what: what it is, and for what it is needed.
        path: where it was.
        hash: of its contents; empty where there is none.
    """

    what: str
    path: str
    hash: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether it is not there."""
        return not Path(self.path).exists()

    def __str__(self) -> str:
        text = f"{self.what} {self.path}"
        if self.hash:
            text += f", hash {self.hash[:12]}"
        return f"{text}, which is not there" if self.is_missing else text

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "missing": self.is_missing}


def outside_inputs(run: RunDirectory) -> list[OutsideInput]:
    """List what a run depends on; empty for one that is whole by itself, or whose settings cannot be read."""
    try:
        settings = read_toml(run.settings_file)
    except UsageError:
        return []
    found, hashes = [], read_json_object(run.compatibility_file)

    def table(*keys: str) -> Any:
        value: Any = settings
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def add(what: str, path: Any, name: str) -> None:
        if isinstance(path, str):
            digest = hashes.get(name)
            found.append(OutsideInput(what, path, digest if isinstance(digest, str) else ""))

    add("the token store", table("run", "store"), "store")
    if table("finetune", "adapter", "kind") not in (None, "none"):
        if not run.base.is_dir():
            add("the model that its adapters are trained on", table("run", "init_from"), "init_model")
    elif not run.base.is_dir() and not list_checkpoints(run.path):
        add("until its first checkpoint, the model", table("run", "init_from"), "init_model")
    if table("finetune", "replay_fraction"):
        store = read_json_object(run.initial_loss_file).get("store")
        add("for replay, the token store", store, "replay")
    return found
