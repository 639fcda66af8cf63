"""benchmarks/train_step_gpu.py as far as a CPU tells: table and verdicts, and its clock given a false GPU."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_worker
from benchmarks.gpu_worker import Case
from benchmarks.rounds import Found
from benchmarks.train_step_gpu import KERNELS, Options, cases, table

NETWORK = Case("resnet-19", "spikeproof", "bf16", 4, (128, 128, 32), "cuda")
NEURON = Case("neuron", "spikeproof", "fp32", 4, (64, 64, 32), "cuda")


def found(seconds: float) -> Found:
    said = {"device": "a GPU", "versions": "torch 2", "rate": None, "peak_mb": 3.0, "first_s": 1.0}
    return Found([(seconds, 0.0, 0.0)], [said])


@pytest.mark.parametrize(("seconds", "verdict"), [(0.125, "met"), (0.126, "**missed**")])
def test_the_bar_is_a_ratio(seconds: float, verdict: str) -> None:
    *_, bar = table({NETWORK: found(seconds), replace(NETWORK, row="relu"): found(0.1)}).splitlines()
    assert bar.endswith(f"| {verdict} |")


def test_a_dry_run_has_no_verdict() -> None:
    network = replace(NETWORK, device="cpu")
    text = table({network: found(1.0), replace(network, row="relu"): found(0.1)})
    assert text.startswith("DRY RUN")
    assert text.endswith("| dry run |")


def test_what_is_not_installed_stands_in_the_table() -> None:
    results = {NEURON: found(0.1), **{replace(NEURON, row=row): Found() for row in KERNELS}}
    results[replace(NEURON, row=KERNELS[0])].failure = "not installed: triton"
    rows, _, bars = table(results).partition("| bar |")
    for part in (rows, bars):
        assert part.count("not installed: triton") == 1
        assert part.count("not run") == len(KERNELS) - 1
    assert "met" not in bars


def test_every_row_runs_in_every_precision_that_it_takes() -> None:
    listed = list(cases(Options()))
    assert len(set(listed)) == len(listed) == 2 + 2 * (6 + 6)
    assert {case.device for case in listed} == {"cuda"}


def test_the_clock_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of 2 ms a step; as many steps between two events as take SAMPLE_S."""
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = calls

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Event) -> float:
            return 2.0 * (end.at - self.at)

    fake = SimpleNamespace(
        Event=Event,
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 2 << 20,
        max_memory_allocated=lambda: 5 << 20,
        get_device_name=lambda: "a GPU",
    )
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(gpu_worker, "SAMPLE_S", 0.01)
    said = gpu_worker.on_gpu(step, 3)
    assert [seconds for seconds, _, _ in said["samples"]] == pytest.approx([0.002] * 3)  # type: ignore[attr-defined]
    assert said["peak_mb"] == 3
    assert calls > 1 + 2 * gpu_worker.WARM_UP + 3 * 2  # more than one step a sample
