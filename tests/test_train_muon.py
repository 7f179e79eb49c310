"""The optimizer: orthogonal updates, and descent on problems with known answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeph_mpi.train.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (3, 12, 12)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    result = orthogonalized(matrix)
    values = torch.linalg.svdvals(result)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.mT @ result @ v.mT  # the singular vectors stay
    assert float((rotated - torch.diag_embed(torch.diagonal(rotated, dim1=-2, dim2=-1))).abs().max()) < 1e-8


def test_it_finds_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 6, dtype=torch.float64)
    true, offset = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    model = nn.Linear(6, 4).double()
    optimizer = Muon(model, lr=0.1, weight_decay=0.0)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 400)
        loss = (model(x) - x @ true - offset).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-4
    assert float((model.weight - true.T).abs().max()) < 0.03


def test_adamw_for_vectors_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.LayerNorm(5).double() for _ in range(2))
    first = Muon(ours, lr=1e-2, betas=(0.9, 0.98), weight_decay=1e-3)
    second = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=1e-3)
    for _ in range(5):
        x = torch.randn(7, 5, dtype=torch.float64)
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(x).pow(3).sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((a - b).abs().max()) < 1e-9
