"""The application: registers the commands, runs one, and reports errors."""

import contextlib
import io
import itertools
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from firstlight.cli import (
    convert,
    data,
    doctor,
    evaluate,
    finetune,
    generate,
    presets,
    pretrain,
    runs,
    settings,
    tokenizer,
)
from firstlight.cli.arguments import VALID, expand_option, refuse_wide_dashes, refuse_wide_space, setting_for_option
from firstlight.cli.common_options import take_common_options
from firstlight.cli.log_file import open_log
from firstlight.cli.progress_bar import ProgressBar
from firstlight.cli.streams import is_reader_gone
from firstlight.config import external_origin, narrow, trust_files
from firstlight.errors import Failure, FirstlightError, Interrupted, UnknownName, UsageError, nearest
from firstlight.files import storage_errors
from firstlight.parallel import adapt_spinning
from firstlight.progress import listen
from firstlight.shell import command_line

_INTERRUPTED = 130
_SECONDS_OF_FIRST_RANK = 5.0  # in which it reports an invalid request, and the launcher ends the others


def _print_version(requested: bool) -> None:
    if requested:
        from firstlight import __version__

        print(f"firstlight {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors; works in any position.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Print more: settings that were chosen automatically, and how long each part took; works in any "
            "position.",
        ),
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file",
            metavar="FILE",
            help="Append everything to a file too, as lines with a time stamp, also the progress that a terminal shows "
            "in one line; works in any position.",
            show_default=False,
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works in any position.")] = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Import code that a settings file, a task or a checkpoint names (package.module:Name), not only code "
            "that the command line names; works in any position.",
        ),
    ] = False,
) -> None:
    """Pre-train, fine-tune and use GPT models.

    Training writes a run directory: Hugging Face checkpoints, metrics in plain files, an HTML report.

    Example: firstlight quickstart
    """


_EPILOG = "In any position: --quiet, --verbose, --log-file FILE, --debug, --trust; the list of commands explains them."


def build() -> typer.Typer:
    """Build the application with all commands."""
    app = typer.Typer(
        name="firstlight",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for module in (pretrain, finetune, generate, evaluate, data, tokenizer, convert, settings, presets, runs, doctor):
        module.register(app)
    app.command("help")(_help)
    _add_epilog(app)
    return app


def _add_epilog(app: typer.Typer) -> None:
    for command in app.registered_commands:
        command.epilog = _EPILOG
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _add_epilog(group.typer_instance)


def _help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]", help="A command, such as data prepare.", show_default=False),
    ] = None,
) -> None:
    """Show the help of a command.

    The same as COMMAND --help; without a command, the list of all.

    Example: firstlight help pretrain
    """
    assert context.parent is not None, "the application"
    here: Any = context.parent
    for i, word in enumerate(words or ()):
        known = getattr(here.command, "commands", {})
        if word not in known:
            where = " ".join(("help", *(words or ())[:i]))
            raise UnknownName("command", word, known, where=where)
        here = here.command.context_class(known[word], info_name=word, parent=here)
    print(here.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are reported on stderr."""
    words, options = take_common_options(arguments)
    debug = options.debug or os.environ.get("FIRSTLIGHT_DEBUG", "") not in ("", "0")
    try:
        log = open_log(options)
    except FirstlightError as error:
        return _report_error(ProgressBar(), error, debug)
    with (
        contextlib.closing(log) if log is not None else contextlib.nullcontext(),
        _silence_other_ranks(),
        ProgressBar(quiet=options.quiet, verbose=options.verbose, log=log) as display,
        listen(display),
        display.watch_output(),
        _print_warnings_as_lines(display, debug),
        adapt_spinning(),
        trust_files(options.trust),
    ):
        display.log(command_line(*arguments))
        code = _run(words, display, debug)
        display.log(f"exit code {code}")
    return code


def _run(words: list[str], display: ProgressBar, debug: bool) -> int:
    try:
        code = _call(words, display)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Interrupted as error:
        code = _report_interrupted(display, error, debug)
    except FirstlightError as error:
        code = _report_error(display, error, debug)
    except BrokenPipeError as error:
        code = 0 if is_reader_gone() else _report_os_error(display, error, debug)
    except OSError as error:
        code = _report_os_error(display, error, debug)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is reported in one line
        failure = _out_of_memory(error)
        code = _report_bug(display, error, debug) if failure is None else _report_error(display, failure, debug)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a Rust library, which is not an Exception
            raise
        code = _report_bug(display, error, debug)
    if code == _INTERRUPTED:
        display.interrupted("SIGINT")
    return code


def _call(arguments: list[str], display: ProgressBar) -> int:
    command = typer.main.get_command(build())
    if arguments[:1] == ["pretrain"] or arguments[:2] == ["data", "prepare"]:
        arguments = expand_option(arguments, VALID)
    known = _names(command, arguments)
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        refuse_wide_dashes(argument, known)
        refuse_wide_space(argument, known)
    try:
        result = command.main(args=arguments, prog_name="firstlight", standalone_mode=False)
    except typer.Abort:
        return _INTERRUPTED
    except typer.Exit as error:
        return int(error.exit_code)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # which typer turns into it, of whatever pipe
            raise error.__context__ from None
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        # Usage errors are typer's or click's, depending on typer's version; both have this method.
        if not hasattr(error, "format_message"):
            raise
        _report_usage_error(error, display, arguments)
        return int(getattr(error, "exit_code", 2))
    return result if isinstance(result, int) else 0


def _names(command: Any, arguments: Sequence[str]) -> set[str]:
    """Return the options of the command that the arguments start with, and the commands on the way to it."""
    names = {"-h", "--help"}
    for word in [*arguments, ""]:
        commands = getattr(command, "commands", {})
        options = {name for parameter in command.params for name in parameter.opts if name.startswith("-")}
        names |= options | set(commands)
        if word not in commands:
            break
        command = commands[word]
    return names


def _report_usage_error(error: Any, display: ProgressBar, arguments: Sequence[str]) -> None:
    message = str(error.format_message()).strip()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    words = [] if context is None else context.command_path.split()[1:]
    message = _suggest(message, context, arguments)
    message = " ".join(f"{message[:1].lower()}{message[1:]}".split())
    _let_first_rank_report()
    display.error(f"{message}{'' if message.endswith(('.', '?')) else '.'} Help: {command_line(*words, '--help')}")


def _suggest(message: str, context: Any, arguments: Sequence[str]) -> str:
    """Return the message about an unknown command or option with our suggestion in place of click's.

    It may be a setting, which is not an option here: ``--lr 3e-4`` for ``optim.lr=3e-4``.
    """
    invalid = re.match(r"Invalid value for '(-[^']+)'", message)
    if invalid is not None:
        value = next((b for a, b in itertools.pairwise(arguments) if a == invalid[1]), "")
        return message if narrow(value) == value else f"{message.rstrip('.')} (found {value!r}). Write {narrow(value)}."
    found = re.match(r"No such (command '|option: )([^\s']+)'?", message)
    if found is None or context is None:
        return message
    if found[1].startswith("command"):
        known = context.command.list_commands(context)
    else:
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    # Dashes, which all options have, are no likeness.
    bare = {name.removeprefix("--"): name for name in known}
    near = bare.get(nearest(found[2].removeprefix("--"), bare) or "")
    if near is None and found[2].startswith("--"):
        near = setting_for_option(found[2], context.info_name, arguments)
    return found[0].rstrip(".") + ("" if near is None else f". Did you mean {near!r}?")


def _report_interrupted(display: ProgressBar, interrupted: Interrupted, debug: bool) -> int:
    """Report the signal that ended the command, or the error that was being handled when the signal arrived.

    A launcher sends signals to the processes of a run when one of them has failed.
    """
    error: BaseException | None = interrupted
    while error is not None:
        if isinstance(error, FirstlightError):
            return _report_error(display, error, debug)
        error = error.__context__
    _trace(interrupted, debug)
    display.interrupted(interrupted.signal_name)
    return interrupted.exit_code


def _report_error(display: ProgressBar, error: FirstlightError, debug: bool) -> int:
    if isinstance(error, UsageError):
        _let_first_rank_report()
    _trace(error, debug)
    display.error(error.message)
    return error.exit_code


def _let_first_rank_report() -> None:
    """Wait in all ranks but the first, which has the same invalid arguments, so that the error is printed once.

    The launcher ends the other processes when one has failed. If none has, this one is not like the first, and reports.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_SECONDS_OF_FIRST_RANK)


