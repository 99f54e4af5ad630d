"""``finetune --seeds``: the same fine-tuning with several seeds, and what varies between them."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.errors import UsageError
from firstlight.runs import RunDirectory, read_json_object, write_json
from firstlight.stages.finetune import finetune
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

    The seeds decide heads, order and dropout; all runs train and are validated on the same rows. The results are also
    written to ``out``/seeds.json, which is replaced only where the runs are resumed or restarted.

    Raises:
        UsageError: seeds.json exists.
        FirstlightError: as ``finetune``.
        Interrupted: a signal ended one of the runs.
    """
    folder = Path(out)
    summary_file, results = folder / "seeds.json", []
    goes_on = (options.get("resume") or options.get("restart")) and RunDirectory(folder / "seed-1").exists
    if summary_file.exists() and not (goes_on and "seeds" in read_json_object(summary_file)):
        fix = "Choose another --out" + (", or add --resume to continue its runs." if not goes_on else ".")
        raise UsageError("already exists", where=summary_file, fix=fix)
    for i in range(1, n + 1):
        out_i, settings = folder / f"seed-{i}", [*as_list(overrides), f"run.seed={i}"]
        results.append(finetune(init_from, tasks, out=out_i, overrides=settings, **options))
        results[-1].raise_if_interrupted()
    warnings = {f"seed-{i}": r.warnings for i, r in enumerate(results, 1) if any(r.warnings.values())}
    summary: dict[str, Any] = {"seeds": n, "valid": {}, "test": {}, "warnings": warnings}
    for split in ("valid", "test"):
        for task in getattr(results[0], split):
            metrics = [getattr(r, split)[task] for r in results]
            values = [m["value"] for m in metrics]
            summary[split][task] = {
                "metric": metrics[0]["metric"],
                "mean": statistics.mean(values),
                "values": values,
                "deviation": statistics.stdev(values) if n > 1 else 0.0,
            }
    write_json(summary_file, summary)
    return summary
