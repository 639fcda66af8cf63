"""A split of event recordings: which part of which file is which sample; frames are made when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Generator, Tensor

from train.console import console
from train.data.events import Binning, Events, to_frames
from train.data.files import published_at
from train.data.frame_store import FrameStore
from train.errors import UserError


@dataclass(frozen=True)
class Clip:
    """A recording, or the part of it with start <= t < end (microseconds)."""

    path: Path
    span: tuple[int, int] | None = None


@dataclass(eq=False)
class ClipCount:
    """How many events the clip at `levels` lost so far; the first recording that loses some is named."""

    lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, lost: int, path: Path, levels: int) -> None:
        """Count `lost` events of a recording."""
        if not lost:
            return
        with self.lock:
            if not self.lost:
                console.print(f"{path}: {lost} events above {levels} per pixel and frame are clipped", markup=False)
            self.lost += lost


@dataclass(frozen=True, eq=False)
class EventSplit:
    """Recordings as uint8 [B, T, 2, H, W]; frames are made when a sample is first read, and kept where they fit.

    `clipped.lost` counts the events that the clip at the specification's levels took from the samples read so far.
    `page` publishes the recordings, for messages.
    """

    clips: Sequence[Clip]
    labels: Tensor
    reader: Callable[[Path], Events]
    binning: Binning
    store: FrameStore
    page: str = ""
    clipped: ClipCount = field(default_factory=ClipCount)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def recordings(self) -> dict[Path, list[int]]:
        """The samples that each recording holds."""
        found: dict[Path, list[int]] = {}
        for index, clip in enumerate(self.clips):
            found.setdefault(clip.path, []).append(index)
        return found

    def read(self, indices: Tensor, generator: Generator | None = None) -> Tensor:
        with published_at(self.page):
            return torch.stack([self._one(i) for i in indices.tolist()])

    def _one(self, index: int) -> Tensor:
        kept = self.store.get(index)
        if kept is not None:
            return kept
        path = self.clips[index].path
        recording = self.reader(path)
        if self.store.keeps:  # a recording of many samples is read once for all of them
            for other in self.recordings[path]:
                if other != index and self.store.get(other) is None:
                    self._frames(other, recording)
        return self._frames(index, recording)

    def _frames(self, index: int, recording: Events) -> Tensor:
        clip = self.clips[index]
        try:
            frames, lost = to_frames(recording.between(*clip.span) if clip.span else recording, self.binning)
        except UserError as error:
            raise UserError(error.what, where=str(clip.path)) from error
        if self.store.put(index, frames):
            self.clipped.add(lost, clip.path, self.binning.levels)
        return frames