def _report_os_error(display: ProgressBar, error: OSError, debug: bool) -> int:
    """Report an error of the operating system, as a storage error if it is one."""
    _trace(error, debug)
    try:
        with storage_errors(Path(str(error.filename or _where(error)))):
            raise error
    except FirstlightError as known:
        display.error(known.message)
    except OSError:
        display.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 1


def _where(error: OSError) -> str:
    """Return what an error that names no file is about."""
    try:
        sys.stdout.flush()  # fails again
    except OSError as again:
        if again.errno == error.errno:
            return "standard output"
    return "disk"


def _out_of_memory(error: Exception) -> Failure | None:
    """Return the error to report if memory was exhausted; torch has several messages for that."""
    text = str(error)
    if not isinstance(error, MemoryError) and not ("out of memory" in text or "not enough memory" in text):
        return None
    failure = Failure(
        "out of memory",
        found=" ".join(text.split())[:120] or None,
        fix="Use a smaller model, train.micro_batch=1, or a machine with more memory.",
    )
    failure.__cause__ = error
    return failure


def _report_bug(display: ProgressBar, error: BaseException, debug: bool) -> int:
    _trace(error, debug)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    origin = external_origin(error)
    if origin is not None:  # an extension of the user's, whose bug is not to be reported here
        display.error(f"{origin}: {what}{'' if debug else '; run again with --debug for the traceback'}")
        return 1
    hint = "" if debug else "; run again with --debug and report it with the traceback"
    display.error(f"internal error: {what}{hint}")
    return 1


def _trace(error: BaseException, debug: bool) -> None:
    if debug:
        traceback.print_exception(error, file=sys.stderr)


@contextlib.contextmanager
def _silence_other_ranks() -> Iterator[None]:
    """Discard standard output in all ranks but the first."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _print_warnings_as_lines(display: ProgressBar, debug: bool) -> Iterator[None]:
    """Print each Python warning as one line, without the source line that raised it."""
    if debug:
        yield
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: display.line(" ".join(f"note: {message}".split()))
        yield
