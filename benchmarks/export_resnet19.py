"""python benchmarks/export_resnet19.py: what the export of a full-size ResNet-19 costs.

32 x 32 images, temporal shift, DA-LIF, T = 4; random weights, batch norms measured on random images, so that every
layer fires. Timed is what `python -m export` does between reading the checkpoint and its last line: tracing, passes,
scale search, overflow proof, and writing both files. The goal is 60 s and 4 GiB on 2 cores.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from export.calibration import affordable_samples, multiply_accumulates
from export.command import export_graph, weight_grid
from export.pipeline import final, lower_graph
from export.quantise import PerChannel
from export.trace import trace
from train import models
from train.config import ModelConfig
from train.data import DataSpec

SPEC = DataSpec("random", (3, 32, 32), 10, 15, (7.0, 7.0, 7.0), (5.0, 5.0, 5.0))
STEPS = 4


@dataclass(frozen=True)
class Options:
    """Print the layers, then seconds, seconds of all cores, and peak memory of this process."""

    width: float = 1.0
    """Factor on all channel counts."""
    samples: int | None = None
    """Calibration samples (default: what the exporter takes)."""
    weight_bits: int = 8
    threads: int = 2
    profile: Path | None = None
    """Write cProfile's statistics to this file."""


def images(samples: int, seed: int) -> torch.Tensor:
    """Blurred noise in 0..15, the same at every step: [T, B, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((samples, 3, 9, 9), generator=generator) * 18 - 1.5
    smooth = nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return smooth.round().clamp(0, SPEC.levels).expand(STEPS, *smooth.shape)


def network(width: float) -> nn.Module:
    """The model, its batch norms with the statistics of 8 images."""
    torch.manual_seed(1)
    model = models.build(
        ModelConfig(model="resnet-19", neuron="da-lif", temporal_shift=True, time_steps=STEPS, width=width), SPEC
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
    with torch.no_grad():
        model.train()(images(8, seed=2))
    return model.eval()


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = network(options.width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        stages = lower_graph(trace(model, SPEC, STEPS, "resnet-19"))
        samples = options.samples or affordable_samples(final(stages))
        calibration = images(samples, seed=3).double().numpy()
        export_graph(
            Path(folder), stages, "loihi2", calibration, weight_grid(options.weight_bits), PerChannel(), "auto", None
        )
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    operations = multiply_accumulates(final(stages))
    print(f"{operations / 1e9:.1f} G multiply-accumulates a sample, {samples} calibration samples")
    print(f"{wall:.1f} s, {cpu:.1f} s of all cores, peak {peak / 2**20:.2f} GiB ({before / 2**20:.2f} before)")


if __name__ == "__main__":
    options = tyro.cli(Options)
    if options.profile is None:
        main(options)
    else:
        import cProfile

        with cProfile.Profile() as profiler:
            main(options)
        profiler.dump_stats(options.profile)
