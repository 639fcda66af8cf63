"""Which samples make a batch: decided by (seed, epoch) alone, and the same whatever the number of processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

SMALLEST_BATCH = 2  # batch norm needs two samples


def epoch_order(samples: int, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """The order of the samples in an epoch: int64 [samples], a permutation.

    With `repeats` R the first 1 / R of a permutation, each R times in a row: repeated augmentation, Hoffer et al. 2020.
    """
    order = torch.randperm(samples, generator=Generator().manual_seed(seed * 1_000_003 + epoch + 1))
    return order[: -(-samples // repeats)].repeat_interleave(repeats)[:samples]


def batch_generator(seed: int, epoch: int, batch: int, rank: int = 0) -> Generator:
    """The random numbers of one batch: its own stream, so that threads may make batches in any order."""
    (state,) = np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(1)
    return Generator().manual_seed(int(state))


def training_indices(
    samples: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1, repeats: int = 1
) -> list[Tensor]:
    """The batches of an epoch for process `rank` of `world`: int64 [batch_size / world] each.

    The shards of a batch, put one after the other, are the batch of a single process, so that the mean of the
    processes' gradients is its gradient. Only the last batch may be smaller; it is shortened to equal shards, and left
    out where a shard would have fewer than two samples.

    Raises:
        ValueError: a batch that does not divide by `world`, or a rank outside it.
    """
    if batch_size % world or not 0 <= rank < world:
        raise ValueError(f"batch size {batch_size} must be a multiple of the {world} processes (rank {rank})")
    shards = []
    for batch in epoch_order(samples, seed, epoch, repeats).split(batch_size):
        share = len(batch) // world
        if share >= SMALLEST_BATCH:
            shards.append(batch[rank * share : (rank + 1) * share])
    return shards


def batch_count(samples: int, batch_size: int, world: int = 1) -> int:
    """How many batches `training_indices` makes, the same for every process."""
    return samples // batch_size + (samples % batch_size // world >= SMALLEST_BATCH)


def evaluation_indices(samples: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Every sample once, in order; batch i goes to process i mod `world`."""
    return list(torch.arange(samples).split(batch_size)[rank::world])
