"""benchmarks/train_step.py without a network: paired ratios, verdicts, and processes that take turns."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import step_bars, train_step
from benchmarks.paired import PEERS, Case, Ratio, Results, Turns, ratio
from benchmarks.rounds import Job
from benchmarks.train_step import Options, as_json, cases, report, run
from benchmarks.turns import Worker, WorkerError

OURS = Case("spikeproof", "fp32", "tuned", 4, "frames")
RELU = replace(OURS, row="relu")
STAND_IN = """
import json, os, subprocess, sys, time
name, behaviour, log = sys.argv[1:]
def note(what):
    with open(log, "a") as file:
        file.write(f"{name} {what} {os.getpid()}\\n")
if behaviour == "slow":
    time.sleep(60)
note("start")
subprocess.Popen(["sleep", "60"])
print(json.dumps({"first_s": 0.5, "peak_mb": 1.0}), flush=True)
for count, line in enumerate(sys.stdin):
    if behaviour == "dies" and count == 1:
        sys.exit("warning: late\\nout of memory | really")
    if behaviour == "stuck":
        time.sleep(60)
    note("turn")
    print(json.dumps({"samples": [[0.1, 0.0, 0.1]] * int(line), "peak_mb": 2.0}), flush=True)
"""
Jobs = Callable[..., Job]


def turns(paces: dict[int, float], peak_mb: float = 1.0) -> Turns:
    """A row whose samples in each turn took so long, all undisturbed."""
    found = Turns(said=[{"first_s": 1.0, "peak_mb": peak_mb}])
    for turn, seconds in paces.items():
        found.add(turn, {"samples": [(seconds, 0.0, seconds)], "peak_mb": peak_mb})
    return found


@pytest.fixture
def stand_in(tmp_path: Path) -> Jobs:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def job(name: str = "row", behaviour: str = "works", limit_s: float = 10.0) -> Job:
        return Job(name, [sys.executable, str(script), name, behaviour, str(tmp_path / "log")], limit_s)

    return job


def alive(pid: int) -> bool:
    """Whether the process, or what it started in its group, is there; zombies are not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(group) == pid and state != "Z":
            return True
    return False


def gone(pid: int) -> bool:
    """Whether it is soon: a signal takes a moment."""
    deadline = time.monotonic() + 2
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_machine_that_changes_its_speed_leaves_ratios_exact() -> None:
    """A library that came when the machine had half its speed, and a disturbed turn of this project's."""
    machine = {turn: 0.5 if turn < 8 else 1.0 for turn in range(12)}
    own = turns(machine)
    peer = turns({turn: 1.5 * machine[turn] for turn in range(6, 12)})
    own.add(12, {"samples": [(9.0, 0.5, 1.0), (3.0, 0.01, 1.0), (5.0, 0.01, 1.0)], "peak_mb": 1.0})
    peer.add(12, {"samples": [(6.0, 0.0, 1.0)], "peak_mb": 1.0})
    peer.add(13, {"samples": [(6.0, 0.03, 1.0)], "peak_mb": 1.0})
    assert (own.pace_s[12], 13 in peer.pace_s) == (4.0, False)
    assert ratio(peer, own) == Ratio(1.5, 1.5, 1.5, 7)
    assert statistics.median(peer.clean_s) / statistics.median(own.clean_s) > 1.6


def test_quartiles() -> None:
    own, peer = turns(dict.fromkeys(range(5), 1.0)), turns(dict(enumerate([5.0, 1.0, 3.0, 2.0, 4.0])))
    assert ratio(peer, own) == Ratio(2.0, 3.0, 4.0, 5)
    assert ratio(turns({0: 3.0}), own) == Ratio(3.0, 3.0, 3.0, 1)
    assert ratio(turns({7: 3.0}), own) is None


def verdict(results: Results, bar: str) -> str:
    """Of the only line whose bar says so."""
    (line,) = [line for line in step_bars.bars(results) if bar in line]
    return line.rpartition("|")[0].rpartition("|")[2].strip()


@pytest.mark.parametrize(("steps", "limit"), [(4, 1.25), (32, 1.15)])
def test_the_bar_against_relu(steps: int, limit: float) -> None:
    ours, relu = replace(OURS, steps=steps), replace(RELU, steps=steps)
    for seconds, expected in ((limit, "met"), (limit + 1e-6, "**missed**")):
        assert verdict({ours: turns({0: seconds}), relu: turns({0: 1.0})}, "step at most") == expected
    elsewhere = replace(OURS, steps=8)
    assert not any("step at most" in line for line in step_bars.bars({elsewhere: turns({0: 1.0})}))


