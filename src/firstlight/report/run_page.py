"""A run as one HTML page: what was trained on what, how it ended, how good it is, and how to repeat it.

The page is drawn from the run's plain files alone, a few hundred kilobytes whatever their length. A
file that is missing or damaged takes its part of the page with it and is named, since a report
matters most where something went wrong.
"""

import time
from importlib import metadata
from pathlib import Path

from firstlight.files import write_atomic
from firstlight.report import _beyond, _curves, _facts, _repeat, _story, _tasks
from firstlight.report._templates import environment
from firstlight.report._words import printable
from firstlight.report.run_files import RunFiles, read_run

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
    scores = _story.scores(files)
    settings, pictures = files.settings_text, _beyond.pictures(files)
    page = (
        environment()
        .get_template("page.html")
        .render(
            title=_story.title(files),
            status=_story.status(files),
            opening=_story.opening(files),
            best=_story.best_score(files),
            scores=scores,
            remarks=_story.remarks(files, scores),
            problems=files.problems,
            missing=_facts.missing(files),
            key_figures=_story.key_figures(files),
            tasks=_tasks.views(files),
            forgetting=_tasks.forgetting(files),
            charts=_curves.charts(files),
            evaluations=_curves.evaluations(files),
            events=_curves.events(files),
            events_summary=_curves.events_summary(files),
            samples=_curves.samples(files),
            n_samples=len(files.samples),
            pictures=pictures,
            unit=_beyond.UNITS[_beyond.unit(files)],
            data_rows=_facts.data_rows(files),
            data_facts=_facts.data_facts(files),
            manifest_name=files.manifest_name,
            model_facts=_facts.model_facts(files),
            checkpoint=files.checkpoint,
            checkpoints=files.checkpoints,
            training_facts=_facts.training_facts(files),
            settings=settings[:_MOST_SETTINGS],
            settings_left_out=max(0, len(settings) - _MOST_SETTINGS),
            environment_facts=_facts.environment_facts(files),
            contract=_facts.contract(files),
            recipes=_repeat.recipes(files),
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
