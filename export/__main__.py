"""python -m export: a trained model, a NIR file or a netx file to the integer network; see --help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from train.console import main
from train.errors import UserError

if TYPE_CHECKING:
    from export.folding import Folding
    from export.quantising import Quantising


@dataclass(frozen=True)
class Options:
    """Compile a trained model or a NIR file, or read a netx file, into the integer network that Loihi 2 runs.

    Examples:
      python -m export --target loihi2
      python -m export runs/mine --weight-bits 6
      python -m export runs/fsta --attention fold --heal 3
      python -m export runs/fsta --attention quantize
      python -m export --nir FILE --dt 1e-4 --reset zero --calibration INPUTS.npz --out runs/theirs
      python -m export --netx FILE --steps 16 --out runs/theirs
    """

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder (default: the newest)."""
    target: Literal["loihi2", "nir", "netx", "onnx"] = "loihi2"
    """loihi2: network.h5 and model.nir. nir: model.nir alone. netx: network.net for lava-dl too. onnx: network.onnx
    (integers) and model.onnx (float32) too."""
    weight_bits: int = 8
    """Bits of a weight, 2..8."""
    scale: Literal["channel", "layer"] = "channel"
    """One scale for each channel (through thresholds of its own), or one for a layer."""
    input_coding: Literal["auto", "graded", "centred", "sliced", "events"] = "auto"
    """Raw values as graded spikes as they are, less the mean, or less the mean and in two slices; auto: by a rule."""
    calibration_samples: int | None = None
    """Training samples on which scales are searched (default: 256, fewer for large networks, at least 8)."""
    attention: Literal["fold", "quantize"] | None = None
    """What becomes of attention. fold: its gates become their means over the calibration samples, an approximation
    that is printed gate by gate. quantize: they become integer programs over the window, which no stock neuron runs."""
    heal: int = 0
    """Epochs in which the folded network learns from the one with attention, on the run's training data."""
    heal_rate: float = 0.01
    """Peak learning rate of these epochs; falls along a cosine."""
    test_samples: int = 1000
    """Test samples on which --attention reports accuracy, at most as many as there are."""
    nir: Path | None = None
    """Read this NIR file instead of a run's model; needs --dt, --calibration and --out."""
    dt: float | None = None
    """Seconds of one time step of the NIR file, which does not say it."""
    reset: Literal["zero", "subtract"] = "zero"
    """Reset rule of the NIR file's neurons, which it does not say. Lava's own neurons have the one to zero alone."""
    writer: Literal["nir", "norse", "snntorch", "spikingjelly", "sinabs"] = "nir"
    """Who wrote the NIR file: each framework means something else by the same numbers, see docs/nir.md."""
    integrator: Literal["euler", "exponential"] | None = None
    """Decay of the NIR file's neurons, 1 - dt / tau or exp(-dt / tau), where it is not the writer's usual one."""
    fires: Literal["above", "reached"] | None = None
    """Spike when v > threshold, or v >= threshold, where it is not the writer's usual rule."""
    reset_at: Literal["once", "late"] | None = None
    """Reset by subtraction in the step of the spike, or in the next one, where it is not the writer's usual rule."""
    spikes: Literal["single"] | None = None
    """Says that neurons of a writer that allows several spikes in one step were trained with one at most."""
    calibration: Path | None = None
    """INPUTS.npz with x (samples, T, ...) of whole numbers, for --nir."""
    netx: Path | None = None
    """Read this netx file of lava-dl instead of a run's model; needs --out."""
    steps: int | None = None
    """Time steps of a sample, for --netx (default: what this program wrote into the file)."""
    input_bits: int | None = None
    """Bits of graded input, for --netx (default: what this program wrote into the file, or binary)."""
    out: Path | None = None
    """Run folder to write, for --nir and --netx."""
    dump_after: str | None = None
    """Print the graph after a stage: trace, fold_batch_norm, fold_input_scale, shift_to_delays, ..."""


FOR_NIR = ("dt", "calibration", "integrator", "fires", "reset_at", "spikes")
BELONGS = {**dict.fromkeys(FOR_NIR, ("nir",)), "out": ("nir", "netx"), "steps": ("netx",), "input_bits": ("netx",)}


def _only_with(source: str, options: Options) -> None:
    """Refuse options that say nothing about this kind of source: a file read by --nir or --netx, or a run ("")."""
    for name, owners in BELONGS.items():
        if source not in owners and getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for {' and '.join(f'--{owner}' for owner in owners)}")


def _attention(options: Options) -> Folding | Quantising | None:
    from export.folding import Folding
    from export.quantising import Quantising

    if options.attention != "fold" and options.heal:
        raise UserError(f"--heal {options.heal} needs --attention fold")
    if options.attention == "quantize":
        return Quantising(options.test_samples)
    return None if options.attention is None else Folding(options.heal, options.heal_rate, options.test_samples)


def command(options: Options) -> None:
    """Run `python -m export` with parsed options."""
    from export.command import GRANULARITIES, export_netx, export_nir, export_run, weight_grid
    from export.formats.netx_reader import Given
    from export.formats.nir_presets import Meaning

    if options.nir is not None and options.netx is not None:
        raise UserError("--nir and --netx", hint="one file at a time")
    source = "nir" if options.nir else "netx" if options.netx else ""
    _only_with(source, options)
    if source and (options.attention is not None or options.heal):
        raise UserError(f"--{'heal' if options.heal else 'attention'} is for a run's model, not for --{source}")
    if options.netx is not None:
        if options.out is None:
            raise UserError("--netx needs --out")
        export_netx(options.netx, options.out, Given(options.steps, options.input_bits), options.target)
        return
    grid, granularity = weight_grid(options.weight_bits), GRANULARITIES[options.scale]
    if options.nir is None:
        samples = options.calibration_samples
        if samples is not None and samples < 1:
            raise UserError(f"--calibration-samples {samples}, must be at least 1")
        coding, attention = options.input_coding, _attention(options)
        export_run(options.run, options.target, grid, granularity, samples, coding, options.dump_after, attention)
        return
    if options.dt is None or options.calibration is None or options.out is None:
        raise UserError("--nir needs --dt, --calibration and --out", hint="NIR does not record the time step")
    meaning = Meaning(
        options.dt,
        options.reset,
        options.writer,
        options.integrator,
        options.fires,
        options.reset_at,
        options.spikes,
    )
    export_nir(
        options.nir,
        options.out,
        meaning,
        options.calibration,
        options.target,
        grid,
        granularity,
        options.input_coding,
        options.dump_after,
    )


if __name__ == "__main__":
    main(Options, command, "python -m export")
