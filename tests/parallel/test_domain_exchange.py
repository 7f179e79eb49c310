"""Domains and halo exchange on any number of ranks: union of pairs, owners' rows, gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deeph_mpi.domain.domain import Domain, build_domain
from deeph_mpi.domain.halo import HaloExchange
from deeph_mpi.domain.messages import CHUNK, post_messages, wait_all
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.report import report_partition
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import DeephError, StructureError
from deeph_mpi.parallel import World
from deeph_mpi.structure.structure import Structure
from tests.test_domain_neighbours import bilayer, keys, one_atom, two_atoms, two_species

CASES = {
    "bilayer": (bilayer(5), 3.0, 5.5),
    "bulk": (two_species(2), 4.4, {(6, 6): 5.5, (6, 14): 4.0, (14, 14): 3.3}),
    "two atoms": (two_atoms(), 4.0, 9.0),
    "one atom": (one_atom(), 4.0, 9.0),
}


def scattered(structure: Structure, world: World) -> Partition:
    """Owners at random: every rank borders every other, ghosts of one owner are all over."""
    rng = np.random.default_rng(5)
    return Partition(rng.integers(world.size, size=len(structure)).astype(np.int32), world.size)


def domain_of(name: str, world: World, random: bool = False) -> tuple[Domain, Partition]:
    structure, r_message, r_pair = CASES[name]
    partition = (
        scattered(structure, world) if random else partition_atoms(structure, np.ones(len(structure)), world.size)
    )
    return build_domain(world, structure, partition, r_message, r_pair), partition


def domains(world: World) -> Iterator[tuple[str, Domain, Partition]]:
    """All cases, with compact and with scattered domains."""
    for name in CASES:
        for random in (False, True):
            yield name, *domain_of(name, world, random)


def test_all_ranks_together_hold_the_serial_pairs(world: World) -> None:
    for name, domain, _ in domains(world):
        structure, r_message, r_pair = CASES[name]
        serial = neighbour_pairs(structure, np.arange(len(structure)), r_pair)
        mine = np.column_stack([domain.atoms[domain.pairs.i], domain.atoms[domain.pairs.j], domain.pairs.R])
        rows = [tuple(row) for part in world.comm.allgather(mine.tolist()) for row in part]
        assert len(rows) == len(serial)
        assert set(rows) == set(keys(serial))
        assert mine.tolist() == sorted(mine.tolist())
        here = np.isin(serial.i, domain.owned)
        np.testing.assert_array_equal(domain.pairs.vectors(), serial.vectors[here])
        short = neighbour_pairs(structure, domain.owned, r_message)
        edges = domain.messages
        np.testing.assert_array_equal(domain.atoms[edges.i], short.i)
        np.testing.assert_array_equal(domain.atoms[edges.j], short.j)
        np.testing.assert_array_equal(edges.vectors(), short.vectors)
        assert (edges.i < domain.n_owned).all()
        assert (edges.j < domain.n_message).all()


def test_atoms_are_owned_then_ghosts_in_order(world: World) -> None:
    for name, domain, partition in domains(world):
        owner = partition.owner[domain.atoms]
        assert len(np.unique(domain.atoms)) == domain.n_local
        assert domain.owned.tolist() == partition.atoms(world.rank).tolist()
        for ghosts in (slice(domain.n_owned, domain.n_message), slice(domain.n_message, None)):
            rows = list(zip(owner[ghosts].tolist(), domain.atoms[ghosts].tolist(), strict=True))
            assert rows == sorted(rows)
            assert world.rank not in owner[ghosts]
        np.testing.assert_array_equal(domain.numbers, CASES[name][0].numbers[domain.atoms])


def test_bulk_domains_border_all_others_and_small_cells_leave_ranks_empty(world: World) -> None:
    domain, partition = domain_of("bulk", world)
    report = report_partition(world, partition, np.ones(len(partition.owner)), domain)
    assert report.neighbours.tolist() == [world.size - 1] * world.size
    assert report.owned.sum() == len(partition.owner)
    domain, partition = domain_of("two atoms", world)
    report = report_partition(world, partition, np.ones(2), domain)
    assert sorted(report.owned.tolist(), reverse=True)[:2] == [2 if world.size == 1 else 1, 1][: world.size]
    own_image = domain.atoms[domain.pairs.i] == domain.atoms[domain.pairs.j]
    assert own_image.any() == (domain.n_owned > 0)


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.complex128, torch.int32, torch.int64, torch.bool]


def test_ghost_rows_are_the_owners(world: World) -> None:
    for _, domain, partition in domains(world):
        n = len(partition.owner)
        features = 100 * torch.randn(n, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for dtype in DTYPES:
            x = features.to(dtype)
            for halo, n_rows in ((domain.message_halo, domain.n_message), (domain.pair_halo, domain.n_local)):
                rows = halo.exchange(x[domain.owned])
                assert rows.dtype == dtype
                assert torch.equal(rows, x[domain.atoms[:n_rows]])
        np.testing.assert_array_equal(domain.pair_halo.exchange_array(domain.owned), domain.atoms)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_gradient_is_the_transpose(world: World, dtype: torch.dtype) -> None:
    """⟨A x, y⟩ = ⟨x, A† y⟩ summed over all ranks, where A† is what backward does."""
    for _, domain, _ in domains(world):
        halo = domain.pair_halo
        generator = torch.Generator().manual_seed(world.rank)
        x = torch.randn(halo.n_owned, 4, generator=generator, dtype=dtype, requires_grad=True)
        y = torch.randn(domain.n_local, 4, generator=generator, dtype=dtype)
        out = halo.exchange(x)
        out.backward(y)
        assert x.grad is not None
        left = world.comm.allreduce(torch.vdot(y.flatten(), out.detach().flatten()).item())
        right = world.comm.allreduce(torch.vdot(x.grad.flatten(), x.detach().flatten()).item())
        size = world.comm.allreduce(torch.linalg.norm(y).item() * torch.linalg.norm(out.detach()).item())
        assert abs(left - right) < 1e-13 * size
        ones = torch.ones(halo.n_owned, 1, dtype=dtype, requires_grad=True)
        halo.exchange(ones).real.sum().backward()
        assert ones.grad is not None
        assert world.comm.allreduce(ones.grad.sum().item()) == world.sum(domain.n_local)


def test_one_plan_serves_inference_and_training(world: World) -> None:
    domain, partition = domain_of("bulk", world, random=True)
    x = torch.linspace(0, 1, 2 * len(partition.owner)).reshape(-1, 2)
    with torch.inference_mode():
        assert torch.equal(domain.pair_halo.exchange(x[domain.owned]), x[domain.atoms])
    mine = x[domain.owned].requires_grad_()
    domain.pair_halo.exchange(mine).square().sum().backward()
    assert mine.grad is not None
    assert (mine.grad[x[domain.owned] > 0] >= 2 * mine[x[domain.owned] > 0]).all()


def test_second_derivatives_pass(world: World) -> None:
    """Of f = Σ over all rows of x⁴: the Hessian-vector product is 12 x² v times the number of copies of each atom."""
    domain, _ = domain_of("bulk", world, random=True)
    halo = domain.pair_halo
    x = torch.linspace(0.5, 2, halo.n_owned, dtype=torch.float64)[:, None].requires_grad_()
    v = torch.linspace(-1, 1, halo.n_owned, dtype=torch.float64)[:, None]
    (gradient,) = torch.autograd.grad(halo.exchange(x).pow(4).sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), x)
    ones = torch.ones(halo.n_owned, 1, dtype=torch.float64, requires_grad=True)
    (copies,) = torch.autograd.grad(halo.exchange(ones).sum(), ones)
    torch.testing.assert_close(product, 12 * x.detach() ** 2 * v * copies)


def test_work_between_start_and_finish(world: World) -> None:
    """Two exchanges under way at once, layer after layer, with a non-contiguous and an expanded input."""
    domain, partition = domain_of("bilayer", world, random=True)
    halo, local = domain.message_halo, domain.atoms[: domain.n_message]
    n = len(partition.owner)
    a = torch.arange(n, dtype=torch.float64)[:, None]
    b = torch.randn(n, 4, generator=torch.Generator().manual_seed(2))
    for layer in range(3):
        first = halo.start((a[domain.owned] + layer).expand(-1, 3))
        second = halo.start(b[domain.owned].T.contiguous().T)
        assert torch.equal(halo.finish(second), b[local])
        assert torch.equal(halo.finish(first), (a[local] + layer).expand(-1, 3))
    with pytest.raises(ValueError, match="one per owned atom"):
        halo.start(torch.zeros(halo.n_owned + 1, 2))


def test_long_messages_travel_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHUNK < 2**31
    monkeypatch.setattr("deeph_mpi.domain.messages.CHUNK", 100)
    domain, partition = domain_of("bilayer", world)
    x = torch.arange(len(partition.owner) * 7, dtype=torch.float64).reshape(-1, 7)
    assert torch.equal(domain.pair_halo.exchange(x[domain.owned]), x[domain.atoms])


class Addressed:
    """Bytes that are known by their address alone, as a tensor on a GPU shows its own; here the host's."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = raw
        self.__cuda_array_interface__ = {**raw.__array_interface__, "version": 3, "strides": None}

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, part: slice) -> Addressed:
        return Addressed(self.raw[part])


