"""Several processes: `torchrun --nproc_per_node N -m train ...` or `-m sim ...`; alone where it did not start them."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import distributed

from train.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process's place: rank of `world`, and `local` rank on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and draws bars."""
        return self.rank == 0

    def total(self, value: int, device: torch.device) -> int:
        """The sum of `value` over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, device=device)
        distributed.all_reduce(tensor)
        return int(tensor)

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a scalar tensor over all processes."""
        if self.world == 1:
            return float(value)
        total = value.clone()
        distributed.all_reduce(total)
        return float(total) / self.world

    def gather(self, value: Value) -> list[Value] | None:
        """The values of all processes, in the order of their ranks, for the first process; None for the others.

        They are moved by the group's CPU backend (see `join`), pickled among processes of the same run.
        """
        if self.world == 1:
            return [value]
        values: list[Value | None] | None = [None] * self.world if self.first else None
        distributed.gather_object(value, values)
        return cast(list[Value] | None, values)


@contextlib.contextmanager
def join(cpu: bool = False) -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts; `cpu`: also where there are GPUs.

    What is made in the block must not outlive it: the group's threads end with the last object that holds the group,
    and one that frees a tensor while Python shuts down aborts the process.

    Raises:
        UserError: torchrun's environment variables are not numbers.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield Processes()
        return
    try:
        place = Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}", hint="start with torchrun"
        ) from error
    import torch.distributed.nn  # its default arguments would hold the group for ever if it were imported later

    distributed.init_process_group("nccl" if torch.cuda.is_available() and not cpu else "gloo")
    try:
        yield place
    finally:
        gc.collect()  # DistributedDataParallel holds the group in a cycle
        distributed.destroy_process_group()
