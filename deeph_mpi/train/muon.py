"""Optimizer: orthogonalized momentum for the matrices of a network, AdamW for everything else."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deeph_mpi.parallel.torch_group import gather_over_ranks

__all__ = ["Muon", "orthogonalized"]

_QUINTIC = (3.4445, -4.7750, 2.0315)
_CALLS = 1e5  # cost of a matrix beside its arithmetic, in multiplications


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: (…, rows, columns) with all singular values pulled towards 1.

    Newton-Schulz iteration with the quintic of Jordan et al., https://kellerjordan.github.io/posts/muon (2024).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.reshape(-1, *matrices.shape[-2:])
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)


def _updates(matrices: list[Tensor]) -> list[Tensor]:
    """Each (…, rows, columns) orthogonalized and scaled to a root mean square of 0.2, by one rank of the process group.

    A rank stacks its matrices of equal shape: most are so small that the calls would cost more than the arithmetic.
    """
    size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if size > 1 else 0
    costs = [matrix.numel() * min(matrix.shape[-2:]) + _CALLS for matrix in matrices]
    load = [0.0] * size
    taken: list[list[int]] = [[] for _ in range(size)]
    for index in sorted(range(len(matrices)), key=lambda index: -costs[index]):
        owner = min(range(size), key=lambda one: load[one])
        load[owner] += costs[index]
        taken[owner].append(index)
    stacks: dict[tuple[int, int], list[int]] = {}
    for index in taken[rank]:
        stacks.setdefault((matrices[index].shape[-2], matrices[index].shape[-1]), []).append(index)
    done: dict[int, Tensor] = {}
    for shape, indices in stacks.items():
        stack = orthogonalized(torch.cat([matrices[index].reshape(-1, *shape) for index in indices]))
        parts = (stack * (0.2 * max(shape) ** 0.5)).split([matrices[index].shape[:-2].numel() for index in indices])
        done |= {index: part.view_as(matrices[index]) for index, part in zip(indices, parts, strict=True)}
    if size > 1:
        counts = [sum(matrices[index].numel() for index in indices) for indices in taken]
        own = torch.cat([done[index].flatten() for index in taken[rank]] or [matrices[0].new_empty(0)])
        for indices, flat in zip(taken, gather_over_ranks(own, counts), strict=True):
            parts = flat.split([matrices[index].numel() for index in indices])
            done |= {index: part.view_as(matrices[index]) for index, part in zip(indices, parts, strict=True)}
    return [done[index] for index in range(len(matrices))]


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
            if not group["params"]:
                continue
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            states = [self.state[parameter] for parameter in parameters]
            if group["matrices"]:
                updates = _updates(self._momentum(states, gradients, group["momentum"]))
            else:
                updates = [self._adam(*each, group) for each in zip(states, gradients, strict=True)]
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    @staticmethod
    def _momentum(states: list[dict[str, Tensor]], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        for state, gradient in zip(states, gradients, strict=True):
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
        averages = [state["momentum"] for state in states]
        torch._foreach_lerp_(averages, gradients, 1.0 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))

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
