"""The pictures of a results.h5 that a user asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from deeph_mpi.errors import ConfigError
from deeph_mpi.results.colours import Colouring
from deeph_mpi.results.density import has_states, read_density
from deeph_mpi.results.density_plot import plot_density
from deeph_mpi.results.dos_plot import plot_dos
from deeph_mpi.results.localization import plot_participation
from deeph_mpi.results.maps import check_states, check_window, map_states, map_window
from deeph_mpi.results.plot import plot_spectrum
from deeph_mpi.results.projections import Projections
from deeph_mpi.results.selection import select
from deeph_mpi.results.store import read_results

__all__ = ["Request", "draw"]


@dataclass(frozen=True)
class Request:
    """What is to be drawn; without dos, project, ipr, map and states: what the k-points suggest.

    Attributes:
        window: energy axis in eV, relative to E_F.
        color_by: selection that colours states.
        dos: whether the density of states is drawn.
        project: selections for a density of states by parts.
        width: standard deviation of a level in densities, eV.
        ipr: whether the inverse participation ratio is drawn.
        map: window of energies that is mapped, eV relative to E_F.
        states: indices of states that are mapped.
        kpoint: of `states`.
    """

    window: tuple[float, float] | None = None
    color_by: str | None = None
    dos: bool = False
    project: list[str] = field(default_factory=list)
    width: float = 0.05
    ipr: bool = False
    map: tuple[float, float] | None = None
    states: list[int] = field(default_factory=list)
    kpoint: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether no particular picture is asked for."""
        return not (self.dos or self.project or self.ipr or self.map or self.states)


class _Source:
    """Populations, opened when a picture needs them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def projections(self) -> Projections:
        return Projections.open(self.path)

    def shares(self, words: list[str]) -> list[Colouring]:
        """Name and (nk, n) populations of every selection that the words stand for."""
        projections = self.projections
        chosen = [one for word in words for one in select(word, projections.structure, projections.shells)]
        return [Colouring(one.name, projections.shares(one.chosen)) for one in chosen]


def draw(path: Path, directory: Path, request: Request) -> list[Path]:
    """Draw what is asked for, as PNG and PDF, maps as extended XYZ too. Not collective.

    What [dos] sampled is drawn too, where it is part of the results.

    Args:
        path: of results.h5.
        directory: where the files go; made when absent.
        request: what to draw.

    Returns:
        The files written.

    Raises:
        DataError: unreadable, or without populations where they are needed.
        ConfigError: selections, states or energies that do not exist.
    """
    density = read_density(path) if request.is_plain else None
    sampled = [] if density is None else plot_density(*density, directory, request.window)
    if sampled and not has_states(path):
        return sampled
    run, spectrum = read_results(path)
    source = _Source(path)
    if request.map is not None:
        check_window(spectrum, request.map)
    check_states(spectrum, request.states, request.kpoint)
    parts = {one.name: one.values for one in source.shares(request.project)} if request.project else {}
    colouring = None
    if request.color_by is not None:
        if not (request.ipr or (request.is_plain and not spectrum.is_mesh)):
            raise ConfigError("--color-by colours bands, levels and --ipr, not densities or maps")
        found = source.shares([request.color_by])
        if len(found) != 1:
            raise ConfigError(f"--color-by takes one selection, such as {request.color_by}:{found[0].name.split()[-1]}")
        colouring = found[0]
    written = sampled
    if request.is_plain:
        written += plot_spectrum(run, spectrum, directory, request.window, colouring)
    if request.dos:
        written += plot_dos(run, spectrum, directory, request.window, request.width)
    if request.project:
        written += plot_dos(run, spectrum, directory, request.window, request.width, parts)
    if request.ipr:
        ratios = source.projections.participation()
        written += plot_participation(run, spectrum, ratios, directory, request.window, colouring)
    if request.map is not None:
        written += map_window(run, spectrum, source.projections, request.map, directory)
    if request.states:
        written += map_states(run, spectrum, source.projections, request.states, request.kpoint, directory)
    return written
