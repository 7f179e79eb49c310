"""Optimizer: orthogonalized momentum for the matrices of a network, AdamW for everything else."""

from __future__ import annotations

import torch
import torch.distributed as dist
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


def _orthogonalized_together(matrices: list[Tensor]) -> list[Tensor]:
    """Orthogonalized matrices, scaled to a root mean square of 0.2; each is worked on by one rank of the process group."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if size > 1 else 0
    load, owner = [0.0] * size, []
    for matrix in matrices:
        owner.append(min(range(size), key=lambda one: load[one]))
        load[owner[-1]] += matrix.numel() * min(matrix.shape[-2:])
    results = [
        orthogonalized(matrix) * (0.2 * max(matrix.shape[-2:]) ** 0.5) if one == rank else torch.zeros_like(matrix)
        for matrix, one in zip(matrices, owner, strict=True)
    ]
    if size == 1:
        return results
    flat = torch.cat([result.flatten() for result in results])
    dist.all_reduce(flat)
    parts = flat.split([matrix.numel() for matrix in matrices])
    return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is orthogonalized before it is applied, with AdamW's size of a step.

    Muon (Jordan et al., 2024) with the scale of Liu et al., arXiv:2502.16982: an update has the root mean square 0.2, about
    that of AdamW's, so that one learning rate serves both. A parameter of more than two dimensions is a stack of matrices;
    those with fewer are updated by AdamW. Where there is a torch process group, its ranks share the work on the matrices:
    `step` is collective then, and expects the same gradients on all of them.
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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            states = [self.state[parameter] for parameter in parameters]
            if group["matrices"]:
                ahead = [self._momentum(*each, group) for each in zip(states, gradients, strict=True)]
                updates = _orthogonalized_together(ahead)
            else:
                updates = [self._adam(*each, group) for each in zip(states, gradients, strict=True)]
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])

    @staticmethod
    def _momentum(state: dict[str, Tensor], gradient: Tensor, group: dict) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        average = state["momentum"]
        average.lerp_(gradient, 1.0 - group["momentum"])
        return gradient.lerp(average, group["momentum"])

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
