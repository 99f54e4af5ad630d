"""``finetune --seeds``: the same fine-tuning with several seeds, and what varies between them."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import flatten, parse_overrides
from firstlight.errors import TrainingError, UsageError
from firstlight.files.run_names import SEEDS
from firstlight.runs import RunDirectory, read_json_object, write_json
from firstlight.stages.finetune import FinetuneResult, finetune
from firstlight.types import Paths, as_list


def finetune_seeds(
    n: int,
    init_from: str | Path,
    tasks: Paths,
    *,
    out: str | Path,
    overrides: str | Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune with ``n`` seeds, each into ``out``/seed-N; return mean, standard deviation and values of every metric.

    The seeds decide heads, order and dropout; all runs train and are validated on the same rows. A run whose training
    fails is reported, and the others go on. The results are also written to ``out``/seeds.json, which is replaced only
    where the runs are resumed or restarted.

    Raises:
        UsageError: seeds.json exists, or ``run.seed`` is given.
        FirstlightError: as ``finetune``; a TrainingError where every run fails.
        Interrupted: a signal ended one of the runs.
    """
    folder = Path(out)
    summary_file, results, failed = folder / SEEDS, dict[str, FinetuneResult](), dict[str, str]()
    if "run.seed" in flatten(parse_overrides(as_list(overrides))):
        raise UsageError("is chosen by --seeds", where="run.seed", fix="Leave it out, or leave out --seeds.")
    goes_on = (options.get("resume") or options.get("restart")) and RunDirectory(folder / "seed-1").exists
    if summary_file.exists() and not (goes_on and "seeds" in read_json_object(summary_file)):
        fix = "Choose another --out" + (", or add --resume to continue its runs." if not goes_on else ".")
        raise UsageError("already exists", where=summary_file, fix=fix)
    for i in range(1, n + 1):
        name, settings = f"seed-{i}", [*as_list(overrides), f"run.seed={i}"]
        progress.notice(f"seed {i} of {n}")
        try:
            result = finetune(init_from, tasks, out=folder / name, overrides=settings, **options)
        except TrainingError as error:
            if len(failed) == n - 1:
                raise
            failed[name] = str(error)
            progress.warn(f"{name} failed, and is not part of the mean: {error}")
            continue
        result.raise_if_interrupted()
        results[name] = result
    warnings = {name: r.warnings for name, r in results.items() if any(r.warnings.values())}
    summary: dict[str, Any] = {"seeds": n, "valid": {}, "test": {}, "warnings": warnings, "failed": failed}
    runs = list(results.values())
    for split in ("valid", "test"):
        for task in getattr(runs[0], split):
            metrics = [getattr(r, split)[task] for r in runs]
            values = [m["value"] for m in metrics]
            summary[split][task] = {
                "metric": metrics[0]["metric"],
                "mean": statistics.mean(values),
                "values": values,
                "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
            }
    write_json(summary_file, summary)
    return summary
