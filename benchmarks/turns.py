"""Rows that take turns: each is a process that stays alive and does a few steps whenever it is asked to.

A shared machine changes its speed by a quarter for seconds at a time. Rows that are measured one after the other show
that; rows that take turns in slices of a second meet the same speed, and their ratio within a turn is that of the code.

A worker prints a line of JSON when it has started. For every line that it reads, a number of samples, it prints
another: `samples`, each (seconds, part of them disturbed, CPU seconds), and `peak_mb`. It ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any

from benchmarks.rounds import Job, last_line, not_installed

END_S = 10.0  # what a process that has closed its output may take to end


class WorkerError(Exception):
    """Why a worker has no samples: not installed, too slow, or what it said before it ended."""


class Worker:
    """A live process, from its creation to the end of its `with`; starting and each turn may take `job.limit_s`.

    Raises:
        WorkerError: the interpreter is not there.
    """

    def __init__(self, job: Job) -> None:
        self._limit_s = job.limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # not a pipe, which nobody would read meanwhile
        pipe, environment = subprocess.PIPE, {**os.environ, **job.environment}
        try:
            self._process = subprocess.Popen(  # in a session of its own: Ctrl-C is this process's, and ends them all
                job.command, 0, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment, start_new_session=True
            )
        except FileNotFoundError:
            self._errors.close()
            raise WorkerError(not_installed(job)) from None
        self._end = os.pidfd_open(self._process.pid)  # readable when it ends: its output may be open in what it started

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kill()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            assert file
            file.close()
        os.close(self._end)

    def started(self) -> dict[str, Any]:
        """What it says when it has started: first step (s), and more.

        Raises:
            WorkerError: it did not start, or not in time.
        """
        return self._line()

    def turn(self, samples: int) -> dict[str, Any]:
        """One turn of so many timed steps: `samples` and `peak_mb`.

        Raises:
            WorkerError: it has ended, or was not done in time.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_line` says why
            self._process.stdin.write(b"%d\n" % samples)
        return self._line()

    def _line(self) -> dict[str, Any]:
        output = self._process.stdout
        assert output
        ready, _, _ = select.select([output.fileno(), self._end], [], [], self._limit_s)
        if not ready:
            self._kill()
            raise WorkerError(f"not done within {self._limit_s:g} s")
        line = output.readline() if output.fileno() in ready else b""
        if not line:
            raise WorkerError(self._last_words())
        return dict(json.loads(line))

    def _last_words(self) -> str:
        """Why it has ended, or is about to."""
        select.select([self._end], [], [], END_S)
        self._kill()
        if self._process.returncode < 0:
            return f"ended by {signal.Signals(-self._process.returncode).name}"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        return last_line(said) or f"ended with status {self._process.returncode}"

    def _kill(self) -> None:
        """End it, and what it has started even if it has ended itself."""
        if self._process.returncode is None:  # not waited for: its number is still its group's
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
