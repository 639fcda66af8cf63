"""What `python -m export` does: compile a run's model or a NIR file, or read a netx file, and write the artefacts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from export import limits, targets
from export.calibration import affordable_samples
from export.folding import Folding, fold, has_attention
from export.folding_report import report
from export.formats.netx_reader import Given, read_netx
from export.formats.nir_presets import Meaning
from export.formats.nir_reader import read_nir
from export.formats.nir_writer import write_nir
from export.graph import Accumulate, Floats, Graph, Input
from export.network import LIF, Attention, Driven, Network
from export.passes.fold_attention import Gate
from export.pipeline import Compiled, compile_graph, final, left_out, lower_graph
from export.quantise import Granularity, PerChannel, PerLayer, Signed
from export.quantising import Quantising
from export.quantising import report as report_quantised
from export.shapes import without_ones
from export.store import write_network
from export.trace import trace
from export.training_only import dropped
from train import data, runs
from train.console import console
from train.errors import UserError
from train.quantise.coding import CodingName
from train.quantise.layers import is_prepared
from train.restore import Trained, as_sent, coded, dataset_of, restore

TARGETS = {
    "loihi2": (runs.NETWORK,),
    "nir": (),
    "netx": (runs.NETWORK, runs.NETWORK_NETX),
    "onnx": (runs.NETWORK, runs.NETWORK_ONNX, runs.MODEL_ONNX),
}
"""Target -> what is written of the integer network."""
GRANULARITIES: dict[str, Granularity] = {"channel": PerChannel(), "layer": PerLayer()}


def export_run(
    run: Path | None,
    target: str,
    grid: Signed,
    granularity: Granularity,
    samples: int | None,
    coding: CodingName,
    dump_after: str | None,
    attention: Folding | Quantising | None = None,
) -> None:
    """Export the model of a run folder; one with attention needs to be told what becomes of it.

    `samples` None: as many calibration samples as its size allows.

    Raises:
        UserError: bad input, or a model that cannot be exported.
    """
    folder = runs.find(run, needs={runs.CONFIG: "python -m train", runs.CHECKPOINT: "python -m train"})
    trained = restore(folder)
    if is_prepared(trained.model):
        grid = _grid_of(trained, grid)
    elif target == "netx":
        grid = targets.netx_grid(grid)
    sent = as_sent(trained.config, trained.data)
    graph = trace(trained.model, sent, trained.config.model.time_steps, trained.data.name)
    quantising = isinstance(attention, Quantising)
    if attention is not None and not has_attention(graph):
        raise UserError(f"--attention {attention.name}, but the model has no attention", where=str(folder))
    # attention that is folded is measured before it can be lowered
    stages = None if isinstance(attention, Folding) else lower_graph(graph, attention=quantising)
    split = dataset_of(trained.config).train
    frames = split.read(
        data.spread(len(split), samples or affordable_samples(graph if stages is None else final(stages)))
    )
    calibration = coded(trained.config, trained.data, frames).double().numpy()
    for line in dropped(trained):
        console.print(f"left out, needed in training only: {line}")
    if stages is not None:
        compiled = export_graph(folder, stages, target, calibration, grid, granularity, coding, dump_after)
        if isinstance(attention, Quantising):
            report_quantised(attention, trained, graph, calibration, compiled.network, folder)
        _say_next(folder, target)
        return
    assert isinstance(attention, Folding)

    def integers(graph: Graph, gates: tuple[Gate, ...]) -> Network:
        return compile_graph(lower_graph(graph, gates), calibration, grid, granularity, coding).network

    folded = fold(trained, folder, graph, calibration, attention, integers)
    stages = lower_graph(folded.graph, folded.gates)
    compiled = export_graph(folder, stages, target, calibration, grid, granularity, coding, dump_after)
    report(folded, compiled.network if target != "nir" else None, folder)
    _say_next(folder, target)


def _say_next(folder: Path, target: str, options: str = "") -> None:
    if target != "nir":
        console.print(f"next: python -m sim {folder}{options}")


def _grid_of(trained: Trained, asked: Signed) -> Signed:
    """The grid of a model that was trained in integers; another one would be another network."""
    bits = trained.config.quantize_bits
    if asked.bits not in (bits, Signed().bits):
        raise UserError(f"--weight-bits {asked.bits}, the model was trained with --quantize-bits {bits}")
    return Signed(bits)


def export_nir(
    file: Path,
    out: Path,
    meaning: Meaning,
    calibration: Path,
    target: str,
    grid: Signed,
    granularity: Granularity,
    coding: CodingName,
    dump_after: str | None,
) -> None:
    """Export a network that was trained elsewhere.

    Raises:
        UserError: bad input, or a network that cannot be reproduced exactly.
    """
    x = _calibration(calibration)
    grid = targets.netx_grid(grid) if target == "netx" else grid
    graph = read_nir(file, meaning.discretisation(len(x), int(x.max())))
    shape = next(node.shape for node in graph.nodes if isinstance(node, Input))
    if without_ones(x.shape[2:]) != without_ones(shape):
        raise UserError(f"x has frames of shape {x.shape[2:]}, the network takes {shape}", where=str(calibration))
    said = {key: value for key, value in asdict(meaning).items() if value is not None}
    runs.write_json(out / runs.CONFIG, {"schema_version": 1, "nir": file.name, **said})
    frames = x.reshape(*x.shape[:2], *shape)
    export_graph(out, lower_graph(graph), target, frames, grid, granularity, coding, dump_after)
    _say_next(out, target, " --input INPUTS.npz")


def export_netx(file: Path, out: Path, given: Given, target: str) -> None:
    """Export a netx file's network, which is in integers already.

    Raises:
        UserError: bad input, or a network that cannot be reproduced exactly.
    """
    if target not in ("loihi2", "onnx"):
        raise UserError(f"--target {target} from a netx file", hint="known targets: loihi2, onnx")
    network = read_netx(file, given)
    runs.write_json(out / runs.CONFIG, {"schema_version": 1, "netx": file.name})
    if target == "onnx":
        targets.write_network_onnx(out, network)
    write_network(out / runs.NETWORK, network)
    runs.remove(out, (name for name in runs.OF_A_NETWORK if name not in TARGETS[target] and out / name != file))
    console.print(_table(network, "as lava-dl's netx has it, for"))
    console.print(f"wrote {out / runs.NETWORK}")
    _say_next(out, target, " --input INPUTS.npz")


def _calibration(file: Path) -> Floats:
    """x of an .npz file, (samples, T, *shape), as float64 [T, samples, *shape] of whole numbers."""
    if not file.is_file():
        raise UserError("no such file", where=str(file))
    try:
        with np.load(file, allow_pickle=False) as arrays:
            x = np.asarray(arrays["x"], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"not an .npz file with an array x: {error}", where=str(file)) from error
    if not 3 <= x.ndim <= 5 or not x.size:
        expected = "(samples, T, N), (samples, T, C, L) or (samples, T, C, H, W)"
        raise UserError(f"x of shape {x.shape}, expected {expected}", where=str(file))
    if not np.isfinite(x).all() or not np.array_equal(x, np.rint(x)) or x.min() < 0:
        raise UserError("x must hold whole numbers that are not negative", where=str(file))
    if not x.any():
        raise UserError("x holds nothing but zeros", where=str(file), hint="calibrate on inputs that make it spike")
    return np.ascontiguousarray(x.swapaxes(0, 1))


def export_graph(
    folder: Path,
    stages: dict[str, Graph],
    target: str,
    calibration: Floats,
    grid: Signed,
    granularity: Granularity,
    coding: CodingName,
    dump_after: str | None,
) -> Compiled:
    """Compile what `lower_graph` left, write the files of `target` into `folder`, print what each layer lost."""
    if target not in TARGETS:
        raise UserError(f"--target {target}", hint=f"known targets: {', '.join(TARGETS)}")
    if dump_after is not None:
        _dump(stages, dump_after)
    compiled = compile_graph(stages, calibration, grid, granularity, coding)
    _write_nir(folder / runs.MODEL_NIR, compiled.nir, asked=target == "nir")
    if target == "nir":
        return compiled
    network, given = compiled.network, _given(compiled)
    if target == "netx":
        targets.write_network_netx(folder, network)
    elif target == "onnx":
        targets.write_network_onnx(folder, network)
        targets.write_model_onnx(folder, compiled)
    write_network(folder / runs.NETWORK, network)
    runs.remove(folder, (name for name in runs.OF_A_NETWORK if name not in TARGETS[target]))
    console.print(_table(network, "trained in the integers of" if given else "quantised for"))
    console.print(f"input: {compiled.coding.coding.words}, {compiled.coding.reason}")
    if not given:
        samples = calibration.shape[1]
        console.print(f"scales searched on {samples} samples; agreement: spikes and silences as in the float model")
    for where in left_out(compiled):
        console.print(f"left out, every weight rounds to zero: {where}", markup=False)
    console.print(_summary(network))
    console.print(f"wrote {folder / runs.NETWORK}")
    return compiled


def _write_nir(path: Path, graph: Graph, asked: bool) -> None:
    """model.nir; where NIR cannot say it all and was not asked for, a line that says so, and no file."""
    try:
        write_nir(path, graph)
    except UserError as error:
        if asked:
            raise
        path.unlink(missing_ok=True)
        console.print(f"no {path}: {error}")
    else:
        console.print(f"wrote {path}")


def _dump(stages: dict[str, Graph], stage: str) -> None:
    if stage not in stages:
        raise UserError(f"--dump-after {stage}", hint=f"stages: {', '.join(stages)}")
    for node in stages[stage].nodes:
        console.print(f"{node.id}: {node.where} {stages[stage].shapes[node.id]} <- {', '.join(node.inputs)}")


def _given(compiled: Compiled) -> bool:
    """Whether the model was trained in these integers."""
    return any(isinstance(node, Accumulate) and node.scale is not None for node in compiled.nir.nodes)


def _table(network: Network, how: str) -> Table:
    close = any(isinstance(p.program, Attention) for p in network.populations)  # their names are long
    title = f"{network.name}: {how} Loihi 2"
    table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=close, pad_edge=not close)
    texts: tuple[str, ...] = ("population", "shape", "scale")
    figures: tuple[str, ...] = ("weight error", "clipped", "agreement", f"bits of {limits.STATE_BITS}")
    if not network.records:
        texts, figures = texts[:2], ("starts",)
    for column in texts:
        table.add_column(column, no_wrap=True)
    for column in figures:
        table.add_column(column, justify="right")
    records = {record.population: record for record in network.records}
    for population in network.populations:
        if not isinstance(population.program, Driven):
            continue
        row = [population.id, "x".join(map(str, population.shape))]
        if population.id in records:
            record = records[population.id]
            scale = _span(*record.scale) if isinstance(population.program, LIF) else ""
            row += [scale, f"{record.weight_error:.2%}", f"{record.saturated:,}"]
            row += [f"{record.spike_agreement:.2%}", str(record.bits_in_use)]
        else:
            row.append(str(population.start))
        table.add_row(*row)
    return table


def _span(low: float, high: float) -> str:
    """Units of v per unit of the float potential, smallest and largest over the channels: 5100-12k."""
    ends = [f"{x / 1000:.0f}k" if x >= 1e4 else f"{x:.0f}" if x >= 100 else f"{x:.2g}" for x in (low, high)]
    return ends[0] if low == high else "-".join(ends)


def _summary(network: Network) -> str:
    guard = network.period - network.steps
    return (
        f"window {network.steps} steps, {guard} guard, latency {network.latency} steps; no current can leave 24 bits "
        "(proved for every neuron, all inputs)"
    ) + (", no sum of attention 32" if any(isinstance(p.program, Attention) for p in network.populations) else "")


def weight_grid(bits: int) -> Signed:
    """Signed weights of `bits` bits.

    Raises:
        UserError: outside 2..8.
    """
    if not 2 <= bits <= 8:
        raise UserError(f"--weight-bits {bits}, allowed 2..8")
    return Signed(bits)
