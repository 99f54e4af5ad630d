"""The interface of a recipe: what pre-training, fine-tuning and alignment each do differently around one loop."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import TypeAdapter

from firstlight.config import Settings
from firstlight.errors import Interrupted
from firstlight.parallel import DeviceContext
from firstlight.runs.directory import RunDirectory
from firstlight.runs.sources import is_same_source
from firstlight.signals import NAMES
from firstlight.train import FitResult, TrainContext


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The result of a run; recipes add further fields.

    Attributes:
        run: the run directory.
        stopped_by: the limit or signal that ended training.
        finished: False if a signal ended it, so that ``--resume`` continues.
        step: optimizer steps taken.
        seconds: wall time over all processes of the run, resumes included.
        report: the HTML report, or None on ranks other than 0.
        best: step and criterion (``loss``, or a metric) of the best checkpoint, which is the one that commands use;
            None without a validation.
        last: step, criterion and loss of the last validation, or None.
    """

    run: Path
    stopped_by: str
    finished: bool
    step: int
    seconds: float
    report: Path | None
    best: dict[str, int | float] | None = None
    last: dict[str, int | float] | None = None

    @property
    def interrupted_by(self) -> str | None:
        """The name of the signal that ended the run before its limit, or None."""
        return None if self.finished or self.stopped_by not in NAMES else self.stopped_by

    @property
    def how_it_ended(self) -> str:
        """As in ``state.json``: finished, stopped (at ``train.stop_after``), or interrupted (by a signal)."""
        if self.finished:
            return "finished"
        return "stopped" if self.interrupted_by is None else "interrupted"

    def raise_if_interrupted(self) -> None:
        """Raise ``Interrupted`` if a signal ended the run, for commands of several runs."""
        if self.interrupted_by is not None:
            raise Interrupted(self.interrupted_by)

    def to_json(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, table: Mapping[str, Any], run: RunDirectory) -> Self:
        """Read the result that ``to_json`` wrote; the run may have been moved since.

        Raises:
            ValueError: the object is not such a result.
        """
        return TypeAdapter(cls).validate_python({**table, "run": run.path, "report": run.report})


S = TypeVar("S", bound=Settings)
A = TypeVar("A")
R = TypeVar("R", bound=RunResult)


class Recipe(ABC, Generic[S, A, R]):
    """One kind of training run.

    Type parameters: the settings class, the artifacts that ``prepare`` makes, and the result.

    Attributes:
        kind: the kind of run, by which an existing run directory is recognised.
        settings_class: root of the settings in ``run.toml``; has the tables ``optim``, ``train`` and ``hardware``.
        result_class: the result's class.
        source_keys: settings that name the run's inputs. On a resume they may be spelled differently (another relative
            path) but must name the same files.
        verified_keys: those whose contents a resume compares by hashes, so that files that were moved may be named
            anew.
        addable_keys: those of ``verified_keys`` that a resume may set where the run has none.
        packages: packages above ``runs`` whose code decides what the weights become; hashed into every checkpoint.
        hashed_artifacts: artifacts that a checkpoint records the hash of, with the words for messages:
            ``{"tokenizer": "another tokenizer"}``.
        default_rates: learning rates that ``resolve`` decides on, by their names in ``optim``: those that are not set
            in a new run that starts from a model.
    """

    kind: str
    settings_class: type[S]
    result_class: type[R]
    source_keys: tuple[str, ...]
    verified_keys: tuple[str, ...] = ()
    addable_keys: tuple[str, ...] = ()
    default_rates: Collection[str] = ()
    packages: tuple[str, ...]
    hashed_artifacts: Mapping[str, str]

    def of_this_version(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a ``run.toml``, completed where a setting was added whose default is not as before."""
        return settings

    def is_same_source(self, key: str, before: Any, now: Any, settings: Mapping[str, Any]) -> bool:
        """Return whether two values of one of ``source_keys`` name the same inputs.

        Args:
            key: of the setting.
            before: as the run has it.
            now: as a resume names it.
            settings: of the run, as in ``run.toml``.
        """
        del key, settings
        return is_same_source(before, now)

    @abstractmethod
    def prepare(self, run: RunDirectory, settings: S, *, prepared: bool, restores: bool) -> A:
        """Make or read what the run is built from: data, tokenizer, a model to start from.

        Args:
            run: the run directory; locked by this process or by rank 0.
            settings: as requested.
            prepared: use what the run directory holds already, without looking at the original inputs.
            restores: the run goes on from a checkpoint, so the weights that it started from are not needed.
        """

    @abstractmethod
    def resolve(self, settings: S, artifacts: A, device_context: DeviceContext) -> S:
        """Resolve the settings that depend on the artifacts."""

    def unwritten_settings(self, settings: S, artifacts: A) -> Collection[str]:  # noqa: ARG002
        """Return the dotted keys of settings and tables that have no effect on the artifacts: not in ``run.toml``."""
        return ()

    @abstractmethod
    def build(
        self, run: RunDirectory, settings: S, artifacts: A, device_context: DeviceContext, process_start: float
    ) -> TrainContext:
        """Build model, optimizer, batches and evaluation at the start of the run."""

    @abstractmethod
    def finish(self, run: RunDirectory, settings: S, ctx: TrainContext, artifacts: A, fit: FitResult) -> R:
        """Evaluate what the loop has trained, write ``evaluation.json``, and return the result.

        Every rank calls it; rank 0 writes.
        """
