"""python -m sim: run the integer network in several engines and check that their spikes are equal; see --help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from train.console import main


@dataclass(frozen=True)
class Options:
    """Run the integer network of a run folder in several engines and check that they give the same spikes.

    Engines: integer (this project's own), torch (the trained model with integer layers), lava (Lava's fixed-point CPU
    simulator), lava-models (its ProcessModels in one process, many times faster), onnx (the network as network.onnx, in
    onnxruntime), reference (slow, obvious, step by step). Exit code 0: all equal. 1: they differ. 2: bad input.

    Examples:
      python -m sim
      python -m sim runs/mine --engines integer lava --lava-samples 50
      python -m sim runs/mine --engines lava-models
      python -m sim runs/mine --input INPUTS.npz
      python -m sim runs/mine --record OURS.nir-data
      python -m sim runs/mine --engines integer --compare THEIRS.nir-data
      torchrun --nproc_per_node 4 -m sim runs/mine --engines integer    (samples shared among processes)
    """

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder (default: the newest)."""
    engines: tuple[str, ...] = field(default=("torch", "integer", "lava"))
    """Engines to compare; integer always runs."""
    samples: int | None = None
    """Samples to run (default: the whole test set)."""
    lava_samples: int = 20
    """Of these, how many the slow engines (lava, reference) run; lava-models runs 50 times as many."""
    device: str = "cpu"
    """Device of the engines integer and torch and of the float model: auto, cpu, cuda, cuda:1 ..."""
    input: Path | None = None
    """INPUTS.npz with x (samples, T, ...) of whole numbers and optional y, instead of the run's test set."""
    lava_timeout: float = 600.0
    """Seconds that Lava, or its ProcessModels, may take."""
    record: Path | None = None
    """Write what the integer engine saw to this file, as NIR data: all spikes and the read-out's membrane potential."""
    compare: Path | None = None
    """A recording, NIR data of this project or of another framework, to compare with the integer engine's."""


def command(options: Options) -> None:
    """Run `python -m sim` with parsed options."""
    from sim.command import simulate

    simulate(
        options.run,
        options.engines,
        options.samples,
        options.lava_samples,
        options.input,
        options.lava_timeout,
        options.record,
        options.compare,
        options.device,
    )


if __name__ == "__main__":
    main(Options, command, "python -m sim")