def test_the_bar_for_memory() -> None:
    ours, relu = replace(OURS, steps=32), replace(RELU, steps=32)
    for peak, expected in ((1.25, "met"), (1.26, "**missed**")):
        assert verdict({ours: turns({0: 1.0}, peak), relu: turns({0: 1.0})}, "memory") == expected
    assert not any("memory" in line for line in step_bars.bars({OURS: turns({0: 1.0}), RELU: turns({0: 1.0})}))


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, "met"), (0.999, "**missed**")])
def test_behind_none_is_about_the_fastest_with_the_same_precision_and_malloc(seconds: float, expected: str) -> None:
    results = {
        OURS: turns({0: 1.0, 1: 2.0, 2: 1.0}),
        replace(OURS, row="norse"): turns({0: 1.1}),
        replace(OURS, row="sinabs"): turns({1: 2.0 * seconds}),  # of all rows, the least speed as it was measured
        replace(OURS, row="snntorch"): Turns(failure="too slow"),
        replace(OURS, row="norse", precision="bf16"): turns({2: 0.1}),
        replace(OURS, row="norse", allocator="glibc"): turns({2: 0.1}),
        replace(OURS, row="norse", input="image"): turns({2: 0.1}),
    }
    assert verdict(results, "behind none") == expected
    (line,) = [line for line in step_bars.bars(results) if "behind none" in line]
    assert f"fastest of 2 (of 3 asked for): sinabs, {seconds:.3f} x" in line


@pytest.mark.parametrize(("seconds", "expected"), [(1.8, "met"), (1.799, "**missed**")])
def test_the_bar_against_libraries_as_their_users_run_them(seconds: float, expected: str) -> None:
    shipped = replace(OURS, row="norse", allocator="glibc")
    others = {shipped: turns({0: seconds}), replace(OURS, row="norse"): turns({0: 0.1})}
    for precision in ("fp32", "bf16"):
        assert verdict({replace(OURS, precision=precision): turns({0: 1.0}), **others}, "glibc's") == expected
    untuned = replace(OURS, allocator="glibc")
    assert not any("glibc's" in line for line in step_bars.bars({untuned: turns({0: 1.0}), **others}))


def test_what_has_no_samples_has_no_verdict() -> None:
    ours, relu, norse = (replace(OURS, row=row, steps=32) for row in ("spikeproof", "relu", "norse"))
    results = {ours: turns({0: 1.0}), relu: Turns(failure="no | memory"), norse: Turns()}
    text = report(results)
    table, _, bars = text.partition("| bar |")
    assert "| relu | frames | fp32 | tuned | 32 | no / memory |" in table
    assert "| norse | frames | fp32 | tuned | 32 | not run |" in table
    assert bars.count("| not measured |") == 4
    assert bars.count("relu: no / memory") == 2
    assert "norse: not run" in bars
    assert "no such row" in bars
    assert "met" not in bars
    assert "missed" not in bars
    alone = "\n".join(step_bars.bars({ours: turns({0: 1.0})}))
    assert alone.count("relu: not asked for") == 2
    apart = step_bars.bars({ours: turns({0: 1.0}), relu: turns({1: 1.0})})
    assert sum("no turn in which both were undisturbed" in line for line in apart) == 1


def test_the_table_has_both_ratios() -> None:
    norse = replace(OURS, row="norse")
    results = {RELU: turns({0: 1.0}, 4.0), OURS: turns({0: 2.0}, 5.0), norse: turns({0: 3.0}, 6.0)}
    results[norse].failure = "died"
    assert "| norse | frames | fp32 | tuned | 4 | 3000 | 3.00 | 1.50 | 6 | 1.50 | 1.0 | 1 of 1, then died |" in report(
        results
    )
    row = json.loads(as_json(results))["rows"][-1]
    assert row["x_relu"] == {"low": 3.0, "median": 3.0, "high": 3.0, "turns": 1}
    assert row["x_this_project"]["median"] == 1.5
    disturbed = Turns(said=[{"first_s": 1.0, "peak_mb": 1.0}])
    disturbed.add(0, {"samples": [(4.0, 0.5, 1.0)], "peak_mb": 1.0})
    assert "| ~4000 |  |  | 1 |" in report({**results, norse: disturbed})


def test_every_case_is_there_once() -> None:
    every = Options(allocator=("tuned", "glibc"), inputs=("frames", "image"))
    listed = list(cases(every))
    assert len(set(listed)) == len(listed) == 2 * 2 * 2 * (2 * 2 + len(PEERS))
    groups = train_step.grouped({case: Turns() for case in listed})
    assert [case for group in groups for case in group] == sorted(listed, key=lambda c: (c.steps, c.input))
    assert {len(group) for group in groups} == {2 * (2 * 2 + len(PEERS))}
    assert len(list(cases(replace(every, peers_fp32_only=False)))) == 2 * 2 * 2 * 2 * (2 + len(PEERS))


def test_a_worker_takes_turns_and_is_gone_afterwards(stand_in: Jobs) -> None:
    with Worker(stand_in()) as worker:
        assert worker.started()["first_s"] == 0.5
        assert [len(worker.turn(samples)["samples"]) for samples in (2, 3)] == [2, 3]
        pid = worker._process.pid
        assert alive(pid)
    assert gone(pid)


