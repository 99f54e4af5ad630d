"""A run as one HTML page: what was trained on what, how it ended, how good it is, and how to repeat it.

The page is drawn from the run's plain files alone, a few hundred kilobytes whatever their length. A
file that is missing or damaged takes its part of the page with it and is named, since a report
matters most where something went wrong.
"""

import time
from importlib import metadata
from pathlib import Path

from firstlight.files import write_atomic
from firstlight.report import curves, facts, non_text, recipes, summary, tasks
from firstlight.report.run_files import RunFiles, read_run
from firstlight.report.template_env import environment
from firstlight.report.text import printable

_MOST_SETTINGS = 100_000


def write_run_report(run: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    What the run's files lack or hold wrongly is said on the page, never raised.

    Raises:
        StorageError: the page itself cannot be written.
    """
    path = run / "report.html"
    write_atomic(path, run_page(read_run(run)))
    return path


def run_page(files: RunFiles) -> str:
    """Return the page of a run as HTML."""
    scores = summary.scores(files)
    settings, pictures = files.settings_text, non_text.pictures(files)
    page = (
        environment()
        .get_template("page.html")
        .render(
            title=summary.title(files),
            status=summary.status(files),
            opening=summary.opening(files),
            best=summary.best_score(files),
            scores=scores,
            remarks=summary.remarks(files, scores),
            problems=files.problems,
            missing=facts.missing(files),
            key_figures=summary.key_figures(files),
            tasks=tasks.views(files),
            forgetting=tasks.forgetting(files),
            charts=curves.charts(files),
            evaluations=curves.evaluations(files),
            events=curves.events(files),
            events_summary=curves.events_summary(files),
            samples=curves.samples(files),
            n_samples=len(files.samples),
            pictures=pictures,
            unit=non_text.UNITS[non_text.unit(files)],
            data_rows=facts.data_rows(files),
            data_facts=facts.data_facts(files),
            manifest_name=files.manifest_name,
            model_facts=facts.model_facts(files),
            checkpoint=files.checkpoint,
            checkpoints=files.checkpoints,
            training_facts=facts.training_facts(files),
            settings=settings[:_MOST_SETTINGS],
            settings_left_out=max(0, len(settings) - _MOST_SETTINGS),
            environment_facts=facts.environment_facts(files),
            contract=facts.contract(files),
            recipes=recipes.recipes(files),
            version=_version(),
            written=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )
    )
    return printable(page)


def _version() -> str:
    try:
        return metadata.version("firstlight")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return ""
