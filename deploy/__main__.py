"""`python -m deploy`: the chip plan and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from train.console import main


@dataclass(frozen=True)
class Options:
    """Plan a network on a chip and write report.html and report.json into its run folder.

    Needs network.h5 (python -m export). What python -m sim adds, equality and activity, makes the report complete.
    Exit code: 0 the network fits the chip, 1 it breaks a rule of the chip, 2 bad input.
    """

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder (default: the newest under runs/)."""

    chip: Annotated[str, tyro.conf.arg(metavar="loihi2|loihi1|FILE.yaml")] = "loihi2"
    """The chip: a name, or a file in the form of deploy/chips/loihi2.yaml with numbers of your own."""


def command(options: Options) -> None:
    """Run `python -m deploy` with parsed options."""
    from deploy.command import deploy  # keeps --help quick

    deploy(options.run, options.chip)


if __name__ == "__main__":
    main(Options, command, "python -m deploy")
