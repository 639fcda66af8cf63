"""Compiled functions that are kept on disk: found again, told apart, and never in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from train.kernels import kept, tiles
from train.surrogate import ATan, Rectangle, Surrogate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Numba keeps what is compiled."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def adding(number: int) -> Callable[[int], int]:
    """A closure over a compiled function, which Numba's own cache would never find again."""

    def own(x: int) -> int:
        return x + number

    inner = kept.inline(own)

    def add(x: int) -> int:
        return inner(x)

    return add


def calls(function: Any) -> tuple[int, int]:
    """How often it was loaded, and how often compiled."""
    return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())


def test_the_next_process_loads_what_one_compiled(folder: Path) -> None:
    first, second = kept.kept(adding(3), 3), kept.kept(adding(3), 3)
    assert (first(4), calls(first)) == (7, (0, 1))
    assert (second(4), calls(second)) == (7, (1, 0))


def test_variants_are_told_apart(folder: Path) -> None:
    assert [kept.kept(adding(n), n)(4) for n in (3, 5)] == [7, 9]


def test_a_variant_that_says_too_little_gives_the_first_for_the_second(folder: Path) -> None:
    assert [kept.kept(adding(n))(4) for n in (3, 5)] == [7, 7]


def test_other_sources_are_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.kept(adding(3), 3)(4)
    monkeypatch.setattr(kept, "_sources", lambda: "another text")
    later = kept.kept(adding(3), 3)
    assert (later(4), calls(later)) == (7, (0, 1))


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"no pickle"])
def test_damaged_files_are_made_anew(folder: Path, ending: str, damage: bytes) -> None:
    kept.kept(adding(3), 3)(4)
    files = list(folder.rglob(f"*.{ending}"))
    assert files
    for file in files:
        file.write_bytes(damage)
    damaged, later = kept.kept(adding(3), 3), kept.kept(adding(3), 3)
    assert (damaged(4), calls(damaged)) == (7, (0, 1))
    assert (later(4), calls(later)) == (7, (1, 0))


def test_a_full_disk_is_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._open_for_write", full)
    assert kept.kept(adding(3), 3)(4) == 7


def test_without_a_folder_it_is_compiled_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {}
    exec("def add(x): return x + 3", namespace)  # no file, so no folder
    function = kept.kept(namespace["add"])
    assert (function(4), function.stats.cache_path) == (7, None)


def runs(kernels: tiles.Kernels) -> list[Any]:
    """Spikes, gradients and sums of 3 steps of 128 neurons."""
    noise = np.random.default_rng(0)
    x, gradient = noise.normal(1, 1, (2, 3, 128)).astype(np.float32)
    leak, gain, bias = (np.full((1, 64), value, np.float32) for value in (0.5, 1.0, 0.25))
    spikes, x_gradient, sums = np.empty_like(x), np.empty_like(x), np.zeros((3, 1, 1, 64))
    kernels.forward(0, 1, 128, x, spikes, leak, gain, bias)
    wanted, centre = np.ones(3, np.bool_), np.zeros((1, 64), np.float32)
    kernels.backward(0, 1, 128, gradient, x, x_gradient, leak, gain, bias, centre, x, sums, wanted)
    return [spikes, x_gradient, sums]


def test_loaded_kernels_of_the_neuron_compute_what_compiled_ones_do(folder: Path) -> None:
    build = tiles.build.__wrapped__
    first, second = (build(ATan(), 1.0, np.float32, False, True) for _ in range(2))
    expected, found = runs(first), runs(second)
    assert [calls(x) for x in (first.forward, second.forward)] == [(0, 1), (1, 0)]
    assert [calls(x) for x in (first.backward, second.backward)] == [(0, 1), (1, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert expected[0].any()


def test_every_choice_of_the_neuron_is_in_the_variant_of_its_kernels() -> None:
    def variants(surrogate: Surrogate | None, *others: Any) -> tuple[str, ...]:
        kernels = tiles.build(surrogate, *others)
        return tuple(x._cache._variant for x in (kernels.forward, kernels.potentials, kernels.backward))

    plain = variants(ATan(), 1.0, np.float32, False, True)
    for other in (
        variants(ATan(), 0.5, np.float32, False, True),
        variants(ATan(), 1.0, np.float64, False, True),
        variants(ATan(), 1.0, np.float32, True, True),
    ):
        assert not set(plain) & set(other)
    for other in (
        variants(Rectangle(), 1.0, np.float32, False, True),
        variants(ATan(alpha=3.0), 1.0, np.float32, False, True),
        variants(None, 1.0, np.float32, False, True),
        variants(ATan(), 1.0, np.float32, False, False),
    ):
        assert plain[:2] == other[:2]  # one forward for all surrogates
        assert plain[2] != other[2]
