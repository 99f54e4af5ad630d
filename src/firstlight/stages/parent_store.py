"""The token store that a fine-tuned model was pre-trained on: for replay, and to measure what the model forgets.

It stays where it is, since it may be large: the run keeps its path and fingerprint, and depends on it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.errors import StoreError, UsageError
from firstlight.files import MANIFEST
from firstlight.files.run_names import parse_run_path
from firstlight.model import GPT
from firstlight.parallel import DeviceContext
from firstlight.runs import RunDirectory, read_json_object, write_json
from firstlight.stages.evaluate import store_folder
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.store import TokenStore, Windows, open_store
from firstlight.train import validate

_FORGETTING_WINDOWS = 200


def parent_store(run: RunDirectory, settings: FinetuneSettings) -> TokenStore | None:
    """Open the store again when a run is resumed: in its place, or in the run that ``run.init_from`` names now.

    Returns:
        None where the model came without one, or it is not there any more, or is another one; then a notice says so.

    Raises:
        UsageError: the run replays its text.
    """
    kept = read_json_object(run.initial_loss_file)
    path, fingerprint = kept.get("store"), kept.get("fingerprint")
    if "store" in kept and not isinstance(path, str):
        return None
    parent = parse_run_path(settings.run.init_from or "").run
    candidates = [store_folder(parent)] if parent is not None else []
    if isinstance(path, str):
        candidates = [(Path(path), True), *candidates]
    for folder, verify in candidates:
        if not (folder / MANIFEST).is_file():
            continue
        try:
            store = open_store(folder, verify=verify)
        except StoreError as error:
            progress.warn(f"the text that the model was pre-trained on cannot be read and is not used: {error}")
            continue
        if fingerprint in (None, store.fingerprint):
            return store
        progress.warn(f"{folder}: is another token store than when the run began, and is not used")
    if settings.finetune.replay_fraction:
        raise UsageError(
            "the text that the model was pre-trained on, which the run replays, is not there",
            where=f"{run.settings_file}: finetune.replay_fraction",
            found=path or settings.run.init_from,
            fix="Put it back, or add the new place of the run that it is in to the command, as run.init_from=RUN.",
        )
    if isinstance(path, str):
        progress.warn(f"{path}: the text that the model was pre-trained on is not there, so forgetting is not measured")
    return None


def check_replay(settings: FinetuneSettings, store: TokenStore | None) -> None:
    """Refuse a new run that replays a text where there is none.

    Raises:
        UsageError: there is none.
    """
    if settings.finetune.replay_fraction and store is None:
        raise UsageError(
            "there is no pre-training text to replay",
            where="finetune.replay_fraction",
            fix="Start from a run that has its data/, or leave it out.",
        )


def save_initial_loss(
    run: RunDirectory,
    model: GPT | None,
    store: TokenStore | None,
    device_context: DeviceContext,
    new_heads: Sequence[str] = (),
) -> None:
    """Write ``before.json``: the loss of the starting model on the text, with the path and fingerprint of its store.

    The model may be None where there is no store.

    It also names the tasks whose head is new, which a resume from step 0 cannot tell from the weights.
    """
    table: dict[str, Any] = {"loss": pretraining_loss(model, store, device_context) if model else None, "store": None}
    table["new_heads"] = list(new_heads)
    if store is not None:
        table |= {"store": str(store.directory.absolute()), "fingerprint": store.fingerprint}
    write_json(run.initial_loss_file, table)


def measure_forgetting(
    run: RunDirectory, model: GPT, store: TokenStore | None, device_context: DeviceContext
) -> dict[str, float] | None:
    """Return the loss on the pre-training text before and after; None where one of them was not measured."""
    before = read_json_object(run.initial_loss_file).get("loss")
    if not isinstance(before, int | float):
        return None
    after = pretraining_loss(model, store, device_context)
    return None if after is None else {"before": before, "after": after}


def pretraining_loss(model: GPT, store: TokenStore | None, device_context: DeviceContext) -> float | None:
    """Compute the loss on the validation split of the pre-training text; None if that is not there.

    Each process that calls this computes all of it, so that the first one can call it alone.
    """
    if store is None:
        return None
    alone = replace(device_context, rank=0, world_size=1)
    windows = Windows(store.valid, block_size=model.config.block_size, max_windows=_FORGETTING_WINDOWS)
    return validate(model, windows, None, alone, 8).loss if windows.n_windows else None
