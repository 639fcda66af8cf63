"""Augmentation: every operation against an obvious implementation for one image; reproducible from its generator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from train import data
from train.data import augment
from train.data.augment import clips as ev
from train.data.augment import pillow
from train.data.augment import policy as aa
from train.data.augment import randaug as ra
from train.data.augment.planes import cutout, horizontal_flip, random_crop
from train.errors import UserError

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int = 0, shape: tuple[int, ...] = (3, 9, 7)) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), generator=seeded(seed), dtype=torch.uint8)


SHAPES = [(3, 9, 7), (4, 2, 9, 7)]  # an image, a clip


# ---- crop, flip, Cutout


@quick
@given(seeds, st.sampled_from(SHAPES), st.integers(0, 4))
def test_random_crop(seed: int, shape: tuple[int, ...], padding: int) -> None:
    frames = images(5, seed, shape)
    cropped = random_crop(frames, padding, seeded(seed))
    offsets = torch.randint(2 * padding + 1, (2, 5), generator=seeded(seed))
    for i in range(5):
        expected = np.zeros_like(frames[i].numpy())
        for y in range(9):
            for x in range(7):
                source_y, source_x = y + int(offsets[0, i]) - padding, x + int(offsets[1, i]) - padding
                if 0 <= source_y < 9 and 0 <= source_x < 7:
                    expected[..., y, x] = frames[i, ..., source_y, source_x].numpy()
        assert np.array_equal(cropped[i].numpy(), expected)


def test_random_crop_reaches_every_offset_and_nothing_else() -> None:
    frames = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    frames[:, :, 4, 4] = 1
    found = random_crop(frames, 4, seeded(0)).nonzero()[:, 2:]
    assert len(found) == 4000  # the middle pixel never leaves
    assert len({tuple(row) for row in found.tolist()}) == 81


@quick
@given(seeds, st.sampled_from(SHAPES))
def test_horizontal_flip(seed: int, shape: tuple[int, ...]) -> None:
    frames = images(6, seed, shape)
    draws = torch.rand(6, generator=seeded(seed))
    flipped = horizontal_flip(frames, seeded(seed))
    for i in range(6):
        expected = frames[i].numpy()[..., ::-1] if draws[i] < 0.5 else frames[i].numpy()
        assert np.array_equal(flipped[i].numpy(), expected)


@quick
@given(seeds, st.sampled_from([(3, 9, 7), (4, 3, 9, 7)]), st.integers(1, 12))
def test_cutout(seed: int, shape: tuple[int, ...], length: int) -> None:
    frames = images(5, seed, shape)
    generator = seeded(seed)
    ys = torch.randint(9, (5, 1), generator=generator).flatten().tolist()
    xs = torch.randint(7, (5, 1), generator=generator).flatten().tolist()
    holed = cutout(frames, length, (10, 20, 30), seeded(seed))
    for i, (y, x) in enumerate(zip(ys, xs, strict=True)):
        expected = frames[i].numpy().copy()
        top, left = y - length // 2, x - length // 2
        for channel, fill in enumerate((10, 20, 30)):
            expected[..., channel, max(top, 0) : max(top + length, 0), max(left, 0) : max(left + length, 0)] = fill
        assert np.array_equal(holed[i].numpy(), expected)


# ---- AutoAugment


def test_policy_is_well_formed() -> None:
    assert len(aa.POLICY) == 25
    for pair in aa.POLICY:
        for name, probability, magnitude in pair:
            assert name in pillow.OPERATIONS
            assert 0 <= probability <= 1
            assert 0 <= magnitude <= 9


def apply(name: str, pixels: np.ndarray, size: float, side: int = 1) -> np.ndarray:
    return np.asarray(pillow.OPERATIONS[name](Image.fromarray(pixels), size, side)).astype(int)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 220, (32, 32, 3), np.uint8)


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("magnitude", range(10))
def test_point_operations(pixels: np.ndarray, magnitude: int) -> None:
    size, values = magnitude / 9, pixels.astype(int)
    assert np.array_equal(apply("Invert", pixels, size), 255 - values)
    threshold = round(256 * (1 - size))
    assert np.array_equal(apply("Solarize", pixels, size), np.where(values < threshold, values, 255 - values))
    bits = round(8 - 4 * size)
    assert np.array_equal(apply("Posterize", pixels, size), values >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("magnitude", range(10))
def test_enhancements(pixels: np.ndarray, magnitude: int, side: int) -> None:
    factor = 1 + 0.9 * magnitude / 9 * side
    grey = {
        "Brightness": np.zeros(pixels.shape),
        "Contrast": np.full(pixels.shape, round(float(luma(pixels).mean()))),
        "Color": np.repeat(luma(pixels)[:, :, None], 3, axis=2),
    }
    for name, base in grey.items():
        expected = np.clip(base + factor * (pixels - base), 0, 255)
        assert np.abs(apply(name, pixels, magnitude / 9, side) - expected).max() <= 2, name
    smooth = pixels.astype(float)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    for y in range(1, 31):
        for x in range(1, 31):
            smooth[y, x] = (pixels[y - 1 : y + 2, x - 1 : x + 2] * kernel[:, :, None]).sum((0, 1))
    expected = np.clip(smooth + factor * (pixels - smooth), 0, 255)
    assert np.abs(apply("Sharpness", pixels, magnitude / 9, side) - expected).max() <= 2


def test_histogram_operations(pixels: np.ndarray) -> None:
    stretched, equal = apply("AutoContrast", pixels, 0), apply("Equalize", pixels, 0)
    for c in range(3):
        channel = pixels[:, :, c].astype(int)
        low, high = channel.min(), channel.max()
        assert np.abs(stretched[:, :, c] - (channel - low) * 255 / (high - low)).max() <= 1
        below = np.array([(channel < v).sum() for v in range(256)])[channel]
        step = (channel.size - (channel == high).sum()) // 255
        assert np.abs(equal[:, :, c] - np.minimum((below + step // 2) // step, 255)).max() == 0


@pytest.mark.parametrize("magnitude", range(10))
@pytest.mark.parametrize("side", [1, -1])
def test_geometry(pixels: np.ndarray, magnitude: int, side: int) -> None:
    """Pixel centres are at half integers; a source outside the image is grey; between pixels, bilinear."""
    size = magnitude / 9
    shift, shear, angle = round(150 / 331 * 32 * size) * side, 0.3 * size * side, math.radians(30 * size * side)
    sources = {
        "TranslateX": lambda x, y: (x + shift, y),
        "TranslateY": lambda x, y: (x, y + shift),
        "ShearX": lambda x, y: (x + shear * y, y),
        "ShearY": lambda x, y: (x, y + shear * x),
        "Rotate": lambda x, y: (
            16 + math.cos(angle) * (x - 16) - math.sin(angle) * (y - 16),
            16 + math.sin(angle) * (x - 16) + math.cos(angle) * (y - 16),
        ),
    }
    for name, source in sources.items():
        result = apply(name, pixels, size, side)
        for y in range(32):
            for x in range(32):
                sx, sy = source(x + 0.5, y + 0.5)
                if min(sx, sy) < 1e-6 or max(sx, sy) > 32 - 1e-6:
                    if min(sx, sy) < -1e-6 or max(sx, sy) > 32 + 1e-6:
                        assert (result[y, x] == pillow.GREY).all(), (name, x, y)
                    continue
                assert np.abs(result[y, x] - bilinear(pixels, sx - 0.5, sy - 0.5)).max() <= 1.01, (name, x, y)


def bilinear(pixels: np.ndarray, x: float, y: float) -> np.ndarray:
    left, top = math.floor(x), math.floor(y)
    value = np.zeros(3)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = min(max(top + dy, 0), 31), min(max(left + dx, 0), 31)
            value += (1 - abs(y - top - dy)) * (1 - abs(x - left - dx)) * pixels[row, column]
    return value


def test_autoaugment_is_its_policy_image_by_image() -> None:
    frames = images(200, 1, (3, 32, 32))
    changed = aa.autoaugment(frames, seeded(7))
    generator = seeded(7)
    pairs = torch.randint(25, (200,), generator=generator)
    draws = torch.rand(200, 2, 2, generator=generator)
    for i in range(200):
        image = Image.fromarray(frames[i].permute(1, 2, 0).numpy())
        for k, (name, probability, magnitude) in enumerate(aa.POLICY[int(pairs[i])]):
            if draws[i, k, 0] < probability:
                image = pillow.OPERATIONS[name](image, magnitude / 9, 1 if draws[i, k, 1] < 0.5 else -1)
        assert np.array_equal(changed[i].permute(1, 2, 0).numpy(), np.asarray(image))
    assert aa.autoaugment(images(60, 1, (1, 28, 28)), seeded(3)).shape == (60, 1, 28, 28)


# ---- RandAugment


def test_randaugment_is_two_operations_at_the_drawn_magnitudes() -> None:
    frames = images(300, 1, (3, 24, 20))
    changed = ra.randaugment(frames, seeded(7))
    generator = seeded(7)
    chosen = torch.randint(15, (300, 2), generator=generator)
    draws = torch.rand(300, 2, 2, generator=generator)
    magnitudes = (5 + 0.5 * torch.randn(300, 2, generator=generator)).clamp(0, 10)
    assert len(ra.STRENGTHENING) == 15
    assert set(chosen.flatten().tolist()) == set(range(15))
    for i in range(300):
        image = Image.fromarray(frames[i].permute(1, 2, 0).numpy())
        for k in range(2):
            if draws[i, k, 0] < 0.5:
                operation = list(ra.STRENGTHENING.values())[int(chosen[i, k])]
                image = operation(image, float(magnitudes[i, k] / 10), 1 if draws[i, k, 1] < 0.5 else -1)
        assert np.array_equal(changed[i].permute(1, 2, 0).numpy(), np.asarray(image)), i
    assert ra.randaugment(images(60, 1, (1, 28, 28)), seeded(3)).shape == (60, 1, 28, 28)


@quick
@given(seeds, st.floats(0, 1))
def test_operations_that_autoaugment_does_not_have(seed: int, size: float) -> None:
    pixels = images(1, seed, (3, 20, 20))[0].permute(1, 2, 0).numpy().astype(np.uint8)

    def changed(name: str, side: int = 1) -> np.ndarray:
        return np.asarray(ra.STRENGTHENING[name](Image.fromarray(pixels), size, side)).astype(int)

    bits = max(1, 4 - int(4 * size))
    assert np.array_equal(changed("Posterize"), pixels >> (8 - bits) << (8 - bits))
    lifted = np.minimum(pixels.astype(int) + int(110 * size), 255)
    assert np.array_equal(changed("SolarizeAdd"), np.where(pixels < 128, lifted, pixels))
    gone = round(9 * size - 0.5)  # whole columns that leave, of 0.45 * 20 * size
    assert (changed("TranslateX")[:, 20 - gone :] == pillow.GREY).all()
    assert (changed("TranslateY", -1)[:gone] == pillow.GREY).all()


# ---- clips


@quick
@given(seeds, st.integers(0, 8))
def test_roll(seed: int, limit: int) -> None:
    frames = images(4, seed, (2, 2, 9, 7))
    dy, dx = torch.randint(-limit, limit + 1, (2, 4, 1), generator=seeded(seed))
    rolled = ev.roll(frames, limit, seeded(seed))
    for i in range(4):
        expected = np.roll(frames[i].numpy(), (int(dy[i]), int(dx[i])), (-2, -1))
        assert np.array_equal(rolled[i].numpy(), expected)


@quick
@given(seeds, st.integers(1, 6))
def test_time_crop(seed: int, steps: int) -> None:
    frames = images(5, seed, (6, 2, 3, 3))
    starts = torch.randint(6 - steps + 1, (5, 1), generator=seeded(seed)).flatten().tolist()
    cropped = ev.time_crop(frames, steps, seeded(seed))
    for i, start in enumerate(starts):
        assert torch.equal(cropped[i], frames[i, start : start + steps])


def test_time_crop_needs_enough_frames() -> None:
    with pytest.raises(ValueError, match="7 of 6 frames"):
        ev.time_crop(images(1, 0, (6, 2, 3, 3)), 7, seeded(0))


@quick
@given(seeds)
@example(7758)
def test_snn_augment_wide(seed: int) -> None:
    frames = images(8, seed, (2, 2, 12, 10))
    generator = seeded(seed)
    operation = torch.randint(6, (8,), generator=generator).tolist()
    size = (2 * torch.rand(8, generator=generator) - 1).tolist()
    pixels = torch.randint(-5, 6, (8,), generator=generator).tolist()
    holes = ev.erased(8, 12, 10, generator).numpy()
    changed = ev.snn_augment_wide(frames, seeded(seed)).numpy()
    for i in range(8):
        clip = frames[i].numpy()
        if operation[i] == ev.IDENTITY:
            expected = clip
        elif operation[i] == ev.CUTOUT:
            expected = np.where(holes[i], 0, clip)
        elif operation[i] == ev.TRANSLATE_X:
            expected = shifted(clip, 0, pixels[i])
        elif operation[i] == ev.TRANSLATE_Y:
            expected = shifted(clip, pixels[i], 0)
        else:
            shear, angle = size[i] * 0.3, size[i] * math.radians(30)
            turn = operation[i] == ev.ROTATION
            expected, doubtful = resampled(clip, 0.0 if turn else shear, angle if turn else 0.0)
            assert np.array_equal(changed[i][..., ~doubtful], expected[..., ~doubtful])
            assert (changed[i] != expected).any((0, 1)).sum() <= 12  # of 120 between two pixels to within rounding
            continue
        assert np.array_equal(changed[i], expected)


def shifted(clip: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(clip)
    height, width = clip.shape[-2:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[..., y, x] = clip[..., y - down, x - right]
    return result


def resampled(clip: np.ndarray, shear: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The clip sheared in x and turned about its centre, nearest pixel; and where rounding decides."""
    height, width = clip.shape[-2:]
    result, doubtful = np.zeros_like(clip), np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            y, x = row - (height - 1) / 2, column - (width - 1) / 2
            source_y = math.cos(angle) * y - math.sin(angle) * x + (height - 1) / 2
            source_x = math.cos(angle) * x + (math.sin(angle) + shear) * y + (width - 1) / 2
            doubtful[row, column] = any(abs(v + 0.5 - round(v + 0.5)) < 1e-4 for v in (source_y, source_x))
            near_y, near_x = math.floor(source_y + 0.5), math.floor(source_x + 0.5)
            if 0 <= near_y < height and 0 <= near_x < width:
                result[..., row, column] = clip[..., near_y, near_x]
    return result, doubtful


