"""One-dimensional free-energy profiles with error bands, against the exact curve where it is known."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from bgdiff.analysis.style import COLOURS, LABELS, WIDTH, styled
from bgdiff.free_energy.profile import free_energy_profile as estimated_profile

_HIGHEST = 12.0  # kT shown above the lowest value; nothing is sampled beyond
_MOST_BARS = 40

__all__ = [
    "ExactProfile",
    "Profile",
    "ProfileSample",
    "count_profile",
    "edges_of",
    "free_energy_profile",
    "profile",
    "whole_number_edges",
]

Array = NDArray[np.float64]


class ProfileSample(NamedTuple):
    """An observable of n conformations with their weights (None: all equal). Radian if it is a torsion."""

    value: Array
    weight: Array | None = None
    independent: float = 1.0
    """Share of them that are independent draws, by which squared errors are divided."""


class ExactProfile(NamedTuple):
    """A curve F(value), up to a constant, on an ascending grid; kT."""

    value: Array
    free_energy: Array


class Profile(NamedTuple):
    """Free energy by bin: edges (bins + 1,), -ln of the density (bins,) in kT, its standard error (bins,).

    Empty bins are nan.
    """

    edges: Array
    free_energy: Array
    std_error: Array


def free_energy_profile(sample: ProfileSample, edges: Array) -> Profile:
    """Estimate -ln p in kT, p the density per unit of the observable, and its delta-method error.

    The density is normalised over all samples, those outside the bins included.
    """
    value = np.asarray(sample.value, dtype=np.float64)
    weight = np.ones(value.size) if sample.weight is None else np.asarray(sample.weight, dtype=np.float64)
    used = np.isfinite(value) & (weight > 0)
    if not used.any():
        nothing = np.full(edges.size - 1, np.nan)
        return Profile(edges, nothing, nothing)
    log_weight = np.full(value.size, -np.inf)
    log_weight[used] = np.log(weight[used])
    estimate = estimated_profile(value, edges, log_weight=log_weight)
    empty = np.isinf(estimate.free_energy)
    energy, error = (np.where(empty, np.nan, part) for part in (estimate.free_energy, estimate.std_error))
    return Profile(edges, energy, error / np.sqrt(sample.independent))


@styled
def profile(
    samples: Mapping[str, ProfileSample],
    *,
    label: str,
    unit: str = "",
    periodic: bool = False,
    exact: ExactProfile | None = None,
    boundaries: Sequence[float] = (),
    bins: int = 60,
) -> Figure:
    """Draw profiles of one observable over each other; with ``exact``, the deviation from it below.

    Args:
        samples: by name, usually ``data``, ``proposal`` and ``reweighted``; the last has the error band.
        label: the observable's name on the axis, and ``unit`` its unit; torsions (``periodic``) are given
            in radian and drawn in degrees.
        exact: the true curve, in the observable's unit.
        boundaries: of basins, in the unit of the axis.
        bins: over the range of the axis.
    """
    scale = 180 / np.pi if periodic else 1.0
    samples = {
        name: sample._replace(value=np.asarray(sample.value) * scale) for name, sample in samples.items()
    }
    edges = np.linspace(-180, 180, bins + 1) if periodic else edges_of(list(samples.values()), bins)
    curves = {name: free_energy_profile(sample, edges) for name, sample in samples.items()}
    truth = None if exact is None else _exact_bins(exact, edges)
    main = list(curves)[-1]
    zero = _lowest(curves[main].free_energy if truth is None else truth)
    rows = 1 if truth is None else 2
    figure = Figure(figsize=(0.72 * WIDTH, 2.7 if rows == 1 else 3.6), layout="constrained")
    axes = figure.subplots(
        rows, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [1] if rows == 1 else [3, 1.1]}
    )[:, 0]
    top = axes[0]
    for name, curve in curves.items():
        _draw(top, curve._replace(free_energy=curve.free_energy - zero), name, band=name == main)
    if exact is not None and truth is not None:
        inside = (exact.value >= edges[0]) & (exact.value <= edges[-1])
        top.plot(
            exact.value[inside],
            exact.free_energy[inside] + _constant(exact) - zero,
            color=COLOURS["exact"],
            linewidth=0.9,
            linestyle=(0, (5, 2)),
            label=LABELS["exact"],
            zorder=4,
        )
        _draw_deviation(axes[1], curves[main], truth, main)
    heights = [np.nanmax(c.free_energy, initial=zero) for c in curves.values()]
    top.set_ylim(-0.3, np.clip(float(np.max(heights)) - zero + 0.5, 1.0, _HIGHEST))
    top.set_ylabel(r"free energy / $k_\mathrm{B}T$")
    top.legend(loc="upper center", ncols=4, bbox_to_anchor=(0.5, 1.13), borderaxespad=0)
    for ax in axes:
        for bound in boundaries:
            if edges[0] < bound < edges[-1]:
                ax.axvline(bound, color=COLOURS["muted"], linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel(f"{label} / {'degree' if periodic else unit}" if periodic or unit else label)
    if periodic:
        axes[-1].xaxis.set_major_locator(MultipleLocator(60))
        axes[-1].xaxis.set_minor_locator(MultipleLocator(30))
    return figure


@styled
def count_profile(
    samples: Mapping[str, ProfileSample], *, label: str, boundaries: Sequence[float] = ()
) -> Figure:
    """Draw -ln p of a number that counts, in kT, as bars side by side; ± one standard error on the last.

    More than 40 numbers are drawn as steps with a band instead.

    Args:
        samples: by name, usually ``data``, ``proposal`` and ``reweighted``.
        label: the observable's name on the axis.
        boundaries: of basins.
    """
    edges = whole_number_edges(list(samples.values()))
    number = (edges[:-1] + edges[1:]) / 2
    curves = {name: free_energy_profile(sample, edges) for name, sample in samples.items()}
    main = list(curves)[-1]
    zero = _lowest(curves[main].free_energy)
    figure = Figure(figsize=(0.72 * WIDTH, 2.7), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(curves)
    for position, (name, curve) in enumerate(curves.items()):
        if number.size > _MOST_BARS:
            _draw(ax, curve._replace(free_energy=curve.free_energy - zero), name, band=name == main)
            continue
        height = curve.free_energy - zero
        place = number + (position - (len(curves) - 1) / 2) * width
        seen = np.isfinite(height)
        # a bar begins below the axis, so that the lowest free energy, 0, is a bar as well
        ax.bar(
            place[seen], height[seen] + 0.3, width, bottom=-0.3, color=COLOURS.get(name, COLOURS["muted"]),
            yerr=curve.std_error[seen] if name == main else None, label=LABELS.get(name, name),
            error_kw={"elinewidth": 0.8, "capsize": 1.5}, zorder=2,
        )  # fmt: skip
    highest = max(float(np.nanmax(curve.free_energy, initial=zero)) - zero for curve in curves.values())
    ax.set_ylim(-0.3, np.clip(highest + 0.5, 1.0, _HIGHEST))
    ax.set_ylabel(r"free energy / $k_\mathrm{B}T$")
    ax.set_xlabel(label)
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    for bound in boundaries:
        if edges[0] < bound < edges[-1]:
            # of the whole numbers, those from the boundary upwards are beyond it
            ax.axvline(
                np.ceil(bound) - 0.5, color=COLOURS["muted"], linewidth=0.7, linestyle=(0, (4, 3)), zorder=0
            )
    ax.legend(loc="upper center", ncols=4, bbox_to_anchor=(0.5, 1.13), borderaxespad=0)
    return figure


def _draw(ax: Axes, curve: Profile, name: str, band: bool) -> None:
    colour = COLOURS.get(name, COLOURS["muted"])
    ax.stairs(
        curve.free_energy,
        curve.edges,
        baseline=None,
        color=colour,
        linewidth=1.4 if band else 1.0,
        label=LABELS.get(name, name),
        zorder=3 if band else 2,
    )
    if band:
        low, high = curve.free_energy - curve.std_error, curve.free_energy + curve.std_error
        ax.fill_between(
            np.repeat(curve.edges, 2)[1:-1],
            np.repeat(low, 2),
            np.repeat(high, 2),
            color=colour,
            alpha=0.25,
            linewidth=0,
            zorder=1,
        )


def _draw_deviation(ax: Axes, curve: Profile, truth: Array, name: str) -> None:
    centres = (curve.edges[:-1] + curve.edges[1:]) / 2
    known = np.isfinite(curve.free_energy) & (truth < np.nanmin(truth) + _HIGHEST)
    deviation = curve.free_energy - truth
    ax.axhline(0, color=COLOURS["exact"], linewidth=0.9, linestyle=(0, (5, 2)))
    ax.errorbar(
        centres[known],
        deviation[known],
        yerr=curve.std_error[known],
        fmt="o",
        markersize=2.2,
        elinewidth=0.8,
        color=COLOURS.get(name, COLOURS["muted"]),
    )
    ax.set_ylabel(r"deviation / $k_\mathrm{B}T$")
    sure = known & (curve.std_error < 0.3)  # the rim of the distribution has a handful of samples a bin
    reach = np.abs(deviation[sure]) + 1.3 * curve.std_error[sure] if sure.any() else np.array([0.5])
    ax.set_ylim(-float(reach.max()), float(reach.max()))


def edges_of(samples: Sequence[ProfileSample], bins: int) -> Array:
    """Bins over the central 99.98 % of every sample, so that a few strays do not stretch the axis."""
    ends = _central(samples)
    if ends is None:
        return np.linspace(-1.0, 1.0, bins + 1)
    lo, hi = ends
    margin = 0.02 * (hi - lo) or 0.5
    return np.linspace(lo - margin, hi + margin, bins + 1)


def whole_number_edges(samples: Sequence[ProfileSample]) -> Array:
    """Bins of width 1 centred at the whole numbers that the samples reach, strays left out."""
    lo, hi = _central(samples) or (0.0, 0.0)
    return np.arange(round(lo), round(hi) + 2, dtype=np.float64) - 0.5


def _central(samples: Sequence[ProfileSample]) -> tuple[float, float] | None:
    """Ends of the central 99.98 % of all samples; None if they hold nothing."""
    ends = []
    for value, weight, _ in samples:
        used = np.isfinite(value) if weight is None else np.isfinite(value) & (np.asarray(weight) > 0)
        if not used.any():
            continue
        order = np.argsort(value[used])
        share = np.ones(order.size) if weight is None else np.asarray(weight)[used][order]
        below = np.cumsum(share) / share.sum()
        ordered = value[used][order]
        ends.append(ordered[np.searchsorted(below, [1e-4, 1 - 1e-4]).clip(0, order.size - 1)])
    return (float(np.min(ends)), float(np.max(ends))) if ends else None


def _exact_bins(exact: ExactProfile, edges: Array) -> Array:
    """-ln of the exact density averaged over each bin: a histogram measures that, not the curve's centre."""
    shifted = exact.free_energy - exact.free_energy.min()
    density = np.exp(-shifted)
    pieces = np.diff(exact.value) * (density[1:] + density[:-1]) / 2
    cumulative = np.concatenate([[0.0], np.cumsum(pieces)])
    mass = np.diff(np.interp(edges, exact.value, cumulative / cumulative[-1]))
    result = np.full(mass.size, np.nan)
    result[mass > 0] = -np.log(mass[mass > 0] / np.diff(edges)[mass > 0])
    return result


def _constant(exact: ExactProfile) -> float:
    """What turns the curve into -ln of a normalised density."""
    lowest = float(exact.free_energy.min())
    return float(np.log(np.trapezoid(np.exp(lowest - exact.free_energy), exact.value))) - lowest


def _lowest(energy: Array) -> float:
    return float(np.nanmin(energy)) if np.isfinite(energy).any() else 0.0
