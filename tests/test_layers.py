"""Layers against slow, obvious loops that share no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train import layers
from train.layers import NeuronSpec, TemporalShift, make
from train.layers.fsta import dct_kernels
from train.surrogate import ATan, Rectangle, Sigmoid, Surrogate, TanhWindow, Triangle, by_name

T, B, C, H, W = 3, 2, 5, 4, 6


def current(seed: int = 0, shape: tuple[int, ...] = (T, B, C, H, W)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x)))


def randomise(module: nn.Module, seed: int = 1) -> None:
    """Parameters that start at zero or one hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)


def integrate(x: np.ndarray, leak: np.ndarray | float, gain: np.ndarray | float, threshold: float) -> np.ndarray:
    """Leaky integrate-and-fire with hard reset, one value at a time; leak and gain per channel or single."""
    leaks, gains = np.broadcast_to(leak, x.shape[2:3]), np.broadcast_to(gain, x.shape[2:3])
    spikes = np.zeros_like(x)
    for b, c, *place in np.ndindex(*x.shape[1:]):
        kept = 0.0
        for t in range(len(x)):
            at = (t, b, c, *place)
            potential = leaks[c] * kept + gains[c] * x[at]
            spikes[at] = 1.0 if potential > threshold else 0.0
            kept = 0.0 if spikes[at] else potential
    return spikes


# --- surrogates ---------------------------------------------------------------------------------------------------


def tanh_primitive(v: float, threshold: float, k: float) -> float:
    u = min(max(v / (2 * threshold), 0.0), 1.0)
    return (math.tanh(k * (u - 0.5)) + math.tanh(k / 2)) / (2 * math.tanh(k / 2))


def triangle_primitive(v: float, threshold: float, width: float) -> float:
    u = min(max((v - threshold) / width, -1.0), 1.0)
    return (1 + u) ** 2 / 2 if u <= 0 else 1 - (1 - u) ** 2 / 2


PRIMITIVES = {
    "tanh 3": (TanhWindow(), lambda v, th: tanh_primitive(v, th, 3)),
    "tanh 1": (TanhWindow(1.0), lambda v, th: tanh_primitive(v, th, 1)),
    "rectangle": (Rectangle(), lambda v, th: min(max(v - th + 0.5, 0.0), 1.0)),
    "rectangle 0.4": (Rectangle(0.4), lambda v, th: min(max((v - th) / 0.4 + 0.5, 0.0), 1.0)),
    "triangle": (Triangle(), lambda v, th: triangle_primitive(v, th, 1)),
    "triangle 2": (Triangle(2.0), lambda v, th: triangle_primitive(v, th, 2)),
    "sigmoid": (Sigmoid(), lambda v, th: 1 / (1 + math.exp(-4 * (v - th)))),
    "atan": (ATan(), lambda v, th: math.atan(math.pi * (v - th)) / math.pi + 0.5),
}


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_surrogate_is_the_derivative_of_its_primitive(name: str, threshold: float) -> None:
    surrogate, primitive = PRIMITIVES[name]
    v = torch.linspace(-3.0, 4.0, 701, dtype=torch.float64) + 0.0037  # off the kinks
    step = 1e-6
    numeric = [(primitive(x + step, threshold) - primitive(x - step, threshold)) / (2 * step) for x in v.tolist()]
    np.testing.assert_allclose(array(surrogate.derivative(v, threshold)), numeric, atol=1e-6)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_surrogate_integrates_to_one(name: str) -> None:
    surrogate, _ = PRIMITIVES[name]
    reach = 3000.0 if name == "atan" else 20.0
    v = torch.arange(-reach, reach, 0.001, dtype=torch.float64) + 0.0005
    assert float(surrogate.derivative(v, 0.5).sum()) * 0.001 == pytest.approx(1.0, abs=2e-3 if name == "atan" else 1e-4)


def test_surrogate_auto_follows_the_paper_of_the_attention() -> None:
    assert by_name("auto", "none") == TanhWindow(3.0)
    assert by_name("auto", "fsta") == TanhWindow(1.0)
    assert by_name("auto", "staa") == Rectangle(1.0)
    assert by_name("sigmoid", "fsta") == Sigmoid(4.0)


