"""What training minimises: cross-entropy, per-step cross-entropy (TSCE, TET), and distillation (KL, HTA-KL, TSER).

Student logits are [T, B, K], teacher logits [B, K], labels int64 [B] or probabilities [B, K]; every loss is a scalar,
the mean over the batch. No gradient flows into the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.config import LossConfig

EPS = 1e-10


def loss(config: LossConfig, student: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
    """The loss of student logits [T, B, K] that `config` (a `TrainConfig` is one) describes.

    (1 - a) L_labels + a tau^2 L_teacher [- lambda H for TSER]; without distillation L_labels alone. The weights are
    inferred [I], the papers' are not known.

    Raises:
        ValueError: distillation without teacher logits.
    """
    if config.distill == "none":
        return _label_loss(config, student, labels)
    if teacher is None:
        raise ValueError(f"distillation {config.distill!r} without teacher logits")
    tau, weight = config.temperature, config.distill_weight
    match config.distill:
        case "kl":
            labelled, taught = _label_loss(config, student, labels), kl(student.mean(0), teacher, tau)
        case "hta-kl":
            labelled = _label_loss(config, student, labels)
            taught = hta_kl(student.mean(0), teacher, tau, config.head_mass, config.mask_divergences)
        case "tser":
            # temporal separation is of both terms: the labels too are compared at every step
            labelled = tet(config, student, labels) if config.loss == "tet" else tsce(config, student, labels)
            taught = tskl(student, teacher, tau)
    total = (1 - weight) * labelled + weight * tau**2 * taught
    return total - config.entropy_weight * entropy(student, tau) if config.distill == "tser" else total


def _label_loss(config: LossConfig, student: Tensor, labels: Tensor) -> Tensor:
    match config.loss:
        case "ce":
            return functional.cross_entropy(student.mean(0), labels, label_smoothing=config.label_smoothing)
        case "tsce":
            return tsce(config, student, labels)
        case "tet":
            return tet(config, student, labels)
        case "bce":
            return bce(config, student.mean(0), labels)


def bce(config: LossConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over classes of -(y log s(z) + (1 - y) log(1 - s(z))), s the sigmoid, y smoothed; logits [B, K].

    Source: timm's BinaryCrossEntropy, the loss of FSTA-SNN's recipe for DVS128 Gesture [C].
    """
    classes = logits.shape[-1]
    exact = labels.float() if labels.ndim == 2 else functional.one_hot(labels, classes).float()
    target = exact * (1 - config.label_smoothing) + config.label_smoothing / classes
    return functional.binary_cross_entropy_with_logits(logits, target)


def tsce(config: LossConfig, student: Tensor, labels: Tensor) -> Tensor:
    """TSCE, (1 / T) sum_t CE(z_t, y), the same label at every step, temperature 1; TSER (arXiv 2503.03144) [S]."""
    repeated = labels.repeat(len(student), *(1,) * (labels.ndim - 1))
    return functional.cross_entropy(student.flatten(0, 1), repeated, label_smoothing=config.label_smoothing)


def tet(config: LossConfig, student: Tensor, labels: Tensor) -> Tensor:
    """(1 - w) TSCE + w mean((z_t - target)^2); w 0.05, target 1, TET (Deng et al. 2022) [S]."""
    error = ((student - config.tet_target) ** 2).mean()
    return (1 - config.tet_weight) * tsce(config, student, labels) + config.tet_weight * error


def kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """sum_i q_i log(q_i / p_i), q teacher and p student, both softmax(z / tau); logits [B, K] (Hinton et al. 2015)."""
    log_p, log_q = _log_probabilities(student, teacher, tau)
    return _divergence(log_q, log_p).sum(-1).mean()


def tskl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """TSKL, (1 / T) sum_t KL(teacher || student_t), of logits [T, B, K]; TSER (arXiv 2503.03144) [S]."""
    return kl(student.flatten(0, 1), teacher.repeat(len(student), 1), tau)


def entropy(student: Tensor, tau: float) -> Tensor:
    """ER, (1 / T) sum_t H(softmax(z_t / tau)), of logits [T, B, K]; TSER maximises it [S, sign inferred I]."""
    log_p = functional.log_softmax(student / tau, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def hta_kl(student: Tensor, teacher: Tensor, tau: float, head_mass: float = 0.5, masked: bool = False) -> Tensor:
    """HTA-KL, l_h FKL + l_t RKL, of mean logits [B, K]; arXiv 2504.20445.

    Classes are sorted by the teacher's probability; the head is the top class and those with cumulative probability
    up to `head_mass` (delta = 0.5 [C for AKL, I for HTA-KL]). D = |q - p|;  l_h = sum_head D / (sum D + eps);
    l_t = 1 - l_h, both without gradient [C for AKL].  FKL = sum q log(q / p);  RKL = sum p log(p / q), over all
    classes [I, the form of AKL, arXiv 2404.02657]; `masked`: FKL over the head and RKL over the tail [U].
    """
    log_p, log_q = _log_probabilities(student, teacher, tau)
    with torch.no_grad():
        sorted_q, order = log_q.exp().sort(dim=-1, descending=True, stable=True)
        head = (sorted_q.cumsum(-1) <= head_mass) | (head_mass >= 1)  # a sum of all can be rounded to above 1
        head[..., 0] = True
        in_head = torch.zeros_like(head).scatter(-1, order, head)
        gap = (log_q.exp() - log_p.exp()).abs()
        head_weight = (gap * in_head).sum(-1) / (gap.sum(-1) + EPS)
    forward, reverse = _divergence(log_q, log_p), _divergence(log_p, log_q)
    if masked:
        forward, reverse = forward * in_head, reverse * ~in_head
    return (head_weight * forward.sum(-1) + (1 - head_weight) * reverse.sum(-1)).mean()


def _log_probabilities(student: Tensor, teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """log softmax(z / tau) of student and teacher, the teacher's without gradient."""
    return functional.log_softmax(student / tau, -1), functional.log_softmax(teacher.detach() / tau, -1)


def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """The terms q_i (log q_i - log p_i) of KL(q || p)."""
    return log_q.exp() * (log_q - log_p)
