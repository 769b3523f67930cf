"""Distributions of the reduced energy, on a linear and on a logarithmic scale, and how far they overlap."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bgdiff.analysis.style import COLOURS, LABELS, WIDTH, styled
from bgdiff.analysis.text import percent

__all__ = ["EnergySample", "energy_histograms"]

Array = NDArray[np.float64]


class EnergySample(NamedTuple):
    """Reduced energies of n conformations with their weights (None: all equal)."""

    energy: Array
    weight: Array | None = None
    independent: float | None = None
    """Share of them that are independent draws; None: not known, so that no error is drawn."""


@styled
def energy_histograms(
    samples: Mapping[str, EnergySample], *, bins: int = 80, overlap: bool = False
) -> Figure:
    """Draw the distributions of the reduced energy, on a linear and on a logarithmic scale.

    A band of one standard error is drawn for samples of which it is known how many are independent.
    The axis spans the central 99.9 % of the data and of the reweighted samples; what lies beyond it, or is
    not finite, is counted in a note.

    Args:
        overlap: note by how much each histogram overlaps with that of the data, Σ min(p, p_data), and how
            much two would if they came from one distribution.
    """
    cleaned = {name: _clean(sample) for name, sample in samples.items()}
    lo, hi = _energy_range(cleaned)
    edges = np.linspace(lo, hi, bins + 1)
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    smallest, densities = np.inf, dict[str, Array]()
    for name, (energy, weight, _) in cleaned.items():
        if energy.size == 0:
            continue
        density = np.histogram(energy, edges, weights=weight)[0] / (weight.sum() * np.diff(edges))
        densities[name] = density
        colour, label = COLOURS.get(name, COLOURS["muted"]), LABELS.get(name, name)
        strong = name in ("reweighted", "chains")
        if samples[name].independent:
            _error_band(axes, energy, weight, edges, samples[name].independent or 1.0, colour)
        for ax in axes:
            ax.stairs(density, edges, color=colour, linewidth=1.5 if strong else 1.1, label=label, zorder=3)
        axes[0].stairs(density, edges, color=colour, alpha=0.12, fill=True, zorder=1)
        if (density > 0).any():  # what one sample amounts to, were they all of equal weight
            smallest = min(smallest, float(1 / (energy.size * np.diff(edges)[0])))
    axes[0].set_ylabel(r"probability density $\times\ k_\mathrm{B}T$")
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    if np.isfinite(smallest):
        axes[1].set_ylim(bottom=smallest * 0.5)
    for ax, letter in zip(axes, "ab", strict=True):
        ax.set_title(letter, loc="left", fontweight="bold")
        ax.set_xlabel(r"potential energy / $k_\mathrm{B}T$")
        ax.set_xlim(lo, hi)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    notes = [note for name, clean in cleaned.items() if (note := _beyond(name, clean, lo, hi))]
    if notes:
        notes = ["beyond the axis:", *notes]
    if overlap and "data" in densities and len(densities) > 1:
        notes += ["overlap with the data:", *_overlaps(cleaned, densities, float(edges[1] - edges[0]))]
    if notes:
        axes[0].set_ylim(top=axes[0].get_ylim()[1] * (1 + 0.125 * len(notes)))  # room above the curves
        axes[0].annotate(
            "\n".join(notes),
            (0.98, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=6.5,
            color=COLOURS["muted"],
        )
    return figure


def _error_band(
    axes: Sequence[Axes], energy: Array, weight: Array, edges: Array, independent: float, colour: str
) -> None:
    """One standard error to either side: Σ w² (h - p)² / (Σ w)² for each bin's share p, h being 0 or 1."""
    total, width = weight.sum(), np.diff(edges)
    share = np.histogram(energy, edges, weights=weight)[0] / total
    squares = np.histogram(energy, edges, weights=weight**2)[0]
    variance = squares * (1 - 2 * share) + share**2 * (weight**2).sum()
    error = np.sqrt(np.maximum(variance, 0.0) / independent) / total
    low, high = (np.repeat((share + sign * error) / width, 2) for sign in (-1, 1))
    for ax in axes:
        ax.fill_between(
            np.repeat(edges, 2)[1:-1], np.maximum(low, 0.0), high, color=colour, alpha=0.25, linewidth=0,
            zorder=2,
        )  # fmt: skip


def _clean(sample: EnergySample) -> tuple[Array, Array, float]:
    """Energies and weights that can be drawn, and the share of samples that are not finite."""
    energy = np.asarray(sample.energy, dtype=np.float64)
    weight = np.ones(energy.size) if sample.weight is None else np.asarray(sample.weight, dtype=np.float64)
    finite = np.isfinite(energy)
    used = finite & (weight > 0)
    return energy[used], weight[used], float((~finite).mean()) if energy.size else 0.0


def _energy_range(cleaned: Mapping[str, tuple[Array, Array, float]]) -> tuple[float, float]:
    ends = []
    trusted = [name for name in ("data", "reweighted", "chains") if name in cleaned] or list(cleaned)
    for name in trusted:
        energy, weight, _ = cleaned[name]
        if energy.size:
            order = np.argsort(energy)
            below = np.cumsum(weight[order]) / weight.sum()
            rows = np.searchsorted(below, [5e-4, 1 - 5e-4]).clip(0, energy.size - 1)
            ends.append(energy[order][rows])
    if not ends:
        return 0.0, 1.0
    lo, hi = float(np.min(ends)), float(np.max(ends))
    margin = 0.05 * (hi - lo) or 1.0
    return lo - margin, hi + margin


def _beyond(name: str, clean: tuple[Array, Array, float], lo: float, hi: float) -> str:
    energy, weight, nonfinite = clean
    parts = []
    if energy.size:
        outside = float(weight[(energy < lo) | (energy > hi)].sum() / weight.sum())
        if outside > 5e-4:
            parts.append(percent(outside))
    if nonfinite > 0 and name != "reweighted":  # there they have weight zero
        parts.append(f"{percent(nonfinite)} not finite")
    return f"{LABELS.get(name, name)} {', '.join(parts)}" if parts else ""


def _overlaps(
    cleaned: Mapping[str, tuple[Array, Array, float]], densities: Mapping[str, Array], width: float
) -> list[str]:
    """Overlap of every density with the data's, beside what noise alone would leave of a perfect one.

    That is 1 - ½ Σ E|p - q| with independent normal errors of variance p/n in each bin, n Kish's number.
    """
    lines = []
    size = {
        name: weight.sum() ** 2 / (weight**2).sum()
        for name, (_, weight, _) in cleaned.items()
        if name in densities
    }
    for name, density in densities.items():
        if name == "data":
            continue
        common = width * float(np.minimum(density, densities["data"]).sum())
        share = width * (density + densities["data"]) / 2
        noise = np.sqrt(share * (1 / size[name] + 1 / size["data"]) * 2 / np.pi)
        # errors of a handful are not normal, but |p - q| is at most p + q
        most = max(0.0, 1 - float(np.minimum(noise, 2 * share).sum()) / 2)
        lines.append(f"{LABELS.get(name, name)} {percent(common)} ({percent(most)} if equal)")
    return lines
