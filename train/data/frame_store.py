"""Frames that were made once: an event recording takes up to a second to bin, its frames a few hundred kilobytes."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

KEEP_BYTES = 4 << 30  # the largest published set, CIFAR10-DVS at T = 10, takes 0.8 GB


class FrameStore:
    """Room for the frames of N samples, uint8 [N, *shape], where they fit into `limit` bytes; else it keeps nothing.

    Safe for several threads. Memory is taken as samples arrive.
    """

    def __init__(self, samples: int, shape: tuple[int, ...], limit: int = KEEP_BYTES) -> None:
        self.keeps = samples * torch.Size(shape).numel() <= limit
        self._frames = torch.empty((samples if self.keeps else 0, *shape), dtype=torch.uint8)
        self._there = [False] * samples
        self._lock = threading.Lock()

    def get(self, index: int) -> Tensor | None:
        """The frames of a sample, where they are kept."""
        return self._frames[index] if self.keeps and self._there[index] else None

    def put(self, index: int, frames: Tensor) -> bool:
        """Keep the frames of a sample; whether it is the first time that they come."""
        with self._lock:
            new = not self._there[index]
            if new and self.keeps:
                self._frames[index] = frames
            self._there[index] = True
            return new
