"""The application: its commands, and what becomes of an error."""

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from firstlight.cli import convert, data, doctor, evaluate, finetune, generate, pretrain, tokenizer
from firstlight.cli.progress_bar import Drawing
from firstlight.errors import Failure, FirstlightError
from firstlight.files import storage_errors
from firstlight.progress import listen

_INTERRUPTED = 130


def _version(asked: bool) -> None:
    if asked:
        from firstlight import __version__

        print(f"firstlight {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Pre-train, adapt, understand and use your own GPT.

    A TOML file and a corpus go in; a run directory comes out.

    Example: firstlight quickstart
    """


def build() -> typer.Typer:
    """Return the application with every command."""
    app = typer.Typer(
        name="firstlight",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for room in (pretrain, finetune, generate, evaluate, data, tokenizer, convert, doctor):
        room.register(app)
    return app


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error becomes a message on stderr."""
    words, debug = _take_debug(list(words))
    with _quiet_ranks(), Drawing() as drawing, listen(drawing), _warnings_as_lines(drawing, debug):
        try:
            code = _call(words)
        except KeyboardInterrupt:
            code = _INTERRUPTED
        except FirstlightError as error:
            code = _tell(drawing, error, debug)
        except BrokenPipeError:
            code = 1
        except OSError as error:
            code = _tell_system(drawing, error, debug)
        except Exception as error:  # noqa: BLE001 - the last net: a bug of ours becomes one line
            known = _out_of_memory(error)
            code = _tell_bug(drawing, error, debug) if known is None else _tell(drawing, known, debug)
        if code == _INTERRUPTED:
            drawing.line("interrupted")
    return code


def _call(words: list[str]) -> int:
    command = typer.main.get_command(build())
    try:
        result = command.main(args=words, prog_name="firstlight", standalone_mode=False)
    except typer.Abort:
        return _INTERRUPTED
    except typer.Exit as error:
        return int(error.exit_code)
    except SystemExit as error:  # typer's answer to a broken pipe
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        # Typer has had its own usage errors and click's, in turn; both can format themselves.
        if not hasattr(error, "format_message"):
            raise
        _tell_usage(error)
        return int(getattr(error, "exit_code", 2))
    return result if isinstance(result, int) else 0


def _tell_usage(error: Any) -> None:
    message = str(error.format_message()).strip()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    path = "firstlight" if context is None else context.command_path
    message = " ".join(f"{message[:1].lower()}{message[1:]}".split())
    print(f"error: {message}{'' if message.endswith(('.', '?')) else '.'} Help: {path} --help", file=sys.stderr)


def _tell(drawing: Drawing, error: FirstlightError, debug: bool) -> int:
    _trace(error, debug)
    drawing.error(error.message)
    return error.exit_code


def _tell_system(drawing: Drawing, error: OSError, debug: bool) -> int:
    """Tell what the operating system refused, in the words of the storage errors where they know it."""
    _trace(error, debug)
    try:
        with storage_errors(Path(str(error.filename or "disk"))):
            raise error
    except FirstlightError as known:
        drawing.error(known.message)
    except OSError:
        drawing.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 1


def _out_of_memory(error: Exception) -> Failure | None:
    """Return what to say where memory was too small; torch says so in several ways."""
    text = str(error)
    if not isinstance(error, MemoryError) and not ("out of memory" in text or "not enough memory" in text):
        return None
    known = Failure(
        "out of memory",
        found=" ".join(text.split())[:120] or None,
        fix="Take a smaller model, train.micro_batch=1, or a machine with more memory.",
    )
    known.__cause__ = error
    return known


def _tell_bug(drawing: Drawing, error: Exception, debug: bool) -> int:
    _trace(error, debug)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hint = "" if debug else "; run again with --debug and report it with the traceback"
    drawing.error(f"internal error: {what}{hint}")
    return 1


def _trace(error: BaseException, debug: bool) -> None:
    if debug:
        traceback.print_exception(error, file=sys.stderr)


def _take_debug(words: list[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` from wherever it stands before a lone ``--``."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return [*kept, *words[end:]], len(kept) < end or os.environ.get("FIRSTLIGHT_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def _quiet_ranks() -> Iterator[None]:
    """Of several processes, let only the first print results."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _warnings_as_lines(drawing: Drawing, debug: bool) -> Iterator[None]:
    """Show Python's warnings as one line each, without the source line that raised them."""
    if debug:
        yield
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: drawing.line(" ".join(f"note: {message}".split()))
        yield