# --- neurons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("name", ["lif", "plif", "da-lif", "adaptive-lif", "if"])
def test_neurons_equal_the_loop(name: str, threshold: float, per_channel: bool) -> None:
    neuron = make(NeuronSpec(name, threshold=threshold, per_channel=per_channel), C)
    randomise(neuron)
    p = {key: array(value) for key, value in neuron.named_parameters()}
    leak, gain = {
        "lif": lambda: (0.25, 1.0),
        "if": lambda: (1.0, 1.0),
        "plif": lambda: (sigmoid(p["w"]), 1.0),
        "da-lif": lambda: (np.tanh(p["tau_b"]), np.tanh(p["tau_a"])),
        "adaptive-lif": lambda: (p["m"], p["n"]),
    }[name]()
    x = 4 * current()
    spikes = neuron.double()(x.double())
    np.testing.assert_array_equal(array(spikes), integrate(array(x), leak, gain, threshold))
    assert 0.05 < spikes.mean().item() < 0.95  # no test of silence


def test_initial_leaks_and_gains() -> None:
    tolerance = {"rel": 1e-6}
    assert layers.PLIF().leak.item() == pytest.approx(0.25, **tolerance)
    pair = layers.DALIF()
    assert pair.leak.item() == pytest.approx(0.25, **tolerance)
    assert pair.gain.item() == pytest.approx(math.tanh(1.0), **tolerance)
    adaptive = layers.AdaptiveLIF(4)
    assert adaptive.leak.tolist() == [0.25] * 4
    assert adaptive.gain.tolist() == [1.0] * 4


@pytest.mark.parametrize("name", ["plif", "da-lif", "adaptive-lif"])
def test_learnable_neurons_learn_and_escape_weight_decay(name: str) -> None:
    neuron = make(NeuronSpec(name), C)
    neuron(current()).sum().backward()
    for parameter in neuron.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        assert parameter.ndim <= 1  # the trainer decays only what has more axes


def test_relu_has_no_attention() -> None:
    assert torch.equal(make(NeuronSpec("relu"), C)(current()), current().clamp(min=0))
    with pytest.raises(ValueError, match="needs a spiking neuron"):
        NeuronSpec("relu", "fsta")


@pytest.mark.parametrize("name", ["lif", "da-lif", "adaptive-lif"])
def test_recurrent_equals_the_loop(name: str) -> None:
    layer = layers.Recurrent(layers.make_neuron(NeuronSpec(name), 6), 6).double()
    randomise(layer)
    x = 1.5 * current(shape=(5, 2, 6)).double()
    leak, gain = (np.broadcast_to(array(torch.as_tensor(v)), 6) for v in (
        layer.neuron.leak, getattr(layer.neuron, "gain", 1.0)))  # fmt: skip
    weight, values = array(layer.weight), array(x)
    expected = np.zeros_like(values)
    for b in range(2):
        kept, fired = np.zeros(6), np.zeros(6)
        for t in range(5):
            potential = leak * kept + gain * (values[t, b] + weight @ fired)
            fired = (potential > 0.5).astype(float)
            kept = np.where(fired > 0, 0.0, potential)
            expected[t, b] = fired
    np.testing.assert_array_equal(array(layer(x)), expected)


