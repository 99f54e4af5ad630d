"""Parse the inputs of ``pretrain`` (a corpus, a store, a RUN.toml, a run) into a request for a run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import flatten, merge, parse_overrides, preset, read_toml, without_keys
from firstlight.corpus import check_not_artifact, corpus_names
from firstlight.errors import UsageError, nearest
from firstlight.files.run_layout import SETTINGS
from firstlight.files.run_names import list_checkpoints, parse_run_path
from firstlight.optim import lr_factor
from firstlight.runs import Layers, Recipe, Request, RunDirectory, is_token_store, resolve_request
from firstlight.shell import command_line, quote_argument
from firstlight.stages.continued_lr import add_continued_warmup
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.validation_text import no_corpus_before, valid_layer
from firstlight.stages.vocab_settings import unused_for_corpus
from firstlight.train import Limits, check_installed
from firstlight.vectors import check_vectors

PRESETS = "firstlight.stages.presets.pretrain"


def pretrain_request(
    recipe: Recipe[PretrainSettings, Any, Any],
    inputs: Sequence[str],
    *,
    out: Path | None,
    valid: Sequence[str] = (),
    preset_name: str | None,
    init_from: str | None,
    resume: bool,
    restart: bool = False,
    overrides: Sequence[str],
) -> Request[PretrainSettings]:
    """Distinguish a corpus, a token store, a RUN.toml and a run directory, and merge the layers of settings.

    Raises:
        UsageError: nothing to train on, or inputs that cannot be combined.
        CompatibilityError: the directory holds a run and ``resume`` is not set, or a resume changes a fixed setting.
    """
    inputs = list(inputs)
    if len(inputs) == 1 and (named := run_to_resume(inputs[0], out, resume=resume or restart)) is not None:
        out, inputs = named, []
    settings_file = _settings_file(inputs)
    arguments: dict[str, Any] = {}
    if settings_file is None and len(inputs) == 1 and is_token_store(Path(inputs[0])):
        store, names_tokenizer = Path(inputs[0]), "tokenizer.path" in flatten(parse_overrides(overrides))
        if RunDirectory(store.parent).exists and not names_tokenizer and not any(store.glob("tokenizer*")):
            check_not_artifact(store)  # that of a run, whose tokenizer is not in it
        arguments["store"] = inputs[0]
    elif settings_file is None and inputs:
        arguments["corpus"] = inputs
    if init_from:
        arguments["init_from"] = resolve_model_name(init_from)
    if valid and not inputs and not (out is not None and RunDirectory(out).exists):
        raise no_corpus_before(valid)
    run = RunDirectory(out or Path("runs") / (_name_of(Path(inputs[0])) if inputs else "run"))
    _check_corpus_is_no_run(inputs, run, is_run=(resume or restart) and out is None)
    given = merge({"run": arguments}, valid_layer(valid, parse_overrides(overrides)))
    file = read_toml(settings_file) if settings_file is not None else {}
    if settings_file is not None and parse_run_path(settings_file).run is not None:
        file = recipe.of_this_version(file)
    below = preset(PRESETS, preset_name) if preset_name else {}
    if any(key in flatten(merge(file, given)) for key in ("run.store", "run.init_from", "tokenizer.path")):
        below.pop("tokenizer", None)  # which is of one to train
    if settings_file is not None and parse_run_path(settings_file).run is not None and _changes_vocab(given):
        file = without_keys(file, {"model.vocab_size"})  # which is that of the run's own tokenizer
    layers = Layers(preset=below, file=file, path=settings_file, arguments=given)
    layers, recipe.default_rates = add_continued_warmup(layers, run)
    return resolve_request(
        recipe,
        run,
        layers,
        resume=resume,
        restart=restart,
        check=check_settings,
        unused=_unused_for_corpus,
    )


def _changes_vocab(given: Mapping[str, Any]) -> bool:
    """Whether settings may give a run another vocabulary than its run.toml has."""
    inputs = given.get("run", {}).keys() - {"seed"}
    return bool(inputs or {"tokenizer", "corpus", "ids", "image"} & given.keys())


def _unused_for_corpus(settings: PretrainSettings) -> dict[str, str]:
    """Return the settings that have no effect on the kind of corpus of a new run."""
    if settings.run.store is not None or not settings.run.corpus:
        return {}
    return unused_for_corpus(settings.run.corpus, settings.corpus, settings.ids)


def resolve_model_name(name: str | Path) -> str:
    """Return the path of the checkpoint or run that a name stands for, as it is kept in settings; others as they are.

    Raises:
        UsageError: ``RUN@STEP`` names a step that was not saved.
    """
    found = parse_run_path(name)
    return str(found.checkpoint or found.run or name)


def check_settings(settings: PretrainSettings) -> None:
    """Check that there is something to train on and something that ends the run, before any text is read.

    Raises:
        UsageError: no input, or two.
        ConfigError: nothing ends the run, or its schedule needs an end that it lacks.
    """
    limits = Limits.resolve(settings.train, step_tokens=1, epoch_tokens=1, parameters=1)
    if limits.minutes is None:
        lr_factor(0, limits.steps, settings.optim.schedule)
    check_installed(settings.train.trackers)
    _check_word_files(settings)
    run = settings.run
    if not run.corpus and run.store is None:
        raise UsageError(
            "nothing to train on",
            expected="a CORPUS (files, folders, a named corpus), a token store or a RUN.toml",
            fix=f"Name one, or try it without data of your own: {command_line('quickstart')}",
        )
    if run.corpus and run.store is not None:
        raise UsageError(
            "a corpus and a token store",
            where="run.store",
            found=run.store,
            expected="one of them",
            fix="Leave out the corpus, or run.store.",
        )


def _check_word_files(settings: PretrainSettings) -> None:
    """Check that the files of word vectors and of words are there, before any text is read.

    Raises:
        UsageError: one is not.
        TokenizerError: one holds something else than word vectors.
    """
    files = {"model.embeddings": settings.model.embeddings, "tokenizer.vocab_source": settings.tokenizer.vocab_source}
    for key, name in files.items():
        if name in (None, "random", "vectors", "corpus"):
            continue
        if Path(name).expanduser().is_file():
            check_vectors(Path(name).expanduser())
            continue
        folder = Path(name).expanduser().parent
        near = nearest(Path(name).name, [p.name for p in folder.iterdir()] if folder.is_dir() else [])
        fix = "Check the path." if near is None else f"Did you mean {folder / near}?"
        raise UsageError("no such file", where=key, found=name, fix=fix)


def _settings_file(inputs: list[str]) -> Path | None:
    """Return the RUN.toml among the inputs, which must be the only input."""
    files = [name for name in inputs if name.endswith(".toml")]
    if files and len(inputs) > 1:
        raise UsageError(
            "a RUN.toml must be the only input",
            where=files[0],
            found=" ".join(inputs),
            fix="Name the corpus in its [run] table, or as run.corpus=[...].",
        )
    return Path(files[0]) if files else None


def run_to_resume(name: str, out: Path | None, *, resume: bool, command: str = "pretrain") -> Path | None:
    """Return the run that an input names in place of a corpus or a model; None if it names none, or is a file.

    A file of a run names it only where a run is expected: with ``resume`` and no other ``out``. Otherwise ``run.toml``
    holds the settings of a new run, and any other file is text.

    Raises:
        UsageError: it is not to be resumed, ``out`` is another one, or an earlier checkpoint is named.
    """
    found, path = parse_run_path(name), Path(name)
    if found.checkpoint is not None and found.run is not None and not resume:
        step = int(found.checkpoint.name.removeprefix("step-"))
        raise UsageError(
            f"is a checkpoint of the run {found.run}",
            where=name,
            fix=f"To continue the run: {command_line(command, found.run, '--resume')}. "
            f"{_new_run_advice(command, f'{found.run}@{step}')}",
        )
    run = RunDirectory(found.run or path)
    if not (run.exists or run.is_unstarted or run.lacks_settings):
        return None
    if path.is_file() and found.checkpoint is None and not (resume and out is None):
        if path.name != SETTINGS:
            progress.notice(f"{path}: read as text, although it is a file of the run {run.path}")
        return None
    if found.checkpoint is not None and resume and found.checkpoint != next(iter(list_checkpoints(run.path)), None):
        step = int(found.checkpoint.name.removeprefix("step-"))
        raise UsageError(
            "is not the newest checkpoint of its run, which a run is resumed from",
            where=name,
            fix=_new_run_advice(command, f"{run.path}@{step}"),
        )
    return _check_resumed(run.path, out, resume=resume, command=command)


def _new_run_advice(command: str, model: str) -> str:
    """Return how a new run is started from the weights of a model."""
    named = quote_argument(Path(model))
    how = f"--from {named}" if command == "pretrain" else f"{command} {named} TASK.toml --out NEW"
    return f"For a new run that starts from its weights: {how}"


def _check_resumed(path: Path, out: Path | None, *, resume: bool, command: str) -> Path:
    """Check that a run directory given in place of a corpus is to be resumed, and return it."""
    if RunDirectory(path).lacks_settings:
        return path  # reported with the request
    if not resume:
        raise UsageError(
            "is a run directory", where=path, fix="Add --resume to continue it, or give its run.toml for a new run."
        )
    if out is not None and out.resolve() != path.resolve():
        raise UsageError(
            "two run directories",
            where=path,
            found=f"--out {out}",
            fix=f"Leave out --out. {_new_run_advice(command, str(path))}",
        )
    if RunDirectory(path).is_unstarted:
        raise UsageError(
            "ended while its data was prepared, before its settings were written",
            where=path,
            fix="Give the whole command that started it again, with its corpus and --resume.",
        )
    return path


def _check_corpus_is_no_run(inputs: Sequence[str], run: RunDirectory, *, is_run: bool) -> None:
    """Refuse a corpus that is the run directory itself, such as a misspelled run to resume.

    Where a run is to be resumed and no other name of it is given (``is_run``), what is not there is that run.
    """
    for name in inputs:
        path = Path(name)
        is_missing = len(inputs) == 1 and not (name in corpus_names() or name == "-" or re.search(r"[*?\[:]", name))
        is_named = path.absolute() == run.path.absolute() or (is_run and is_missing)
        if is_named and not path.exists() and not run.path.exists():
            siblings = [p.name for p in path.parent.glob("*/") if RunDirectory(p).exists]
            near = nearest(path.name, siblings)
            folder = next(folder for folder in path.absolute().parents if folder.is_dir())
            raise UsageError(
                "no such run, and not a corpus",
                where=name,
                fix=f"Did you mean {path.parent / near}?" if near else f"List the runs: {command_line('runs', folder)}",
            )


def _name_of(path: Path) -> str:
    """Derive a run's name from its first input: ``books`` for ``books/*.txt`` or ``books.txt.gz``."""
    if path.name == "run.toml" and path.parent.name:
        return f"{path.parent.name}-again"
    stems = (re.sub(r"[^\w-]+", "", name.split(".")[0]) for name in (path.name, path.parent.name))
    return next((stem for stem in stems if stem.strip("-")), "run")
