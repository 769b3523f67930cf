"""The figures of a run on a cluster, with titles and captions: structures, maps of observables, distances."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.cluster_pictures import Picture, structures
from bgdiff.analysis.cluster_plots import pair_distances
from bgdiff.analysis.cluster_record import read_pairs
from bgdiff.analysis.profiles import ProfileSample, edges_of, whole_number_edges
from bgdiff.analysis.results import ObservableInfo, Results
from bgdiff.analysis.run_figure import RunFigure, corrected, independent_share, what_is_shown
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.surface_estimates import cells
from bgdiff.analysis.surfaces import UNSURE, PairSample, Region, observable_free_energy
from bgdiff.analysis.text import symbol

__all__ = [
    "COUNTS",
    "SURFACE_ERRORS",
    "cluster_distances",
    "cluster_map",
    "cluster_structures",
    "is_cluster",
    "observable_map",
    "seen_by_all",
]

Array = NDArray[np.float64]

COUNTS = frozenset({"count", "pair_count", "coordination"})
"""Kinds of observables whose values are whole numbers."""

SURFACE_ERRORS = (
    f"Last panel: standard error of the estimate; grey where it is above {UNSURE:g} kT, which is fewer than "
    "four independent samples."
)
"""What the captions of free-energy surfaces say about their errors."""

_OF_ONE_PARTICLE = frozenset({"dihedral", "angle", "distance", "component"})
# along x and y of the map, the most telling first
_PREFERRED = ("steinhardt", "radius_of_gyration", "pair_distance", "rmsd", "mdtraj", *sorted(COUNTS))
_CELLS = (24, 30, 36, 42, 48, 54, 60)


def is_cluster(run: RunFiles) -> bool:
    """Whether the run is about particles of which some are equal."""
    return "edges" in run.cluster


def seen_by_all(info: ObservableInfo) -> bool:
    """Whether the observable is about all particles alike, so that exchanging them does not change it."""
    return info.kind not in _OF_ONE_PARTICLE


def cluster_structures(run: RunFiles) -> Iterator[RunFigure]:
    """Pictures of the structures that the run kept."""
    if "structures" not in run.cluster:
        return
    x = run.cluster["structures"]
    pictures = [
        Picture(points, str(label), f"u = {energy:.1f} kT".replace("-", "\u2212"))
        for points, label, energy in zip(
            x, run.cluster["structure_label"], run.cluster["structure_energy"], strict=True
        )
    ]
    if not run.results.n_chains:
        drawn = "Random draws are from the reweighted samples, in proportion to their weights."
    else:
        drawn = "Random draws are from the chains."
    yield RunFigure(
        "structures",
        "Structures",
        f"Samples with their reduced energies. {drawn} Each is superposed on the first by a rotation and an "
        "exchange of equal particles. Sticks join neighbours; colour says how many a particle has.",
        f"Drawings of {len(pictures)} structures: " + ", ".join(picture.title for picture in pictures) + ".",
        structures(pictures, types=run.cluster["types"], columns=6 if x.shape[1] <= 20 else 3),
        section="structures",
    )


def cluster_map(run: RunFiles, weight: Array) -> Iterator[RunFigure]:
    """Free energy over two observables that all particles share, or over one and the energy."""
    yield from observable_map(run, weight, [info for info in run.results.observables if seen_by_all(info)])


def observable_map(run: RunFiles, weight: Array, among: Sequence[ObservableInfo]) -> Iterator[RunFigure]:
    """Free energy over the two most telling of some real observables, or over the one and the energy."""
    known = [info for info in among if f"obs_{info.name}" in run.proposal]
    if not known:
        return
    known.sort(key=lambda info: _PREFERRED.index(info.kind) if info.kind in _PREFERRED else len(_PREFERRED))
    # of one kind only the first, such as Q6 of Q6 and Q4, unless there is no other
    first, rest = known[0], [info for info in known[1:] if info.kind != known[0].kind] or known[1:]
    axes = [first, *rest[:1]]
    keys = [f"obs_{info.name}" for info in axes] + ["energy"] * (2 - len(axes))
    labels = [_axis(info) for info in axes] + [r"potential energy / $k_\mathrm{B}T$"] * (2 - len(axes))
    samples = {}
    if all(key in run.data for key in keys):
        samples["data"] = PairSample(run.data[keys[0]], run.data[keys[1]])
    ours = run.proposal[keys[0]], run.proposal[keys[1]]
    if not run.results.n_chains:
        samples["proposal"] = PairSample(*ours)
    samples[corrected(run.results)] = PairSample(*ours, weight, independent_share(run.results))
    trusted = [sample for name, sample in samples.items() if name != "proposal"]
    number = cells(run.results.independent_fraction * run.results.n_samples, _CELLS)
    edges = []
    for axis, key in enumerate(keys):
        seen = [ProfileSample((sample.x, sample.y)[axis], sample.weight) for sample in trusted]
        counts = key != "energy" and axes[axis].kind in COUNTS
        edges.append(whole_number_edges(seen) if counts else edges_of(seen, number))
    names = [symbol(info.name) for info in axes] + ["the potential energy"] * (2 - len(axes))
    yield RunFigure(
        "map_" + "_".join([info.name for info in axes] + ["energy"] * (2 - len(axes))),
        f"Free energy of {names[0]} and {names[1]}",
        "Each panel is −ln p with its own lowest cell at 0, on one colour scale, lightly smoothed; white "
        f"where nothing was sampled. {SURFACE_ERRORS} Thin lines: contours."
        + (" Dashed: basin boundaries; above the panels: basin populations." if run.results.basins else ""),
        f"Free-energy maps of {names[0]} and {names[1]} from {what_is_shown(run.results)}.",
        observable_free_energy(
            samples,
            (edges[0], edges[1]),
            _regions(run.results, [info.name for info in axes]),
            labels=(labels[0], labels[1]),
            error_of=corrected(run.results),
        ),
        section="surfaces",
    )


def cluster_distances(run: RunFiles) -> Iterator[RunFigure]:
    """Distribution of the distances of all pairs."""
    found = read_pairs(run.cluster)
    if not found:
        return
    caption = (
        "Distribution of the distances of all pairs of particles, normalised to 1, in the system's units of "
        "length; bands: two standard errors to either side, of the data from the spread between simulations."
    )
    if "data" in found and len(found) > 1:
        caption += " Below: what is left after subtracting the data's."
    yield RunFigure(
        "pair_distances",
        "Pair distances",
        caption,
        f"Distribution of pair distances of {what_is_shown(run.results)}.",
        pair_distances(found, independent=independent_share(run.results)),
        section="surfaces",
    )


def _axis(info: ObservableInfo) -> str:
    """The observable's name, and what it is if the name need not say it."""
    kind = info.kind.replace("_", " ")
    remarks = [kind] if info.kind in ("radius_of_gyration", "pair_distance") else []
    remarks += ["reduced units"] if info.unit == "reduced" else []
    name = symbol(info.name) + (f" ({', '.join(remarks)})" if remarks else "")
    return name + (f" / {info.unit}" if info.unit == "nm" else "")


def _regions(results: Results, names: list[str]) -> list[Region]:
    found = []
    for basin in results.basins:
        # the boundaries of a basin of several conditions are no lines across the whole map
        axis = "none" if basin.and_conditions else dict(zip(names, "xy", strict=False)).get(basin.observable)
        intervals = [
            (-math.inf if lo is None else lo, math.inf if hi is None else hi) for lo, hi in basin.intervals
        ]
        shares = {"data": basin.data, "proposal": basin.proposal, corrected(results): basin.reweighted}
        known = {name: share for name, share in shares.items() if share is not None}
        found.append(Region(basin.name, axis or "none", intervals, known))
    return found
