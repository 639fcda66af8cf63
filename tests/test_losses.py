"""Losses against loops over batch, steps and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train import losses
from train.config import LossConfig

T, B, K = 3, 4, 5


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


STUDENT, TEACHER, LABELS = logits(0, T, B, K), logits(1, B, K), torch.tensor([0, 3, 4, 1])


def softmax(z: list[float], tau: float) -> list[float]:
    powers = [math.exp(v / tau) for v in z]
    return [p / sum(powers) for p in powers]


def divergence(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def cross_entropy(z: list[float], label: int, smoothing: float) -> float:
    p = softmax(z, 1.0)
    target = [(1 - smoothing) * (k == label) + smoothing / K for k in range(K)]
    return -sum(t * math.log(v) for t, v in zip(target, p, strict=True))


def mean_logits(b: int) -> list[float]:
    return [sum(STUDENT[t, b, k].item() for t in range(T)) / T for k in range(K)]


def expected_ce(smoothing: float) -> float:
    return sum(cross_entropy(mean_logits(b), int(LABELS[b]), smoothing) for b in range(B)) / B


def expected_tsce(smoothing: float) -> float:
    pairs = [(t, b) for t in range(T) for b in range(B)]
    return sum(cross_entropy(STUDENT[t, b].tolist(), int(LABELS[b]), smoothing) for t, b in pairs) / len(pairs)


def expected_tet(smoothing: float) -> float:
    squares = [(value - 1.0) ** 2 for value in STUDENT.flatten().tolist()]
    return 0.95 * expected_tsce(smoothing) + 0.05 * sum(squares) / len(squares)


def hta(student: list[float], teacher: list[float], tau: float, delta: float = 0.5, masked: bool = False) -> float:
    """Steps 1 to 7 for one sample, with sorted lists."""
    p, q = softmax(student, tau), softmax(teacher, tau)
    order = sorted(range(K), key=lambda k: -q[k])
    head, total = [order[0]], q[order[0]]
    for k in order[1:]:
        total += q[k]
        if total <= delta:
            head.append(k)
    w_head = sum(abs(q[k] - p[k]) for k in head)
    w_tail = sum(abs(q[k] - p[k]) for k in range(K) if k not in head)
    l_head = w_head / (w_head + w_tail + 1e-10)
    forward = [k for k in range(K) if not masked or k in head]
    reverse = [k for k in range(K) if not masked or k not in head]
    fkl = sum(q[k] * math.log(q[k] / p[k]) for k in forward)
    rkl = sum(p[k] * math.log(p[k] / q[k]) for k in reverse)
    return l_head * fkl + (1 - l_head) * rkl


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("name", "expected"), [("ce", expected_ce), ("tsce", expected_tsce), ("tet", expected_tet)])
def test_label_losses(name: str, expected: object, smoothing: float) -> None:
    config = LossConfig(loss=name, label_smoothing=smoothing)
    assert losses.loss(config, STUDENT, LABELS).item() == pytest.approx(expected(smoothing))


@pytest.mark.parametrize("name", ["ce", "tsce", "tet"])
def test_labels_may_be_probabilities(name: str) -> None:
    config = LossConfig(loss=name)
    soft = torch.nn.functional.one_hot(LABELS, K).double()
    torch.testing.assert_close(losses.loss(config, STUDENT, soft), losses.loss(config, STUDENT, LABELS))


def test_kl() -> None:
    expected = sum(divergence(softmax(TEACHER[b].tolist(), 3), softmax(mean_logits(b), 3)) for b in range(B)) / B
    assert losses.kl(STUDENT.mean(0), TEACHER, 3.0).item() == pytest.approx(expected)
    config = LossConfig(loss="tsce", label_smoothing=0.0, distill="kl", temperature=3.0, distill_weight=0.3)
    total = 0.7 * expected_tsce(0.0) + 0.3 * 9 * expected
    assert losses.loss(config, STUDENT, LABELS, TEACHER).item() == pytest.approx(total)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("delta", [0.2, 0.5, 0.9])
def test_hta_kl(delta: float, tau: float, masked: bool) -> None:
    expected = sum(hta(mean_logits(b), TEACHER[b].tolist(), tau, delta, masked) for b in range(B)) / B
    assert losses.hta_kl(STUDENT.mean(0), TEACHER, tau, delta, masked).item() == pytest.approx(expected)
    config = LossConfig(
        distill="hta-kl", label_smoothing=0.0, temperature=tau, head_mass=delta, mask_divergences=masked
    )
    total = 0.5 * expected_ce(0.0) + 0.5 * tau**2 * expected
    assert losses.loss(config, STUDENT, LABELS, TEACHER).item() == pytest.approx(total)


def test_hta_kl_of_equal_distributions_is_zero_and_finite() -> None:
    student = TEACHER.clone().requires_grad_()
    value = losses.hta_kl(student, TEACHER, 2.0)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert torch.isfinite(student.grad).all()


def test_hta_kl_head_is_the_top_class_when_it_exceeds_the_mass() -> None:
    teacher = torch.tensor([[9.0, 1.0, 0.0, -1.0, 0.5]], dtype=torch.float64)
    student = logits(2, 1, K)
    expected = hta(student[0].tolist(), teacher[0].tolist(), 1.0, masked=True)
    q, p = softmax(teacher[0].tolist(), 1.0), softmax(student[0].tolist(), 1.0)
    gap = [abs(a - b) for a, b in zip(q, p, strict=True)]
    l_head = gap[0] / sum(gap)
    by_hand = l_head * q[0] * math.log(q[0] / p[0])
    by_hand += (1 - l_head) * sum(p[k] * math.log(p[k] / q[k]) for k in range(1, K))
    assert q[0] > 0.5
    assert expected == pytest.approx(by_hand)
    assert losses.hta_kl(student, teacher, 1.0, masked=True).item() == pytest.approx(by_hand)


def test_hta_kl_weights_carry_no_gradient() -> None:
    student = logits(2, 1, K).requires_grad_()
    teacher = logits(3, 1, K)
    losses.hta_kl(student, teacher, 1.0).backward()
    p, q = softmax(student[0].tolist(), 1.0), softmax(teacher[0].tolist(), 1.0)
    order = sorted(range(K), key=lambda k: -q[k])
    head = [k for i, k in enumerate(order) if i == 0 or sum(q[j] for j in order[: i + 1]) <= 0.5]
    gap = [abs(a - b) for a, b in zip(q, p, strict=True)]
    l_head = sum(gap[k] for k in head) / sum(gap)
    reverse = divergence(p, q)
    for k in range(K):  # d FKL / dz = p - q;  d RKL / dz = p (log(p / q) - RKL)
        expected = l_head * (p[k] - q[k]) + (1 - l_head) * p[k] * (math.log(p[k] / q[k]) - reverse)
        assert student.grad[0, k].item() == pytest.approx(expected)


def test_tser() -> None:
    pairs = [(t, b) for t in range(T) for b in range(B)]
    probabilities = {(t, b): softmax(STUDENT[t, b].tolist(), 4.0) for t, b in pairs}
    tskl = sum(divergence(softmax(TEACHER[b].tolist(), 4.0), probabilities[t, b]) for t, b in pairs) / len(pairs)
    entropy = sum(-sum(v * math.log(v) for v in p) for p in probabilities.values()) / len(pairs)
    assert losses.tskl(STUDENT, TEACHER, 4.0).item() == pytest.approx(tskl)
    assert losses.entropy(STUDENT, 4.0).item() == pytest.approx(entropy)
    for name, labelled in (("ce", expected_tsce), ("tsce", expected_tsce), ("tet", expected_tet)):
        config = LossConfig(loss=name, label_smoothing=0.0, distill="tser", distill_weight=0.4, entropy_weight=0.1)
        total = 0.6 * labelled(0.0) + 0.4 * 16 * tskl - 0.1 * entropy
        assert losses.loss(config, STUDENT, LABELS, TEACHER).item() == pytest.approx(total)


@pytest.mark.parametrize("name", ["kl", "hta-kl", "tser"])
def test_extreme_logits_give_finite_losses_and_nothing_reaches_the_teacher(name: str) -> None:
    student = torch.tensor([[[500.0, -500.0, 0.0]]] * 2, requires_grad=True)
    teacher = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    value = losses.loss(LossConfig(distill=name), student, torch.tensor([1]), teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert teacher.grad is None


def test_distillation_needs_teacher_logits() -> None:
    with pytest.raises(ValueError, match="without teacher logits"):
        losses.loss(LossConfig(distill="kl"), STUDENT, LABELS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_bce_equals_the_loop(smoothing: float, soft: bool) -> None:
    total = 0.0
    for b in range(B):
        for k, z in enumerate(mean_logits(b)):
            p = 1 / (1 + math.exp(-z))
            y = (1 - smoothing) * (k == int(LABELS[b])) + smoothing / K
            total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    labels = torch.nn.functional.one_hot(LABELS, K).double() if soft else LABELS
    found = losses.loss(LossConfig(loss="bce", label_smoothing=smoothing), STUDENT, labels)
    assert found.item() == pytest.approx(total / (B * K), rel=1e-6)