def test_a_worker_is_gone_after_an_interruption(stand_in: Jobs) -> None:
    with pytest.raises(KeyboardInterrupt), Worker(stand_in()) as worker:
        worker.started()
        raise KeyboardInterrupt
    assert gone(worker._process.pid)


def test_a_worker_that_dies_says_why(stand_in: Jobs) -> None:
    with Worker(stand_in(behaviour="dies")) as worker:
        worker.started()
        worker.turn(1)
        for _ in range(2):  # the second finds a closed pipe
            with pytest.raises(WorkerError, match=r"^out of memory"):
                worker.turn(1)
            assert gone(worker._process.pid)


def test_a_worker_that_is_killed_says_so(stand_in: Jobs) -> None:
    with Worker(stand_in()) as worker:
        worker.started()
        os.kill(worker._process.pid, 9)
        with pytest.raises(WorkerError, match="SIGKILL"):
            worker.turn(1)


def test_a_worker_has_a_limit_to_start_and_for_a_turn(stand_in: Jobs) -> None:
    with (
        Worker(stand_in(behaviour="slow", limit_s=0.5)) as worker,
        pytest.raises(WorkerError, match=r"within 0\.5 s"),
    ):
        worker.started()
    assert gone(worker._process.pid)
    with Worker(stand_in(behaviour="stuck", limit_s=2)) as worker:
        worker.started()
        with pytest.raises(WorkerError, match="within 2 s"):
            worker.turn(1)
        assert gone(worker._process.pid)


def test_rows_take_turns_while_the_others_live(stand_in: Jobs, tmp_path: Path) -> None:
    """Two rows stay, libraries come one at a time; one dies in its second turn, one is not installed."""
    rows = ("norse", "relu", "sinabs", "snntorch", "spikeproof")
    results = {replace(OURS, row=row): Turns() for row in rows}

    def job(case: Case) -> Job:
        if case.row == "sinabs":
            return Job("sinabs", [str(tmp_path / "peers" / "bin" / "python")], 20)
        return stand_in(case.row, "dies" if case.row == "norse" else "works")

    run(results, 3, 2, job)
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [f"{row} {what}" for row, what, _ in log] == [
        *("relu start", "spikeproof start"),
        *("norse start", "norse turn", "relu turn", "spikeproof turn"),
        *("spikeproof turn", "relu turn"),  # backwards; norse has died
        *("relu turn", "spikeproof turn"),
        *("snntorch start", "spikeproof turn", "snntorch turn", "relu turn"),
        *("relu turn", "snntorch turn", "spikeproof turn"),
        *("spikeproof turn", "snntorch turn", "relu turn"),
    ]
    assert all(gone(int(pid)) for _, _, pid in log)
    found = {case.row: each for case, each in results.items()}
    assert {row: list(each.pace_s) for row, each in found.items()} == {
        "norse": [0],
        "relu": [0, 1, 2, 3, 4, 5],
        "sinabs": [],
        "snntorch": [3, 4, 5],
        "spikeproof": [0, 1, 2, 3, 4, 5],
    }
    assert found["norse"].failure == "out of memory | really"
    assert found["sinabs"].failure.startswith("not installed: peers")
    assert "not installed: peers" in report(results)


@pytest.mark.parametrize("row", ["spikeproof", "sinabs"])
def test_rows_to_which_nobody_comes_take_their_turns_alone(stand_in: Jobs, row: str) -> None:
    results = {OURS: Turns(), RELU: Turns(), replace(OURS, row=row): Turns()}
    run(results, 2, 3, lambda case: stand_in(behaviour="slow", limit_s=1) if case.peer else stand_in())
    assert [(len(results[case].samples), list(results[case].pace_s)) for case in (OURS, RELU)] == [(6, [0, 1])] * 2


def test_the_first_reason_stands(stand_in: Jobs) -> None:
    results = {OURS: Turns(), RELU: Turns()}
    run(results, 2, 1, lambda case: stand_in(behaviour="works" if case == RELU else "stuck", limit_s=2))
    assert results[OURS].failure == "not done within 2 s"
    assert len(results[RELU].samples) == 2


def test_a_library_leaves_before_the_next_one_comes(stand_in: Jobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen: list[bool] = []

    def job(case: Case) -> Job:
        if case.row == "sinabs" and log.is_file():
            seen.extend(gone(int(line.split()[-1])) for line in log.read_text().splitlines())
        return stand_in(case.row)

    results = {replace(OURS, row=row): Turns() for row in ("norse", "sinabs")}
    run(results, 1, 1, job)
    assert seen
    assert all(seen)
    assert all(found.samples for found in results.values())


def test_the_real_worker_speaks_the_protocol() -> None:
    case = replace(RELU, steps=1, allocator="glibc")
    job = train_step.job(case, Options(batch=2, threads=1), Path("caches"))
    with Worker(replace(job, limit_s=60)) as worker:
        assert {"loss", "first_s", "peak_mb"} <= set(worker.started())
        said = worker.turn(3)
    assert len(said["samples"]) == 3
    assert all(len(sample) == 3 for sample in said["samples"])
    assert said["peak_mb"] > 0
