"""`deeph-mpi infer --plan`: what a job would need on some number of ranks, from the real partition; no network is run on it.

The parts are worked on by the ranks that are there, often one. Counts are exact. Bytes follow from them. Seconds come from
rates measured here on a piece of the same structure, for one rank of the same kind of machine.
"""

from __future__ import annotations

from deeph_mpi.config import InferConfig
from deeph_mpi.parallel import World
from deeph_mpi.planning.job import LARGEST_FILL, Survey, assembles
from deeph_mpi.planning.rates import Interconnect, Rates
from deeph_mpi.planning.report import network_table, solver_table
from deeph_mpi.planning.solving import SolveSeconds

__all__ = ["infer_plan"]


def infer_plan(
    config: InferConfig, world: World, ranks: int | None, per_node: int | None, interconnect: Interconnect
) -> None:
    """Print the plan of a job. Collective.

    Args:
        ranks: of the job; by default as many as there are here.
        per_node: ranks on one node of the job; by default all of them. `model.ranks_per_node` of these run the network.

    Raises:
        DeephError: with one message, on all ranks.
    """
    size = ranks or world.size
    survey = Survey.make(config, world)
    plan = survey.divide(world, size, per_node or size)
    if not world.is_root:
        return
    rates, fill, network = survey.rates, survey.fill, plan.running
    print(f"plan for {len(survey.structure)} atoms on {size} rank(s), {len(network)} of which run the network; "
          f"largest over mean weight {plan.balance:.3f}")  # fmt: skip
    print("\n".join(network_table(plan, interconnect)))
    if assembles(config):
        print("\n".join(["", *solver_table(plan.solving, rates)]))
    if fill is not None:
        rows = int(survey.orbitals.sum()) * (1 + survey.doubled)
        print(
            f"factor of the real matrix of {rows} rows: about {8 * fill[0] / 1e9:.2f} GB over all ranks "
            f"(nested dissection of the atoms; MUMPS needs about twice that while it works), {fill[1] / 1e12:.3g} Tflop"
        )
        print(_solving(plan.solving_seconds))
    elif config.solve.enabled:
        print(f"factor: not estimated beyond {LARGEST_FILL} atoms")
    print(
        f"\nrates of one rank here: {1e6 * rates.message:.1f} µs a bond and layer, {1e6 * rates.atom:.1f} µs an atom and "
        f"layer, {1e6 * rates.pair:.1f} µs an undirected pair and "
        f"{1e6 * rates.near:.1f} or {1e6 * rates.far:.1f} µs more for its network, near or far, "
        f"{1e6 * rates.search:.2f} µs to find a directed pair, "
        f"{1e9 * rates.fresh:.2g} s for a GB of fresh memory; {_sorting(rates)}\n"
        f"interconnect: {1e6 * interconnect.latency:g} µs a message, {interconnect.bandwidth / 1e9:g} GB/s a rank"
    )


def _solving(seconds: SolveSeconds | None) -> str:
    """The seconds of the solver, in words."""
    assert seconds is not None
    states = f"{seconds.vectors:.3g} s for its states" if seconds.vectors else "its states, whose number is not known"
    return (
        f"solve (s): {seconds.total:.3g} at least: {seconds.kpoints} k-point(s), each {seconds.factorizations} "
        f"factorization(s) of {seconds.factorization:.3g} s ({seconds.speedup:.1f} times as fast as on one rank) and {states}"
    )


def _sorting(rates: Rates) -> str:
    """Those of assembly, in words."""
    if not rates.checked > 0:
        return "nothing is assembled, or PETSc is not here"
    return f"{1e9 * rates.checked:.0f} ns to check and {1e9 * rates.sorted:.0f} ns to sort an element of H and S"
