"""Training on several processes: `torchrun --nproc_per_node N -m train ...`; alone where torchrun did not start it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed

from train.errors import UserError


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


@contextlib.contextmanager
def join() -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts.

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

    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield place
    finally:
        gc.collect()  # DistributedDataParallel holds the group in a cycle
        distributed.destroy_process_group()
