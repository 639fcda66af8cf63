"""Memory of the fused operations' results: never lent twice at once, used again, and no more of it than was in use."""

from __future__ import annotations

import gc
import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train import layers
from train.kernels import buffers
from train.kernels.buffers import PAGE, Pool
from train.layers.chain import Chain

pytestmark = pytest.mark.skipif(not buffers._WORKS, reason="the pool is for Linux")
MB = 1 << 20


def rounded(x: Tensor) -> int:
    return -(-x.numel() * x.element_size() // PAGE) * PAGE


@given(steps=st.lists(st.one_of(st.integers(1, 9), st.integers(-9, -1)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_what_is_lent_is_nobody_elses(steps: list[int]) -> None:
    """Takes (so many MB) and gives back (the n-th last) in any order; every tensor keeps what was written to it."""
    pool, alive, most = Pool(), [], 0
    for number, step in enumerate(steps):
        if step > 0:
            x = pool.empty((step, MB), (MB, 1), torch.uint8)
            alive.append((number, x.fill_(number)))
            del x
        elif -step <= len(alive):
            del alive[step]
        for written, x in alive:
            assert bool((x == written).all()), "a block was lent twice"
            del x
        most = max(most, sum(rounded(x) for _, x in alive))
        assert pool.held <= buffers.SLACK * most
    alive.clear()
    pool.clear()
    assert pool.held == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_has_its_layout_and_gives_its_memory_back_with_its_last_view(dtype: torch.dtype) -> None:
    pool = Pool()
    x = pool.empty((2, 3, 64, 64), (3 * 64 * 64, 1, 3 * 64, 3), dtype)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.dtype == dtype
    assert x.untyped_storage().nbytes() == x.numel() * x.element_size()  # what torch.save writes
    address, view = x.data_ptr(), x[1, :, 1:]
    del x
    assert pool.empty((2, 3, 64, 64), (3 * 64 * 64, 1, 3 * 64, 3), dtype).data_ptr() != address, "the view still lives"
    del view
    blocks = {pool.empty((2, 3, 64, 64), (12288, 4096, 64, 1), dtype).data_ptr() for _ in range(9)}
    assert len(blocks) == 1
    assert pool.held == 2 * PAGE


def test_memory_of_other_sizes_makes_room() -> None:
    """A pool that has lent 8 MB holds no more than SLACK times that, whatever sizes come after."""
    pool = Pool()
    for size in (8, 2, 4, 6, 2, 8, 1, 3):
        pool.empty((size, MB), (MB, 1), torch.uint8).zero_()
    assert pool.held <= buffers.SLACK * 8 * MB


def test_neighbours_that_came_back_are_one() -> None:
    """As in a backward pass: the small results of the last layers make room for a large one of the first."""
    pool = Pool()
    small = [pool.empty((4, MB), (MB, 1), torch.uint8) for _ in range(4)]
    first, held = small[1].data_ptr(), pool.held
    del small[1:3]
    large = pool.empty((8, MB), (MB, 1), torch.uint8)
    assert (large.data_ptr(), pool.held) == (first, held)


def test_more_than_a_region_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "REGION", 4 * PAGE)
    pool = Pool()
    alive = [pool.empty((size, MB), (MB, 1), torch.uint8).fill_(size) for size in (6, 4, 2, 12, 8)]
    assert all(bool((x == size).all()) for x, size in zip(alive, (6, 4, 2, 12, 8), strict=True))
    assert [len(region.lent) for region in pool._regions] == [4, 4, 8, 16]
    assert pool.held == 32 * MB


def test_what_is_dropped_is_no_longer_in_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE

    pool = Pool()
    lent = [pool.empty((32, MB), (MB, 1), torch.uint8).fill_(1) for _ in range(3)]
    before = resident()
    del lent[1]
    pool.clear()
    assert pool.held == 64 * MB
    assert 28 * MB <= before - resident() <= 36 * MB
    assert all(bool((x == 1).all()) for x in lent)


def test_without_address_space_memory_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(buffers, "POOL", Pool())
    monkeypatch.setattr(buffers.mmap, "mmap", none)
    x = buffers.empty_strided((8, MB), (MB, 1), torch.uint8)
    assert (x.shape, buffers.POOL.held) == ((8, MB), 0)


def test_training_steps_use_their_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of steps are those of PyTorch's memory, and from the second step on no block is new."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(layers.Conv2d(3, 16, 3, padding=1), Chain(layers.BatchNorm2d(16), layers.LIF()))
    model.append(layers.AvgPool2d(2))
    x, found = torch.randn(4, 4, 3, 64, 64), []
    held = []
    for large in (1 << 40, 1 << 20):
        monkeypatch.setattr(buffers, "LARGE", large)
        monkeypatch.setattr(buffers, "POOL", Pool())
        for _ in range(3):
            out = model(x)
            model.zero_grad()
            (out * out).sum().backward()
            found.append([out.detach().clone(), *(p.grad.clone() for p in model.parameters())])
            del out
            gc.collect()
            held.append(buffers.POOL.held)
    for one in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, found[0], strict=True))
    assert held[:3] == [0, 0, 0]
    assert held[3] == held[4] == held[5] > 0
