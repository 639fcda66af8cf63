"""`activity.h5`: one `Activity` as an HDF5 file, read as data from strangers.

Layout (schema version 1):
    /                       attrs: format, schema_version, network, engine, samples, steps, raster_sample
    /populations/<id>       attrs: order, neuron_updates
                            datasets: spikes_per_step, spikes_per_neuron, raster, raster_neurons
    /connections/<id>       attrs: order, events, synaptic_operations
    /accuracy/<name>        attrs: correct, total
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from deploy.activity import COMMAND, Activity, ConnectionActivity, PopulationActivity
from export.hdf5 import array, fixed_text, members, open_stranger, read_text
from train import runs
from train.errors import UserError

FORMAT = "spikeproof-activity"
SCHEMA_VERSION = 1
MAX_ELEMENTS = 1 << 26  # of one dataset


def write_activity(path: Path, activity: Activity) -> None:
    """Write `activity` to `path` atomically."""
    with runs.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=fixed_text(FORMAT),
            schema_version=SCHEMA_VERSION,
            network=fixed_text(activity.network),
            engine=fixed_text(activity.engine),
            samples=activity.samples,
            steps=activity.steps,
            raster_sample=activity.raster_sample,
        )
        for order, population in enumerate(activity.populations):
            group = file.create_group(f"populations/{population.id}")
            group.attrs.update(order=order, neuron_updates=population.neuron_updates)
            for name in ("spikes_per_step", "spikes_per_neuron", "raster_neurons", "raster"):
                group.create_dataset(name, data=getattr(population, name), compression="gzip", compression_opts=1)
        for order, connection in enumerate(activity.connections):
            file.create_group(f"connections/{connection.id}").attrs.update(
                order=order, events=connection.events, synaptic_operations=connection.synaptic_operations
            )
        for name, (correct, total) in activity.accuracy.items():
            file.create_group(f"accuracy/{name}").attrs.update(correct=correct, total=total)


def read_activity(path: Path) -> Activity:
    """Read and validate an `activity.h5`.

    Raises:
        UserError: the file is missing, not HDF5, truncated, of another schema, oversized or inconsistent.
    """
    with open_stranger(path, "an activity file", f"make it with: {COMMAND}") as file:
        return _read(file)


def _read(file: h5py.File) -> Activity:
    if "format" not in file.attrs or read_text(file.attrs, "format") != FORMAT:
        raise UserError(f"not a {FORMAT} file")
    version = int(file.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise UserError(f"schema version {version}, this program reads {SCHEMA_VERSION}", hint="simulate again")
    return Activity(
        network=read_text(file.attrs, "network"),
        engine=read_text(file.attrs, "engine"),
        samples=int(file.attrs["samples"]),
        steps=int(file.attrs["steps"]),
        raster_sample=int(file.attrs["raster_sample"]),
        populations=tuple(
            PopulationActivity(
                id=name,
                spikes_per_step=array(group, "spikes_per_step", "iu", MAX_ELEMENTS).astype(np.int64),
                spikes_per_neuron=array(group, "spikes_per_neuron", "iu", MAX_ELEMENTS).astype(np.int64),
                neuron_updates=int(group.attrs["neuron_updates"]),
                raster=array(group, "raster", "b", MAX_ELEMENTS),
                raster_neurons=array(group, "raster_neurons", "iu", MAX_ELEMENTS).astype(np.int64),
            )
            for name, group in members(file, "populations")
        ),
        connections=tuple(
            ConnectionActivity(name, int(group.attrs["events"]), int(group.attrs["synaptic_operations"]))
            for name, group in members(file, "connections")
        ),
        accuracy={
            name: (int(group.attrs["correct"]), int(group.attrs["total"])) for name, group in members(file, "accuracy")
        },
    )
