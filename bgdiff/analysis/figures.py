"""The figures of a run, with titles and captions, from its files."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.chain_plots import chain_figures
from bgdiff.analysis.cluster_figures import (
    COUNTS,
    SURFACE_ERRORS,
    cluster_distances,
    cluster_map,
    cluster_structures,
    is_cluster,
    observable_map,
    seen_by_all,
)
from bgdiff.analysis.free_energy_plots import rung_curves
from bgdiff.analysis.ladder_plots import ladder_rungs
from bgdiff.analysis.plots import (
    EnergySample,
    ExactProfile,
    PairSample,
    ProfileSample,
    Region,
    energy_histograms,
    profile,
    ramachandran_free_energy,
    training_history,
    weight_distribution,
)
from bgdiff.analysis.profiles import count_profile
from bgdiff.analysis.results import Results
from bgdiff.analysis.run_figure import (
    RunFigure,
    basin_conditions,
    boundaries,
    corrected,
    independent_share,
    what_is_shown,
)
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.rung_record import RungRecord
from bgdiff.analysis.surface_estimates import cells
from bgdiff.analysis.text import symbol
from bgdiff.analysis.weights import normalised_weights

__all__ = ["RunFigure", "draw_figures"]


def draw_figures(
    run: RunFiles, exact: Mapping[str, ExactProfile] | None = None, rungs: RungRecord | None = None
) -> Iterator[RunFigure]:
    """Yield every figure that the files allow.

    Args:
        run: files of the run.
        exact: known free-energy curves by observable.
        rungs: what is known about every rung.
    """
    weight = normalised_weights(run.proposal["log_weight"])
    if is_cluster(run):
        yield from cluster_structures(run)
        yield from cluster_map(run, weight)
    else:
        yield from _surfaces(run, weight)
    yield from _profiles(run, weight, exact or {})
    if is_cluster(run):
        yield from cluster_distances(run)
    yield _energies(run, weight)
    if run.results.n_chains:
        yield from chain_figures(run)
    else:
        yield _weights(run)
    if rungs:
        yield _rungs(run, rungs)
    if run.results.normalisers is not None:
        found = run.results.normalisers
        errors = [np.nan if error is None else error for error in found.mbar_std_error]
        yield RunFigure(
            "normalisers",
            "Learned normalisers",
            "Free energy f = −ln Z of the rungs relative to the prior, as learned in training and by MBAR on "
            "noised data that training has not seen; below their difference with MBAR's standard errors. "
            f"Grey: the {found.LIMIT:g} kT within which they should agree.",
            "Learned free energies of the rungs against those of MBAR.",
            rung_curves(found.sigma, found.learned, found.mbar, errors, limit=found.LIMIT),
            section="ladder",
        )
    if run.history:
        yield RunFigure(
            "training",
            "Training",
            "Loss terms on the training data (line: mean of neighbouring steps, band: 80 % of the steps) and "
            "on held-out data, and the standard deviation of the learned energy's error on held-out data.",
            "Loss terms and held-out diagnostics against training step.",
            training_history(run.history),
            section="training",
        )


def _torsions(results: Results) -> list[str]:
    names = [info.name for info in results.observables if info.kind == "dihedral"]
    preferred = [name for name in ("phi", "psi") if name in names]
    return preferred + [name for name in names if name not in preferred]


def _surfaces(run: RunFiles, weight: NDArray[np.float64]) -> Iterator[RunFigure]:
    names = [name for name in _torsions(run.results) if f"obs_{name}" in run.proposal]
    if len(names) < 2:
        straight = [info for info in run.results.observables if info.kind not in ("dihedral", "angle")]
        yield from observable_map(run, weight, straight)
        return
    x, y = names[:2]
    bins = cells(run.results.independent_fraction * run.results.n_samples, (30, 36, 40, 45, 60, 72))
    samples = {}
    if f"obs_{x}" in run.data and f"obs_{y}" in run.data:
        samples["data"] = PairSample(run.data[f"obs_{x}"], run.data[f"obs_{y}"])
    ours = run.proposal[f"obs_{x}"], run.proposal[f"obs_{y}"]
    if not run.results.n_chains:
        samples["proposal"] = PairSample(*ours)
    samples[corrected(run.results)] = PairSample(*ours, weight, independent_share(run.results))
    regions = []
    for basin in run.results.basins:
        # the boundaries of a basin of several conditions are no lines across the whole map
        axis = "none" if basin.and_conditions else {x: "x", y: "y"}.get(basin.observable, "none")
        intervals = [(lo, hi) for lo, hi in basin.intervals if lo is not None and hi is not None]
        shares = {"data": basin.data, "proposal": basin.proposal}
        shares[corrected(run.results)] = basin.reweighted
        regions.append(
            Region(basin.name, axis, intervals, {k: v for k, v in shares.items() if v is not None})
        )
    yield RunFigure(
        "ramachandran" if {x, y} == {"phi", "psi"} else f"surface_{x}_{y}",
        f"Free energy of {symbol(x)} and {symbol(y)}",
        "Each panel is −ln p with its own lowest bin at 0, on one colour scale; bins of "
        f"{360 / bins:g}°, lightly smoothed; white where nothing was sampled. {SURFACE_ERRORS} Thin lines: "
        "contours. Dashed: basin boundaries; above the panels: basin populations.",
        f"Free-energy maps of {x} and {y} from {what_is_shown(run.results)}.",
        ramachandran_free_energy(
            samples, regions, labels=(symbol(x), symbol(y)), bins=bins, error_of=corrected(run.results)
        ),
        section="surfaces",
    )


def _profiles(
    run: RunFiles, weight: NDArray[np.float64], exact: Mapping[str, ExactProfile]
) -> Iterator[RunFigure]:
    """One for every observable that defines a basin or whose exact curve is known; of clusters for all
    that all particles share.
    """
    wanted = {name for basin in run.results.basins for name, _ in basin_conditions(basin)} | set(exact)
    if is_cluster(run):
        wanted |= {info.name for info in run.results.observables if seen_by_all(info)}
    for info in run.results.observables:
        key = f"obs_{info.name}"
        if info.name not in wanted or key not in run.proposal:
            continue
        scale = np.degrees(1.0) if info.kind == "angle" else 1.0  # torsions are converted when drawn
        samples = {"data": ProfileSample(scale * run.data[key])} if key in run.data else {}
        ours = scale * run.proposal[key]
        if not run.results.n_chains:
            samples["proposal"] = ProfileSample(ours)
        samples[corrected(run.results)] = ProfileSample(ours, weight, independent_share(run.results))
        truth, ends = exact.get(info.name), boundaries(run.results, info)
        if info.kind in COUNTS and truth is None:
            figure = count_profile(samples, label=symbol(info.name), boundaries=ends)
            caption = "−ln of the probability of each number; with one standard error of the last estimate."
        else:
            caption = "−ln of the probability density; band: one standard error of the estimate."
            figure = profile(
                samples,
                label=symbol(info.name) + (" (reduced units)" if info.unit == "reduced" else ""),
                unit={"reduced": "", "own": "", "rad": "degree"}.get(info.unit, info.unit),
                periodic=info.kind == "dihedral",
                exact=truth,
                boundaries=ends,
            )
        if truth is not None:
            caption += " Below: its deviation from the exact curve, both averaged over the bins."
        yield RunFigure(
            f"profile_{info.name}",
            f"Free-energy profile along {symbol(info.name)}",
            caption + (" Dashed vertical lines: basin boundaries." if ends else ""),
            f"Free energy along {info.name} from {what_is_shown(run.results)}.",
            figure,
            section="surfaces",
        )


def _energies(run: RunFiles, weight: NDArray[np.float64]) -> RunFigure:
    energy = run.proposal["energy"]
    samples = {"data": EnergySample(run.data["energy"])} if "energy" in run.data else {}
    if not run.results.n_chains:
        samples["proposal"] = EnergySample(energy)
    samples[corrected(run.results)] = EnergySample(energy, weight, independent_share(run.results))
    return RunFigure(
        "energies",
        "Potential energy",
        "Distribution of the reduced potential energy on a linear (a) and a logarithmic (b) scale. The last "
        "curve is the estimate of the true distribution, with a band of one standard error; it differs from "
        "the data's where their basins are in wrong proportion."
        + (
            " Overlap: common area of two histograms; in brackets what two such sets from one distribution "
            "would have, by noise alone."
            if "data" in samples
            else ""
        ),
        f"Histograms of the potential energy of {what_is_shown(run.results)}.",
        energy_histograms(samples, overlap="data" in samples),
        section="energies",
    )


def _rungs(run: RunFiles, rungs: RungRecord) -> RunFigure:
    parts = []
    if rungs.steps:
        parts.append(
            "variance of each reverse step over that of the noise it takes back; well below 1 the density "
            "changes over the length of a step, and more rungs there would help"
        )
    if rungs.populations:
        parts.append(
            "what each population is worth on its way from the prior (right) to the target; triangles: "
            "resampled"
        )
        if any(np.isfinite(one.acceptance).any() for one in rungs.populations):
            parts.append("acceptance of the moves at each rung")
    if rungs.exchanges:
        parts.append(
            "how often neighbouring rungs exchange their points; the ladder is cut where this is least"
        )
    letters = [f"({letter}) " for letter in "abc"] if len(parts) > 1 else [""]
    caption = "; ".join(f"{letter}{part}" for letter, part in zip(letters, parts, strict=False))
    config = run.manifest.get("config", {}).get("correction", {})
    return RunFigure(
        "ladder",
        "Rung by rung",
        caption[0].upper() + caption[1:] + ". σ is in units of the whitened latents.",
        "Diagnostics of each rung of the ladder against its noise level.",
        ladder_rungs(rungs, threshold=config.get("threshold") if rungs.populations else None),
        section="ladder",
    )


def _weights(run: RunFiles) -> RunFigure:
    held_out = run.held_out.get("log_weight")
    if held_out is not None and (held_out.ndim != 1 or not np.isfinite(held_out).any()):
        held_out = None
    return RunFigure(
        "weights",
        "Importance weights",
        "(a) Distribution of the log weights, centred at the mean weight"
        + (", of the proposal's samples and of held-out data" if held_out is not None else "")
        + ". (b) Share of all weight that the heaviest samples hold. (c) The largest weights and the "
        "generalised Pareto distribution fitted to them; above k = 0.7 error bars can't be trusted.",
        "Distribution, cumulative share and Pareto tail of the importance weights.",
        weight_distribution(run.proposal["log_weight"], held_out),
        section="weights",
    )