def test_erased_areas() -> None:
    holes = ev.erased(3000, 64, 64, seeded(0))
    shares = holes.float().mean((1, 2))
    assert 0.0005 < float(shares.min()) < 0.003
    assert 0.1 < float(shares.max()) < 0.115
    assert float(shares.mean()) == pytest.approx(0.0555, abs=0.003)
    for hole in holes[:100]:
        y, x = hole.nonzero(as_tuple=True)
        assert int(hole.sum()) == (int(y.max() - y.min()) + 1) * (int(x.max() - x.min()) + 1)


# ---- mixup, CutMix


def test_mixing_leaves_a_part_of_the_batches() -> None:
    mix = augment.mixing(0.2, 1.0, 0.6)
    assert mix is not None
    frames, labels = images(6, 1), torch.arange(6) % 3
    found = [mix(frames, labels, 3, seeded(s)) for s in range(500)]
    kept = [m for m in found if torch.equal(m.targets, torch.eye(3)[labels]) and torch.equal(m.frames, frames)]
    assert 150 < len(kept) < 260  # 40 %, and mixtures that happen to be the batch


@quick
@given(seeds, st.sampled_from(SHAPES))
def test_mixup(seed: int, shape: tuple[int, ...]) -> None:
    frames, labels = images(6, seed, shape), torch.arange(6) % 4
    mixed = augment.mixup(frames, labels, 4, 0.5, seeded(seed))
    assert torch.allclose(mixed.targets.sum(1), torch.ones(6))
    generator = seeded(seed)
    share = float(np.random.default_rng(int(torch.randint(2**31, (), generator=generator))).beta(0.5, 0.5))
    partner = torch.randperm(6, generator=generator)
    for i in range(6):
        j = int(partner[i])
        expected = share * frames[i].double() + (1 - share) * frames[j].double()
        assert torch.allclose(mixed.frames[i].double(), expected, atol=1e-3)
        target = torch.zeros(4)
        target[labels[i]] += share
        target[labels[j]] += 1 - share
        assert torch.allclose(mixed.targets[i], target, atol=1e-6)


