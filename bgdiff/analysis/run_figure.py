"""A figure of a run with what is said about it, and the words its captions share."""

import math
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from bgdiff.analysis.results import BasinPopulation, ObservableInfo, Results

__all__ = [
    "RunFigure",
    "Section",
    "basin_conditions",
    "boundaries",
    "corrected",
    "independent_share",
    "what_is_shown",
]


Section = Literal["structures", "surfaces", "energies", "weights", "ladder", "training", "free-energies"]


@dataclass(frozen=True, slots=True)
class RunFigure:
    """A figure with what is said about it; ``name`` is its file name without suffix, ``section`` the part of
    the report it belongs to.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    section: Section = "free-energies"


def corrected(results: Results) -> str:
    """What the samples of the target are called."""
    return "chains" if results.n_chains else "reweighted"


def what_is_shown(results: Results) -> str:
    """The kinds of samples in a figure, in words."""
    return (
        "the data and the chains" if results.n_chains else "the data, the proposal and the reweighted samples"
    )


def independent_share(results: Results) -> float:
    """Share of the weighted samples' Kish number, or of the chains' draws, that are independent."""
    return results.independent_fraction / (1.0 if results.n_chains else results.ess_kish or 1.0)


def basin_conditions(basin: BasinPopulation) -> list[tuple[str, list[tuple[float | None, float | None]]]]:
    """Observables and intervals of all conditions of a basin."""
    further = [(term.observable, term.intervals) for term in basin.and_conditions]
    return [(basin.observable, basin.intervals), *further]


def boundaries(results: Results, info: ObservableInfo) -> list[float]:
    """Finite ends of all basins' intervals along an observable, ascending; of torsions in [-180, 180)."""
    ends = {
        end
        for basin in results.basins
        for name, intervals in basin_conditions(basin)
        if name == info.name
        for interval in intervals
        for end in interval
        if end is not None and math.isfinite(end)
    }
    if info.kind == "dihedral":
        ends = {(end + 180) % 360 - 180 for end in ends}
    return sorted(ends)
