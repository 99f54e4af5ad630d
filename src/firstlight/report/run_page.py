"""The HTML report of a run: data, model, metrics, curves, samples, settings, and how to reproduce it.

The page is rendered from the files of the run directory and stays a few hundred kilobytes however long they are. A
missing or damaged file leaves out its part of the page and is listed, since reports matter most for failed runs.
"""

import time
from importlib import metadata
from pathlib import Path

from firstlight.files import write_atomic
from firstlight.report import corpus_facts, curves, events, facts, non_text, recipes, samples, summary, tasks, weights
from firstlight.report.run_files import RunFiles, find, read_run
from firstlight.report.template_env import environment
from firstlight.report.text import printable
from firstlight.runs import RunDirectory

_MAX_SETTINGS = 100_000


def write_run_report(run: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    Missing and damaged files are listed on the page, never raised.

    Raises:
        StorageError: the page cannot be written.
    """
    path = RunDirectory(run).report
    write_atomic(path, run_page(read_run(run)))
    return path


def run_page(files: RunFiles) -> str:
    """Render the report of a run as HTML."""
    scores = summary.scores(files)
    headings, evaluations = curves.evaluations(files)
    settings, image_grids = files.settings_text, non_text.image_grids(files)
    page = (
        environment()
        .get_template("page.html")
        .render(
            title=summary.title(files),
            status=summary.status(files),
            opening=summary.opening(files),
            best=summary.best_score(files),
            scores=scores,
            measured_on=summary.measured_on(files),
            remarks=summary.remarks(files, scores),
            problems=files.problems,
            missing=facts.missing(files),
            key_metrics=summary.key_metrics(files),
            tasks=tasks.views(files),
            task_scores=tasks.side_by_side(files),
            forgetting=tasks.forgetting(files),
            charts=curves.charts(files),
            evaluation_headings=headings,
            evaluations=evaluations,
            uniform_guess=curves.uniform_guess(files),
            events=events.events(files),
            events_summary=events.events_summary(files),
            samples=samples.samples(files),
            n_samples=files.n_samples,
            image_grids=image_grids,
            unit=non_text.UNITS[non_text.unit(files)],
            data_rows=corpus_facts.data_rows(files),
            data_facts=corpus_facts.data_facts(files),
            losses=corpus_facts.losses(files),
            frequent_tokens=corpus_facts.frequent_tokens(files),
            manifest_name=files.manifest_name,
            model_facts=facts.model_facts(files),
            parts=weights.group({**files.weights, **files.head_weights}),
            tied=find(files.config, "tie_word_embeddings") is True,
            checkpoint=files.checkpoint,
            checkpoints=files.checkpoints,
            training_facts=[*facts.training_facts(files), *facts.outside_facts(files)],
            settings=settings[:_MAX_SETTINGS],
            settings_left_out=max(0, len(settings) - _MAX_SETTINGS),
            environment_facts=facts.environment_facts(files),
            compatibility=facts.compatibility(files),
            recipes=recipes.recipes(files),
            tensorboard=recipes.tensorboard(files),
            version=_version(),
            written=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )
    )
    return printable(page)


def _version() -> str:
    try:
        return metadata.version("firstlight")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return ""