@quick
@given(seeds, st.sampled_from(SHAPES))
def test_cutmix_labels_are_the_share_of_pixels(seed: int, shape: tuple[int, ...]) -> None:
    classes = 6
    frames = torch.arange(classes, dtype=torch.uint8).view(-1, *[1] * len(shape)).expand(classes, *shape)
    mixed = augment.cutmix(frames, torch.arange(classes), classes, 1.0, seeded(seed))
    assert mixed.frames.dtype == torch.uint8
    for i in range(classes):  # each frame is filled with its class, so pixels count classes
        share = torch.bincount(mixed.frames[i].flatten().long(), minlength=classes) / mixed.frames[i].numel()
        assert torch.allclose(mixed.targets[i], share, atol=1e-6)


# ---- recipes


def test_events_recipe_keeps_successive_frames_in_order() -> None:
    """Frames that hold their own number: after the crop in time they still follow each other, empty ones around."""
    clips = torch.arange(1, 9, dtype=torch.uint8).view(1, 8, 1, 1, 1).expand(64, 8, 2, 32, 32)
    cropped = augment.recipe("events", data.spec("cifar10-dvs"))(clips, seeded(3))
    starts = set()
    for clip in cropped.amax((2, 3, 4)).tolist():
        seen = [number for number in clip if number]
        assert seen == list(range(seen[0], seen[0] + len(seen)))
        starts.add(clip[0])
    assert starts == {0, 1, 2}  # one empty frame before, none, or one after


@pytest.mark.parametrize("name", augment.RECIPES)
def test_recipes_keep_shape_and_type_and_follow_their_generator(name: str) -> None:
    spec = data.spec("cifar10-dvs" if name in ("roll", "events", "snn-augment-wide") else "cifar10")
    frames = images(32, 0, (3, *spec.shape) if spec.has_time else spec.shape)
    before = frames.clone()
    apply = augment.recipe(name, spec)
    first, again, other = (apply(frames, seeded(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.shape == frames.shape
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "none")
    assert torch.equal(frames, before)


def test_recipes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown augmentation 'x'.*crop-flip"):
        augment.recipe("x", data.spec("cifar10"))
    for name, dataset in (("autoaugment", "n-mnist"), ("autoaugment", "digits"), ("roll", "cifar10")):
        with pytest.raises(UserError, match=name):
            augment.recipe(name, data.spec(dataset))
