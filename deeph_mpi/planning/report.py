"""The plan as a table."""

from __future__ import annotations

import numpy as np

from deeph_mpi.planning.assembling import assembly_seconds
from deeph_mpi.planning.bytes import (
    assembly_bytes,
    feature_bytes,
    halo_bytes,
    list_bytes,
    matrix_bytes,
    network_bytes,
    row_bytes,
)
from deeph_mpi.planning.counts import PartPlan
from deeph_mpi.planning.job import JobPlan, keeps_rows_in_memory, network_memory, partition_memory
from deeph_mpi.planning.rates import Interconnect, Rates, network_seconds

__all__ = ["Table", "network_table", "solver_table"]


class Table:
    """Rows of one figure for each rank: mean, least and most."""

    def __init__(self, title: str) -> None:
        self.lines = [f"{title:<40}{'mean':>12}{'least':>12}{'most':>12}"]

    def add(self, name: str, values: list[float], unit: str = "") -> None:
        """Counts are shown in full, figures with a unit in three digits."""
        x = np.array(values, dtype=float)
        shown = (f"{_engineering(n) if unit else format(n, '.0f'):>12}" for n in (x.mean(), x.min(), x.max()))
        self.lines.append(f"{name + (f' ({unit})' if unit else ''):<40}{''.join(shown)}")


def network_table(plan: JobPlan, interconnect: Interconnect) -> list[str]:
    """Lines for the ranks that run the network."""
    survey, parts = plan.survey, plan.running
    config, model, rates = survey.config, survey.model, survey.rates
    table = Table("of one rank that runs the network")
    table.add("atoms", [p.atoms for p in parts])
    table.add("ghosts of messages", [p.message_ghosts for p in parts])
    table.add("ghosts", [p.ghosts for p in parts])
    table.add("neighbouring ranks", [p.neighbours for p in parts])
    table.add("bonds of messages", [p.bonds for p in parts])
    table.add("directed pairs", [p.pairs for p in parts])
    rows_on_disk = config.output.hamiltonian == "deeph" and config.model.overlap is None
    table.add("features", [network_bytes(model, p) for p in parts], "B")
    table.add("lists of pairs", [list_bytes(p) for p in parts], "B")
    table.add("buffers of exchanges", [halo_bytes(model, p) for p in parts], "B")
    table.add("bonds worked on at a time", [rates.temporaries] * len(parts), "B")
    table.add("program", [rates.program] * len(parts), "B")
    if keeps_rows_in_memory(config):
        table.add("rows of H and S", [row_bytes(p) for p in parts], "B")
    table.add("memory, stage partition", [partition_memory(p, rates) + rates.program for p in parts], "B")
    held = [network_memory(config, model, p, rates) + rates.program for p in parts]
    table.add("memory, stage network", held, "B")
    if rows_on_disk:
        size = 4 if config.output.dtype == "float32" else 8
        table.add("rows of H and S, on disk", [row_bytes(p, size, 2 * (40 + 8 + 16)) for p in parts], "B")
    width = feature_bytes(model)
    table.add("halo of a layer, received", [p.message_ghosts * width for p in parts], "B")
    table.add("halo of the pairs, received", [p.ghosts * width for p in parts], "B")
    kept = keeps_rows_in_memory(config)
    seconds = [network_seconds(model, p, rates, interconnect, rows=kept) for p in parts]
    table.add("read", [survey.reading] * len(parts), "s")
    table.add("partition", [plan.partition_seconds(p) for p in parts], "s")
    table.add("network", [s[0] for s in seconds], "s")
    table.add("exchanges", [s[1] for s in seconds], "s")
    return table.lines


def solver_table(parts: list[PartPlan], rates: Rates) -> list[str]:
    """Lines for all ranks, each with its rows of the matrices."""
    table = Table("of one rank that solves")
    table.add("atoms", [p.atoms for p in parts])
    table.add("orbitals", [p.orbitals for p in parts])
    table.add("elements of its blocks", [p.elements for p in parts])
    table.add("non-zeros of H at Γ", [p.nonzeros for p in parts])
    table.add("blocks and matrices at Γ", [matrix_bytes(p) for p in parts], "B")
    table.add("memory, stage assemble", [assembly_bytes(p) + rates.program for p in parts], "B")
    table.add("assemble", [assembly_seconds(p, rates) for p in parts], "s")
    return table.lines


def _engineering(value: float) -> str:
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.3g}  "
