"""Experiment trackers: services and file formats that receive a run's metrics as it trains.

To add one: a class with the interface of Tracker, and a line in ``TRACKERS``; or a class in another package, named in
the settings as ``train.trackers=["package.module:Class"]``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from firstlight.config import load_object
from firstlight.errors import MissingExtra
from firstlight.shell import is_installed


class Tracker(Protocol):
    """The interface of a tracker. It runs in a separate thread, so it may be slow."""

    def __init__(self, run: Path) -> None:
        """Open the tracker for a run.

        Args:
            run: the run directory.
        """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Writes TensorBoard event files to ``tensorboard/`` in the run directory."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional
        except ImportError as error:
            raise MissingExtra("TensorBoard", "tensorboard") from error
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one scalar per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


# The trackers by the name that ``train.trackers`` has. Others are named ``package.module:Class``.
TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard}

# Trackers of ``train.trackers="auto"``, if installed.
AUTO_TRACKERS = ("tensorboard",)


def check_installed(names: Sequence[str] | str) -> None:
    """Check that the libraries of the trackers that a user names are installed.

    Raises:
        MissingExtra: one is not; ``auto`` needs none.
    """
    if "tensorboard" in names and not isinstance(names, str) and not is_installed("tensorboard"):
        raise MissingExtra("TensorBoard", "tensorboard")


def load_trackers(names: Sequence[str]) -> dict[str, type[Tracker]]:
    """Load the classes of trackers by name, without opening any.

    Raises:
        UnknownName: there is no tracker of that name.
        ConfigError: a class of another package cannot be loaded, or lacks a method of Tracker.
    """
    return {
        name: load_object(name, TRACKERS, kind="tracker", interface=Tracker, where="train.trackers") for name in names
    }
