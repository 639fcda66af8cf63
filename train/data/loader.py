"""Batches of a split, read and augmented ahead of time by threads where that pays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from torch import Generator, Tensor

from train.data.batches import batch_generator, evaluation_indices, training_indices
from train.data.splits import Split

Augmentation = Callable[[Tensor, Generator], Tensor]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Batch:
    """Raw frames uint8 [B, C, H, W] or [B, T, C, H, W] and labels int64 [B], in pinned memory where asked for."""

    frames: Tensor
    labels: Tensor


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: Augmentation | None = None,
    *,
    repeats: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of an epoch, augmented; decided by (seed, epoch, rank) alone, whatever the number of workers.

    Args:
        split: the training split.
        batch_size: samples per step, of all processes together.
        seed: of the run.
        epoch: from 0.
        augmentation: (uint8 batch, generator) -> uint8 batch of the same shape.
        repeats: how often a sample comes in an epoch, see `epoch_order`.
        rank: of this process, in DistributedDataParallel.
        world: number of processes.
        workers: threads that make batches ahead of time; 0 makes each when it is asked for.
        pin: hand out pinned memory, which a GPU can fetch while it computes.

    Raises:
        UserError: a file of the data set is missing or damaged.
        ValueError: a batch size that does not divide by `world`.
    """

    def make(task: tuple[int, Tensor]) -> Batch:
        number, indices = task
        generator = batch_generator(seed, epoch, number, rank)
        frames = split.read(indices, generator)
        if augmentation is not None:
            frames = augmentation(frames, generator)
        return _batch(frames, split.labels[indices], pin)

    tasks = list(enumerate(training_indices(len(split), batch_size, seed, epoch, rank, world, repeats)))
    return ahead(make, tasks, workers)


def evaluation_batches(
    split: Split, batch_size: int, *, rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Every sample once, in order, as it is; arguments and errors as in `training_batches`."""

    def make(indices: Tensor) -> Batch:
        return _batch(split.read(indices), split.labels[indices], pin)

    return ahead(make, evaluation_indices(len(split), batch_size, rank, world), workers)


def _batch(frames: Tensor, labels: Tensor, pin: bool) -> Batch:
    return Batch(frames.pin_memory(), labels.pin_memory()) if pin else Batch(frames, labels)


def ahead(make: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """make(item) for each item, in order; `workers` threads stay at most two results each ahead of the consumer.

    Threads, not processes: decoding and tensor operations release the interpreter's lock, and nothing is copied. An
    error appears at its item; a consumer that stops early stops the threads.
    """
    if not workers:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    pending: deque[Future[Result]] = deque()
    rest = iter(items)
    try:
        for item in rest:
            pending.append(pool.submit(make, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
