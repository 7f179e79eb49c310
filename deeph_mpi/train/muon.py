"""Optimizer: orthogonalized momentum for the matrices of a network, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import os
_VARIANT = os.environ.get("DEEPH_VARIANT", "")

__all__ = ["Muon", "orthogonalized"]

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: Tensor, steps: int = 4 if _VARIANT == "ns4" else 3 if _VARIANT == "ns3" else 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: (…, m, n) with all singular values pulled towards 1.

    Newton-Schulz iteration with the quintic of Jordan et al., https://kellerjordan.github.io/posts/muon (2024).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is orthogonalized before it is applied, with AdamW's size of a step.

    Muon (Jordan et al., 2024) with the scale of Liu et al., arXiv:2502.16982: an update has the root mean square 0.2, about
    that of AdamW's, so that one learning rate serves both. A parameter of more than two dimensions is a stack of matrices;
    those with fewer are updated by AdamW.
    """

    def __init__(
        self, network: nn.Module, lr: float, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 1e-3,
    ) -> None:  # fmt: skip
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            wide = parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1 and "embedding" not in name
            (matrices if wide else others).append(parameter)
        groups = [{"params": matrices, "matrices": True}, {"params": others, "matrices": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                update = (self._momentum if group["matrices"] else self._adam)(state, parameter.grad, group)
                parameter.add_(update, alpha=-group["lr"])

    @staticmethod
    def _momentum(state: dict[str, Tensor], gradient: Tensor, group: dict) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        average = state["momentum"]
        average.lerp_(gradient, 1.0 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"])
        return orthogonalized(ahead) * (0.2 * max(gradient.shape[-2:]) ** 0.5)

    @staticmethod
    def _adam(state: dict[str, Tensor], gradient: Tensor, group: dict) -> Tensor:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1.0 - first)
        state["square"].lerp_(gradient.square(), 1.0 - second)
        step = float(state["step"])
        root = (state["square"] / (1.0 - second**step)).sqrt().add_(1e-8)
        return state["mean"] / (1.0 - first**step) / root