def test_addresses_of_a_gpu_reach_mpi(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeph_mpi.domain.messages.CHUNK", 100)
    sent = np.full(1010, world.rank + 1, dtype=np.uint8)
    received = np.zeros_like(sent)
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    wait_all(post_messages(world.comm, [(right, Addressed(sent))], [(left, Addressed(received))], 7199))
    assert (received == left + 1).all()


def test_weights_do_not_depend_on_the_ranks(world: World) -> None:
    for structure, _, radii in CASES.values():
        orbitals = np.where(structure.numbers == 6, 13, 4)
        together = pair_weights(world, structure, orbitals, radii)
        np.testing.assert_array_equal(together, pair_weights(World.alone(), structure, orbitals, radii))


def test_errors_reach_all_ranks(world: World) -> None:
    structure = bilayer(4)
    structure.positions[9] = structure.positions[2] + 0.01
    with pytest.raises(StructureError, match=r"atoms 2 \(C\) and 9 \(C\)") as caught:
        build_domain(world, structure, partition_atoms(structure, np.ones(64), world.size), 3.0, 5.0)
    assert caught.value.everywhere
    if world.size > 1:
        wrong = Partition(np.full(4, (world.rank + 1) % world.size, dtype=np.int32), world.size)
        with pytest.raises(DeephError, match="does not own"):
            HaloExchange(world, wrong, np.arange(4))
