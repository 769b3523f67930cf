"""Figures of free energies: pure functions from numbers to matplotlib figures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.style import COLOURS, WIDTH, styled
from bgdiff.analysis.text import with_error

__all__ = [
    "Band",
    "ForestRow",
    "WorkHistogram",
    "band_curves",
    "forest",
    "overlap_map",
    "rung_curves",
    "works",
]

Array = NDArray[np.float64]

_KT = r"$k_\mathrm{B}T$"
_DASHED = (0, (5, 2))


class ForestRow(NamedTuple):
    """One estimate in a forest plot. ``kind``: quoted, usable, check (not exact) or refused."""

    name: str
    value: float | None
    std_error: float | None
    kind: str = "usable"


class Band(NamedTuple):
    """A curve with the ends of its band, each ``(n,)``; nan where nothing is known."""

    x: ArrayLike
    value: ArrayLike
    low: ArrayLike
    high: ArrayLike
    label: str = ""


class WorkHistogram(NamedTuple):
    """Shares of the walks by work: edges ``(bins + 1,)``, forward and reverse ``(bins,)``, and -log Z."""

    edges: ArrayLike
    forward: ArrayLike
    reverse: ArrayLike
    crossing: float | None
    label: str = ""


@styled
def forest(
    rows: Sequence[ForestRow], *, label: str, reference: tuple[float, float | None] | None = None
) -> Figure:
    """Draw estimates of one quantity under each other, with one and two standard errors.

    Args:
        rows: from top to bottom; refused ones are named, but no value is drawn.
        label: of the axis.
        reference: value and standard error, drawn as a line and a band of one standard error.
    """
    figure = Figure(figsize=(0.86 * WIDTH, 0.85 + 0.27 * max(len(rows), 2)), layout="constrained")
    ax = figure.subplots()
    if reference is not None:
        value, error = reference
        ax.axvline(
            value, color=COLOURS["exact"], linewidth=0.9, linestyle=_DASHED, zorder=1, label="reference"
        )
        if error:
            ax.axvspan(
                value - error, value + error, color=COLOURS["exact"], alpha=0.10, linewidth=0, zorder=0
            )
    shown = [row for row in rows if row.value is not None and row.kind != "refused"]
    for y, row in enumerate(rows):
        _forest_row(ax, y, row)
    _forest_range(ax, shown, reference)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_color(_row_colour(row) if row.kind != "usable" else COLOURS["exact"])
        tick.set_fontweight("bold" if row.kind == "quoted" else "normal")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    right = ax.secondary_yaxis("right")
    right.set_yticks(
        range(len(rows)),
        ["refused" if row.kind == "refused" else with_error(row.value, row.std_error) for row in rows],
    )
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    for tick, row in zip(right.get_yticklabels(), rows, strict=True):
        tick.set_color(_row_colour(row) if row.kind != "usable" else COLOURS["exact"])
        tick.set_fontweight("bold" if row.kind == "quoted" else "normal")
    if reference is not None:
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    return figure


@styled
def rung_curves(
    sigma: ArrayLike, learned: ArrayLike, mbar: ArrayLike, mbar_std_error: ArrayLike, *, limit: float = 0.1
) -> Figure:
    """Draw the rungs' free energies f_k, learned and by MBAR, and below their difference.

    Args:
        sigma: noise of the rungs ``(M,)``; rung 0, which has none, is drawn left of the others.
        learned: f_k of training ``(M,)``, nan where none was learned.
        mbar, mbar_std_error: f_k from samples of the rungs, and standard errors ``(M,)``.
        limit: of the difference, drawn as a band.
    """
    noise, f, g, error = (np.asarray(a, dtype=np.float64) for a in (sigma, learned, mbar, mbar_std_error))
    place = np.where(noise > 0, noise, np.nan)
    smallest = float(np.nanmin(place))
    place = np.where(noise > 0, noise, smallest / 1.8)
    known = np.isfinite(f)
    figure = Figure(figsize=(0.72 * WIDTH, 3.4 if known.any() else 2.5), layout="constrained")
    axes = figure.subplots(
        2 if known.any() else 1, 1, sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": [2.2, 1.3]} if known.any() else None,
    )[:, 0]  # fmt: skip
    axes[0].plot(place, g, "o", markersize=3.6, markerfacecolor="none", markeredgewidth=1.0,
                 color=COLOURS["reweighted"], label="MBAR over rungs", zorder=3)  # fmt: skip
    if known.any():
        axes[0].plot(place[known], f[known], color=COLOURS["proposal"], label="learned normalisers", zorder=2)
        axes[1].axhspan(-limit, limit, color=COLOURS["muted"], alpha=0.15, linewidth=0, zorder=0)
        axes[1].axhline(0, color=COLOURS["exact"], linewidth=0.9, linestyle=_DASHED, zorder=1)
        gap = f[known] - g[known]
        axes[1].errorbar(place[known], gap, yerr=np.nan_to_num(error[known]), fmt="o", markersize=2.8,
                         elinewidth=0.9, color=COLOURS["proposal"], zorder=3)  # fmt: skip
        axes[1].set_ylabel(rf"$\Delta f$ / {_KT}")
        reach = max(1.25 * limit, 1.15 * float(np.max(np.abs(gap) + np.nan_to_num(error[known]))))
        axes[1].set_ylim(-reach, reach)
        axes[1].yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))  # with short labels
        axes[1].annotate(f"±{limit:g}", (0.995, limit), xycoords=("axes fraction", "data"), ha="right",
                         va="bottom", fontsize=6.5, color=COLOURS["muted"])  # fmt: skip
    axes[0].set_ylabel(rf"$f_k$ / {_KT}")
    axes[0].legend(loc="best")
    axes[-1].set_xscale("log")
    axes[-1].set_xlabel(r"noise $\sigma_k$")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if (noise == 0).any():
        for ax in axes:
            ax.axvline(smallest / 1.34, color=COLOURS["muted"], linewidth=0.6, linestyle=(0, (1, 2)))
        axes[-1].annotate("target", (smallest / 1.8, 0.04), xycoords=("data", "axes fraction"), ha="center",
                          fontsize=6.5, color=COLOURS["muted"])  # fmt: skip
        _leave_out_far_target(axes[0], smallest / 1.8, g[noise == 0], g[noise > 0])
    return figure


def _leave_out_far_target(ax: Axes, place: float, target: Array, rungs: Array) -> None:
    """Scale the axis to the rungs if the target, hundreds of kT away, would flatten them; say where it is."""
    low, high = float(rungs.min()), float(rungs.max())
    span = max(high - low, 1e-6)
    value = float(target[0])
    if low - 2 * span <= value <= high + 2 * span:
        return
    ax.set_ylim(low - 0.15 * span, high + 0.15 * span)
    above = value > high
    text = f"{value:.1f}".replace("-", "\N{MINUS SIGN}")
    ax.annotate(text, (place, 1.0 if above else 0.0), (place, 0.84 if above else 0.16),
                xycoords=("data", "axes fraction"), textcoords=("data", "axes fraction"), ha="center",
                va="center", fontsize=6.5, color=COLOURS["reweighted"],
                arrowprops={"arrowstyle": "->", "color": COLOURS["reweighted"]})  # fmt: skip


@styled
def overlap_map(overlap: ArrayLike, labels: Sequence[str], *, limit: float = 0.03) -> Figure:
    """Draw the overlap matrix ``(M, M)`` of neighbouring ensembles; small ones with numbers.

    Args:
        overlap: rows sum to 1; O_ij is the chance that a sample of i could as well be one of j.
        labels: of the ensembles.
        limit: below which neighbours count as not connected; such fields are outlined.
    """
    matrix = np.asarray(overlap, dtype=np.float64)
    m = len(matrix)
    side = 1.0 + 0.2 * min(max(m, 8), 14)
    figure = Figure(figsize=(min(side + 0.9, WIDTH), side), layout="constrained")
    ax = figure.subplots()
    shades = LinearSegmentedColormap.from_list("overlap", ["#FFFFFF", "#BFE5D9", COLOURS["reweighted"]])
    picture = ax.imshow(matrix, cmap=shades, vmin=0, vmax=float(matrix.max()), aspect="equal")
    if m <= 14:
        for i in range(m):
            for j in range(m):
                if matrix[i, j] >= 0.005:
                    ax.text(j, i, f"{matrix[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=6.2)
    for i in range(m - 1):
        if matrix[i, i + 1] < limit or matrix[i + 1, i] < limit:
            for a, b in ((i, i + 1), (i + 1, i)):
                corner = np.array([-0.5, 0.5, 0.5, -0.5, -0.5])
                ax.plot(a + corner, b + np.roll(corner, 1), color=COLOURS["alarm"], linewidth=1.2)
    step = max(1, -(-m // 14))
    ticks = list(range(0, m, step))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticklabels([labels[i] for i in ticks], rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticklabels([labels[i] for i in ticks])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(r"noise $\sigma$ of the rung")
    bar = figure.colorbar(picture, ax=ax, shrink=0.75, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("overlap")
    return figure


@styled
def works(panels: Sequence[WorkHistogram], forward: str = "walks down", reverse: str = "walks up") -> Figure:
    """Draw the distributions of works of both directions, on one axis each; they cross at ΔF (Crooks 1999).

    Args:
        panels: one for each region.
        forward, reverse: what the two are called.
    """
    n = len(panels)
    figure = Figure(figsize=(WIDTH if n > 1 else 0.6 * WIDTH, 2.5), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        edges = np.asarray(panel.edges, dtype=np.float64)
        top = 0.0
        for values, name, text in (
            (panel.forward, "proposal", forward),
            (panel.reverse, "data", reverse),
        ):
            density = np.asarray(values, dtype=np.float64) / np.diff(edges)
            top = max(top, float(density.max()))
            ax.stairs(density, edges, color=COLOURS[name], label=text, zorder=3)
            ax.stairs(density, edges, color=COLOURS[name], alpha=0.15, fill=True, zorder=2)
        if panel.crossing is not None:
            ax.axvline(panel.crossing, color=COLOURS["exact"], linewidth=0.9, linestyle=_DASHED, zorder=4,
                       label="crossing")  # fmt: skip
        ax.set(xlabel=f"work / {_KT}", xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * top))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        if panel.label:
            ax.set_title(panel.label, loc="left")
    axes[0].set_ylabel(rf"probability density $\times\ ${_KT}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return figure


@styled
def band_curves(
    curves: Sequence[Band],
    *,
    xlabel: str,
    ylabel: str,
    periodic: bool = False,
    marker: str = "",
    at: tuple[float, str] | None = None,
    highest: float | None = None,
) -> Figure:
    """Draw curves with confidence bands.

    Args:
        curves: each with its band; labels are shown if there are several.
        periodic: the x axis is a circle in degrees.
        marker: of the points, such as ``o``; by default there is only a line.
        at: a place on the x axis to mark, and what it is.
        highest: value up to which the y axis goes at most, from 0.
    """
    figure = Figure(figsize=(0.72 * WIDTH, 2.7), layout="constrained")
    ax = figure.subplots()
    palette = [COLOURS[name] for name in ("reweighted", "data", "proposal", "alarm", "muted")]
    for number, curve in enumerate(curves):
        x, value, low, high = (np.asarray(a, dtype=np.float64) for a in curve[:4])
        colour = palette[number % len(palette)]
        ax.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0, zorder=1)
        ax.plot(x, value, marker=marker, markersize=3.2, color=colour, label=curve.label, zorder=3)
    if at is not None:
        ax.axvline(at[0], color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(at[1], (at[0], 0.98), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", va="top", fontsize=6.5, color=COLOURS["muted"])  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.02)
    if highest is not None:
        tops = [np.nanmax(np.asarray(curve.value, dtype=np.float64), initial=0.0) for curve in curves]
        ax.set_ylim(-0.04 * min(highest, max(tops)), 1.05 * min(highest, max(tops)))
    if periodic:
        ax.set_xlim(-180, 180)
        ax.xaxis.set_major_locator(MultipleLocator(60))
        ax.xaxis.set_minor_locator(MultipleLocator(30))
    if len(curves) > 1 or (curves and curves[0].label):
        ax.legend(loc="best")
    return figure


def _forest_row(ax: Axes, y: int, row: ForestRow) -> None:
    colour = _row_colour(row)
    if row.kind == "quoted":
        ax.axhspan(y - 0.42, y + 0.42, color=colour, alpha=0.10, linewidth=0, zorder=0)
    if row.value is None or row.kind == "refused":
        return
    error = row.std_error or 0.0
    ax.plot([row.value - 2 * error, row.value + 2 * error], [y, y], color=colour, linewidth=0.9, zorder=2)
    ax.plot([row.value - error, row.value + error], [y, y], color=colour, linewidth=2.6, zorder=3,
            solid_capstyle="butt")  # fmt: skip
    check, size = row.kind == "check", 5.0 if row.kind == "quoted" else 4.0
    ax.plot(row.value, y, "D" if check else "o", markersize=size, color=colour,
            markerfacecolor="white" if check else colour, zorder=4)  # fmt: skip


def _forest_range(ax: Axes, shown: Sequence[ForestRow], reference: tuple[float, float | None] | None) -> None:
    ends = [(row.value or 0.0) + side * 2.2 * (row.std_error or 0.0) for row in shown for side in (-1, 1)]
    if reference is not None:
        ends += [reference[0] + side * (reference[1] or 0.0) for side in (-1, 1)]
    if not ends:
        ax.xaxis.set_visible(False)
        return
    lo, hi = min(ends), max(ends)
    margin = 0.06 * (hi - lo) or 0.05
    ax.set_xlim(lo - margin, hi + margin)


def _row_colour(row: ForestRow) -> str:
    names = {"quoted": "reweighted", "usable": "data", "check": "proposal", "refused": "muted"}
    return COLOURS[names[row.kind]]
