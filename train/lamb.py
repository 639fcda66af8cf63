"""LAMB (You et al. 2020, arXiv 1904.00962), as the official FSTA-SNN recipes use it through timm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MAX_GRADIENT_NORM = 1.0


class LAMB(torch.optim.Optimizer):
    """Adam's step, its length set by the length of the weights it changes.

    g <- g / max(1, |all g|);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay w;  w <- w - rate r u
    r = |w| / |u| where there is weight decay and both are above zero, else 1.

    The clipping of the gradient of all weights together and r = 1 without weight decay are timm's.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        if closure is not None:
            raise NotImplementedError("LAMB takes no closure")
        members = [(group, w) for group in self.param_groups for w in group["params"] if w.grad is not None]
        total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(w.grad) for _, w in members]))
        shrink = 1 / (total / MAX_GRADIENT_NORM).clamp(min=1)
        for group, weight in members:
            self._update(group, weight, weight.grad * shrink)

    def _update(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        first, second = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        count = float(state["step"])
        update = (mean / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + group["eps"])
        ratio = 1.0
        if group["weight_decay"]:
            update = update + group["weight_decay"] * weight
            lengths = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(update)
            if all(float(length) > 0 for length in lengths):
                ratio = float(lengths[0] / lengths[1])
        weight -= group["lr"] * ratio * update
