"""What the four commands share: error lines, exit codes, the progress bar."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

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
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_OK)
    except (UserError, CheckFailedError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        if debug:
            traceback.print_exc()
        failed = isinstance(error, CheckFailedError)
        errors.print(f"[bold red]{'failed' if failed else 'error'}:[/] ", end="")
        errors.print(str(error), markup=False)
        sys.exit(EXIT_CHECK_FAILED if failed else EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)
    sys.exit(EXIT_OK)


class _Rate(ProgressColumn):
    """How much is done per second, in the task's `unit` where it has one; empty until two advances are known."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text()
        unit = f" {task.fields['unit']}" if "unit" in task.fields else ""
        return Text(f"{speed:,.{2 if speed < 10 else 0}f}{unit}/s", no_wrap=True)


class _Time(TimeRemainingColumn):
    """The time left, or at the end the time that it took."""

    def __init__(self) -> None:
        super().__init__(elapsed_when_finished=True, table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text.assemble("took " if task.finished else "left ", super().render(task))


class _Note(ProgressColumn):
    """The task's `note`, the only column that is cut where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


def progress() -> Progress:
    """A progress bar with a count, the rate, the time left and a note."""
    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("[bold]{task.description}", table_column=whole.copy()),
        BarColumn(bar_width=8, table_column=whole.copy()),
        MofNCompleteColumn(table_column=whole.copy()),
        _Rate(table_column=whole.copy()),
        _Time(),
        _Note(),
        console=console,
    )