def test_recurrent_without_recurrence_has_the_gradient_of_the_plain_neuron() -> None:
    x, y = (current(shape=(4, 2, 3)).requires_grad_() for _ in range(2))
    layer = layers.Recurrent(layers.LIF(), 3)
    nn.init.zeros_(layer.weight)
    weights = current(5, (4, 2, 3))
    (layer(x) * weights).sum().backward()
    (layers.LIF()(y) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


# --- temporal shift -----------------------------------------------------------------------------------------------


def shifted(x: np.ndarray, alpha: float, first: int, second: int) -> np.ndarray:
    out = np.zeros_like(x)
    for t, _, c in np.ndindex(*x.shape[:3]):
        source = t + 1 if c < first else t - 1 if c < second else t
        z = x[source, :, c] if 0 <= source < len(x) else 0.0
        out[t, :, c] = x[t, :, c] + alpha * z
    return out


@pytest.mark.parametrize(("channels", "first", "second"), [(32, 11, 21), (64, 22, 42), (5, 2, 3), (48, 16, 31)])
def test_temporal_shift_equals_the_loop(channels: int, first: int, second: int) -> None:
    x = current(shape=(4, 2, channels, 2, 2))
    layer = TemporalShift(channels).eval()
    np.testing.assert_allclose(array(layer(x)), shifted(array(x), 0.5, first, second), atol=1e-6)
    assert layer.alpha.shape == ()


def test_temporal_shift_without_alpha_is_the_identity() -> None:
    assert torch.equal(TemporalShift(C, alpha=0.0)(current()), current())


def test_random_split_is_drawn_while_training_only() -> None:
    layer = TemporalShift(32)
    x = current(shape=(3, 1, 32, 1, 1))
    assert len({tuple(layer(x).flatten().tolist()) for _ in range(20)}) > 10
    fixed = TemporalShift(32, split="fixed")
    assert torch.equal(fixed(x), layer.eval()(x))


def test_random_splits_are_uniform_over_all_pairs() -> None:
    layer = TemporalShift(4)
    seen = {(s.future, s.past) for s in (layer._random_split() for _ in range(200))}
    assert seen == {(1, 2), (1, 3), (2, 3)}


# --- STAA-SNN -----------------------------------------------------------------------------------------------------


def context_gate(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """The gate [C] of one step of one sample, x [C, H, W]."""
    score = np.array([[sum(p["key"][c] * x[c, i, j] for c in range(C)) for j in range(W)] for i in range(H)])
    attention = np.exp(score) / np.exp(score).sum()
    context = np.array([(attention * x[c]).sum() for c in range(C)])
    hidden = p["squeeze"] @ context + p["squeeze_bias"]
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
    return sigmoid(p["excite"] @ np.maximum(hidden, 0) + p["excite_bias"])


def parameters(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: array(value) for name, value in module.named_parameters()}


def staa(attended: layers.STAANeuron, x: np.ndarray, kept: list[bool]) -> np.ndarray:
    """The four parts in the paper's order, step by step."""
    p = {part: parameters(getattr(attended, part)) for part in ("position", "context", "step")}
    enriched = x.copy()
    for t in range(T):
        for b in range(B):
            if kept[t]:
                coded = x[t, b] + p["position"]["code"][t, 0]
                enriched[t, b] = coded * context_gate(coded, p["context"])[:, None, None]
    spikes = integrate(enriched, 0.25, 1.0, 0.5)
    out = spikes.copy()
    for b in range(B):
        hidden = np.maximum(p["step"]["squeeze"] @ spikes[:, b].mean((1, 2, 3)) + p["step"]["squeeze_bias"], 0)
        gate = sigmoid(p["step"]["excite"] @ hidden + p["step"]["excite_bias"])
        for t in range(T):
            if kept[t]:
                out[t, b] *= gate[t]
    return out


def test_staa_equals_the_loop() -> None:
    layer = make(NeuronSpec("lif", "staa", steps=T), C).double().eval()
    randomise(layer)
    x = 3 * current().double()
    out = array(layer(x))
    np.testing.assert_allclose(out, staa(layer, array(x), [True] * T), atol=1e-12)
    assert 0 < out.mean() < 1


def test_staa_dropout_skips_whole_steps_of_the_whole_batch() -> None:
    layer = make(NeuronSpec("lif", "staa", steps=T), C).double().train()
    randomise(layer)
    layer.drop = 0.5
    x = 3 * current().double()
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        kept = (torch.rand(T) >= 0.5).tolist()
        torch.manual_seed(seed)
        np.testing.assert_allclose(array(layer(x)), staa(layer, array(x), kept), atol=1e-12)
        seen.add(tuple(kept))
    assert len(seen) > 3


def test_staa_initial_values_and_defaults() -> None:
    layer = make(NeuronSpec("adaptive-lif", "staa", steps=T), 64)
    assert layer.position.code.shape == (T, 1, 64, 1, 1)
    assert not layer.position.code.any()
    assert layer.context.squeeze.shape == (16, 64)
    assert layer.drop == 0.1


# --- FSTA-SNN -----------------------------------------------------------------------------------------------------


def test_dct_kernels_are_the_orthonormal_basis() -> None:
    kernels = array(dct_kernels())
    for k, u, v in [(0, 0, 0), (3, 3, 0), (34, 6, 4), (48, 6, 6)]:
        for i, j in np.ndindex(7, 7):
            scale = math.sqrt((1 if u == 0 else 2) / 7) * math.sqrt((1 if v == 0 else 2) / 7)
            value = math.cos((2 * i + 1) * u * math.pi / 14) * math.cos((2 * j + 1) * v * math.pi / 14)
            assert kernels[k, i, j] == pytest.approx(scale * value, abs=1e-6)
    flat = kernels.reshape(49, 49)
    np.testing.assert_allclose(flat @ flat.T, np.eye(49), atol=1e-6)


def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(image, 3)
    return np.array(
        [[(padded[i : i + 7, j : j + 7] * kernel).sum() for j in range(image.shape[1])] for i in range(image.shape[0])]
    )


def fsta(x: np.ndarray, p: dict[str, np.ndarray], kernels: np.ndarray) -> np.ndarray:
    """The ten published steps, literally: every kernel on every channel, gates on full tensors."""
    pooled = p["alpha"] * x.mean((3, 4)) + p["beta"] * x.max((3, 4))
    mixed = np.stack([[p["temporal"] @ pooled[:, b, c] for c in range(C)] for b in range(B)])
    g_t = sigmoid(mixed.mean(1))
    x_t = np.stack([[x[t, b] * (1 + g_t[b, t]) for b in range(B)] for t in range(T)])
    u = x_t.mean(0)
    out = np.zeros_like(x)
    for b in range(B):
        response = np.zeros((H, W))
        for k in range(49):
            response += correlate(sum(correlate(u[b, c], kernels[k]) for c in range(C)), p["spatial"][0, k])
        x_s = x_t[:, b] * (1 + sigmoid(response))
        out[:, b] = (p["t"] * x_t[:, b] + p["s"] * x_s) / 2
    return out


def test_fsta_equals_the_published_steps() -> None:
    layer = layers.FSTA(T)
    randomise(layer)
    with torch.no_grad():
        layer.spatial /= 50  # else every gate is closed or open
    x = current()
    expected = fsta(array(x), parameters(layer), array(dct_kernels()))
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-4, atol=1e-5)
    g_t, g_s = layer.gates(x)
    assert g_t.shape == (T, B)
    assert g_s.shape == (B, H, W)
    assert 0.05 < g_s.mean().item() < 0.95


def test_fsta_initial_values_and_size() -> None:
    layer = layers.FSTA(4)
    scalars = {name: getattr(layer, name).item() for name in ("alpha", "beta", "t", "s")}
    assert scalars == pytest.approx({"alpha": 0.5, "beta": 0.5, "t": 0.6, "s": 0.5})
    used = sum(parameter.numel() for parameter in layer.parameters())
    assert used == 16 + 2401 + 4  # the official code registers three more scalars that it never uses
    assert layer.spatial.abs().max() <= 2401**-0.5
    assert "dct" not in layer.state_dict()


@pytest.mark.parametrize("attention", ["staa", "fsta"])
@pytest.mark.parametrize("name", ["lif", "plif", "da-lif", "adaptive-lif", "if"])
def test_attention_combines_with_every_spiking_neuron(name: str, attention: str) -> None:
    surrogate: Surrogate = by_name("auto", attention)
    layer = make(NeuronSpec(name, attention, surrogate, steps=T), C)
    x = current().requires_grad_()
    (layer(x) * current(3)).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert layer.neuron.surrogate == surrogate


@pytest.mark.parametrize("windows", [2, (2, 3), 4, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pooling_and_its_gradients_equal_pytorchs(windows: int | tuple[int, int], channels_last: bool) -> None:
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = current().double().flatten(0, 1).contiguous(memory_format=form).unflatten(0, (T, B)).requires_grad_()
    own, theirs = layers.AvgPool2d(windows), nn.AvgPool2d(windows)
    expected = theirs(x.flatten(0, 1)).unflatten(0, (T, B))
    factor = current(1, tuple(expected.shape)).double()
    assert torch.equal(own(x), expected)
    found, wanted = (torch.autograd.grad((factor * y).sum(), x)[0] for y in (own(x), expected))
    assert torch.equal(found, wanted)
    assert torch.autograd.gradgradcheck(own, (x,))
