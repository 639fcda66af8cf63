"""What the four commands share: error lines, exit codes, the progress bar."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from train.errors import CheckFailedError, UserError

EXIT_OK, EXIT_CHECK_FAILED, EXIT_BAD_INPUT = 0, 1, 2
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
Options = TypeVar("Options")


def main(
    options: type[Options],
    command: Callable[[Options], None],
    program: str,
    default: Callable[[], Options] | None = None,
    arguments: list[str] | None = None,
) -> NoReturn:
    """Parse the command line into `options` (a dataclass), run `command` on it, and exit.

    Exit codes: 0 done (or equal), 1 a check failed, 2 bad input or usage. A user's mistake is one line; its traceback
    is shown with `--debug`, which every command takes.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        parsed = tyro.cli(
            options,
            prog=program,
            default=default() if default else options(),
            args=[argument for argument in given if argument != "--debug"],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        command(parsed)
    except (UserError, CheckFailedError) as error:
        if debug:
            traceback.print_exc()
        label = "error" if isinstance(error, UserError) else "failed"
        errors.print(f"[bold red]{label}:[/] ", end="")
        errors.print(str(error), markup=False)
        sys.exit(EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_CHECK_FAILED)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_OK)
    except OSError as error:  # a full disk, a folder that cannot be written
        if debug:
            traceback.print_exc()
        errors.print("[bold red]error:[/] ", end="")
        errors.print(str(error), markup=False)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)
    sys.exit(EXIT_OK)


def progress() -> Progress:
    """A progress bar with a count, elapsed time and time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
