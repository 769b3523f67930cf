"""What all commands share: the terminal, progress, and how trouble is told."""

import logging
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bgdiff.console import StageProgress

__all__ = ["LogHandler", "Options", "complain", "console", "errors_told", "say", "stage_progress"]


class _Terminated(KeyboardInterrupt):
    """SIGTERM: stop as on Ctrl-C, cleanly and at once."""


class Options:
    """What the options before the command say."""

    quiet = False
    debug = False


@contextmanager
def errors_told(directory: Path | None = None, again: bool = False) -> Iterator[None]:
    """Turn what can go wrong into one message and an exit code: 2 user error, 130 Ctrl-C, 143 SIGTERM."""
    from bgdiff.errors import BgdiffError

    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except BgdiffError as error:
        if Options.debug:
            raise
        complain(f"Error: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        hint = ""
        if directory is not None:
            hint = f"; resume with: bgdiff run --resume {shlex.quote(str(directory))}"
        elif again:
            hint = "; the same command continues it"
        complain(f"Stopped{hint}")
        raise typer.Exit(143 if isinstance(error, _Terminated) else 130) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: Any) -> NoReturn:
    raise _Terminated


def say(message: str) -> None:
    """Print a result to stdout."""
    console().print(message, highlight=False, markup=False, soft_wrap=True)


def complain(message: str) -> None:
    """Print what is wrong to stderr."""
    console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)


@cache
def console(stderr: bool = False) -> "Console":
    """The terminal's stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr, emoji=False)  # a device named cuda:-1: is not a thumb


def stage_progress() -> "StageProgress":
    """Shows the stages of the work on stderr; silent if the user asked for that."""
    from bgdiff.console import StageProgress

    return StageProgress(console(stderr=True), quiet=Options.quiet)


class LogHandler(logging.Handler):
    """Writes log records to stderr through rich, so that they do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        prefix = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        console(stderr=True).print(
            prefix + self.format(record), style=style, highlight=False, markup=False, soft_wrap=True
        )
