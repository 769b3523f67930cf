"""What colours mean: conformations on show in groups by weight, basin or conformational cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.conformational_clusters import conformational_clusters
from bgdiff.analysis.text import percent
from bgdiff.analysis.view_frames import Chosen, Source
from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["PALETTE", "By", "Group", "Grouping", "grouped"]

By = Literal["weight", "basin", "cluster"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Okabe & Ito's colours, told apart with any colour vision; then they repeat."""

_NOWHERE = "#9A9A9A"
_LEVELS = (0.1, 0.5, 2.0, 10.0)  # of w/⟨w⟩: lighter or heavier than the mean by up to 2, 10, more
# light to heavy is pale to dark, and the heaviest stand out
_SHADES = ("#9DA5B1", "#6BA3D6", "#2F6FB3", "#123A73", "#D55E00")


@dataclass(frozen=True)
class Group:
    """Conformations of one colour.

    Args:
        name: what they have in common.
        colour: as #RRGGBB.
        members: which of the conformations on show they are.
        note: how many there are, or how much of the ensemble they stand for.
    """

    name: str
    colour: str
    members: NDArray[np.intp]
    note: str = ""


@dataclass(frozen=True)
class Grouping:
    """Groups, none of them empty, and what the caption says about the colours."""

    groups: tuple[Group, ...]
    meaning: str


def grouped(
    by: By,
    chosen: Chosen,
    source: Source,
    system: "System",
    n_clusters: int = 4,
) -> Grouping:
    """Sort the conformations that were chosen from ``source``.

    Raises:
        ConfigError: there is no such kind of group, or the source cannot be sorted like that.
    """
    sorters: dict[str, Callable[[], Grouping]] = {
        "weight": lambda: _by_weight(chosen, source),
        "basin": lambda: _by_basin(chosen, source, system),
        "cluster": lambda: _by_cluster(chosen, system, n_clusters),
    }
    if by not in sorters:
        raise ConfigError(f"conformations can be coloured by {', '.join(sorters)}, not by {by!r}")
    return sorters[by]()


def _by_weight(chosen: Chosen, source: Source) -> Grouping:
    if isinstance(source, np.ndarray):
        raise ConfigError("these conformations have no weights to be coloured by; show an ensemble")
    weight = source.weights * len(source)
    shown = weight[chosen.rows]
    ends = (0.0, *_LEVELS, np.inf)
    names = [f"w < {_LEVELS[0]:g} ⟨w⟩"]
    names += [f"{lo:g} to {hi:g} ⟨w⟩" for lo, hi in pairwise(_LEVELS)]
    names += [f"w > {_LEVELS[-1]:g} ⟨w⟩"]
    groups = []
    for name, colour, lo, hi in zip(names, _SHADES, ends[:-1], ends[1:], strict=True):
        members = np.flatnonzero((shown >= lo) & (shown < hi))
        share = weight[(weight >= lo) & (weight < hi)].sum() / len(source)
        if members.size:
            groups.append(
                Group(name, colour, members, f"{members.size} shown; {percent(share)} of all weight")
            )
    meaning = (
        "Colour: weight w of the conformation over the mean weight of the ensemble, which says how often the "
        "Boltzmann distribution has it for each time that the model proposes it."
    )
    if chosen.by_weight:
        meaning += " Since they were drawn by weight, heavy ones are shown more often as well."
    return Grouping(tuple(groups), meaning)


def _by_basin(chosen: Chosen, source: Source, system: "System") -> Grouping:
    if not system.spec.basins:
        raise ConfigError(
            f"system {system.name} defines no basins; name some in its system.yaml, or colour by 'cluster'"
        )
    values = (
        system.observables(np.asarray(source, dtype=np.float64))
        if isinstance(source, np.ndarray)
        else source.observables
    )
    rest = np.ones(len(chosen.rows), dtype=bool)
    groups, absent = [], []
    for number, name in enumerate(system.spec.basins):
        inside = system.basin(name, values)
        share = _share(inside, source, weighted=chosen.by_weight)
        members = np.flatnonzero(inside[chosen.rows] & rest)
        rest[members] = False
        if members.size:
            colour = PALETTE[number % len(PALETTE)]
            groups.append(Group(_words(name), colour, members, f"{members.size} shown; {share}"))
        else:
            absent.append(f"{_words(name)} ({share})")
    if rest.any():
        groups.append(Group("no basin", _NOWHERE, np.flatnonzero(rest), f"{int(rest.sum())} shown"))
    meaning = "Colour: basin of the system."
    if absent:
        meaning += f" None of those shown is in {', '.join(absent)}."
    return Grouping(tuple(groups), meaning)


def _share(inside: NDArray[np.bool_], source: Source, weighted: bool) -> str:
    """How much of the source is inside, with an error where samples are independent."""
    if isinstance(source, np.ndarray):
        return f"{percent(float(inside.mean()))} of all"
    if weighted:
        estimate = source.expectation(inside.astype(np.float64))
        return f"{_percent_error(estimate.value, estimate.std_error)} of the ensemble"
    return f"{percent(float(inside.mean()))} of the proposal"


def _by_cluster(chosen: Chosen, system: "System", n_clusters: int) -> Grouping:
    found = conformational_clusters(chosen.x, system, n_clusters)
    unit = " nm" if system.topology is not None else ""
    groups = []
    for k in range(len(found.medoid)):
        members = np.flatnonzero(found.label == k)
        # the medoid first: it is what is drawn where one has to stand for all
        members = np.concatenate([[found.medoid[k]], members[members != found.medoid[k]]])
        note = f"{members.size} of {len(chosen.rows)}"
        if members.size > 1:
            note += f"; radius {found.radius[k]:.2g}{unit}"
        groups.append(Group(f"cluster {k + 1}", PALETTE[k % len(PALETTE)], members, note))
    how = "RMSD of heavy atoms" if system.topology is not None else "sorted distances of all pairs"
    meaning = (
        f"Colour: conformational cluster among those shown, by average linkage on the {how}; radius: mean "
        "distance to the cluster's most central member."
    )
    return Grouping(tuple(groups), meaning)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _percent_error(value: float, error: float) -> str:
    """``0.87 ± 0.04 %``."""
    from bgdiff.analysis.text import with_error

    return f"{with_error(100 * value, 100 * error)} %"
