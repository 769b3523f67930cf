"""Figures of a run: pure functions from arrays to matplotlib figures, without any global state."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.energy_plots import EnergySample, energy_histograms
from bgdiff.analysis.profiles import ExactProfile, ProfileSample, profile
from bgdiff.analysis.style import COLOURS, WIDTH, save_figure, styled
from bgdiff.analysis.surfaces import PairSample, Region, ramachandran_free_energy
from bgdiff.analysis.text import count, fraction, percent, two_decimals
from bgdiff.analysis.weights import ParetoTail, ess_kish, pareto_tail
from bgdiff.free_energy.importance import scaled_weights

__all__ = [
    "EnergySample",
    "ExactProfile",
    "PairSample",
    "ProfileSample",
    "Region",
    "energy_histograms",
    "profile",
    "ramachandran_free_energy",
    "save_figure",
    "training_history",
    "weight_distribution",
]

Array = NDArray[np.float64]

_LOWEST = -12.0  # of ln(w/⟨w⟩) that is shown, unless a tenth lies below


@styled
def weight_distribution(log_weight: ArrayLike, held_out_log_weight: ArrayLike | None = None) -> Figure:
    """Draw how even the weights are: their distribution, their cumulative share, and their Pareto tail.

    Args:
        log_weight: (n,) log weights of the proposal's samples; -inf rows are counted in a note.
        held_out_log_weight: (m,) log weights of held-out data, drawn for comparison: the target's own
            distribution of weights, which lies to the right of the proposal's.

    Raises:
        ZeroWeightsError: no log weight is finite.
    """
    values = np.asarray(log_weight, dtype=np.float64)
    weight, scale = scaled_weights(values)
    centre = scale + float(np.log(weight.mean()))
    finite = values[np.isfinite(values)] - centre
    figure = Figure(figsize=(WIDTH, 2.45), layout="constrained")
    left, middle, right = figure.subplots(1, 3)

    held_out = None
    if held_out_log_weight is not None:
        held_out = np.asarray(held_out_log_weight, dtype=np.float64) - centre
        held_out = held_out[np.isfinite(held_out)]
    _log_weight_histogram(left, finite, held_out if held_out is not None and held_out.size else None)
    _cumulative_share(middle, weight, values)
    _pareto_panel(right, values, centre, pareto_tail(values))
    for ax, letter in zip((left, middle, right), "abc", strict=True):
        ax.set_title(letter, loc="left", fontweight="bold")
    return figure


@styled
def training_history(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss terms and the held-out diagnostics over the training steps.

    Args:
        history: records with ``step`` and any of NAME, ``held_out_NAME`` for each objective and
            ``held_out_energy_sd``; panels without data are left out. Lines are means of neighbouring steps,
            bands hold 80 % of the single steps. A thin line marks each further ``round`` of training.
    """
    starts = [
        before["step"]
        for before, record in pairwise(history)
        if record.get("round", 0) != before.get("round", 0)
    ]
    panels: list[tuple[str | None, str, str]] = [
        (name, f"held_out_{name}", _LOSS_TITLES.get(name, f"{name.replace('_', ' ')} loss"))
        for name in dict.fromkeys(key.removeprefix("held_out_") for record in history for key in record)
        if name not in _NO_LOSSES
    ]
    panels.append((None, "held_out_energy_sd", r"sd of energy error / $k_\mathrm{B}T$"))
    present = [
        (train, held_out, title)
        for train, held_out, title in panels
        if any(_series(history, key)[0].size for key in (train, held_out) if key)
    ]
    columns = min(3, max(len(present), 1))
    rows = max(1, -(-len(present) // columns))
    figure = Figure(figsize=(WIDTH, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for spare in axes[len(present) :]:
        spare.set_axis_off()
    axes = axes[: max(len(present), 1)]
    for ax, (train, held_out, title) in zip(axes, present, strict=False):
        shown = []
        if train:
            steps, values = _series(history, train)
            if steps.size:
                shown.append(_smooth_line(ax, steps, values))
        steps, values = _series(history, held_out)
        if steps.size:
            ax.plot(
                steps,
                values,
                "o-",
                color=COLOURS["alarm"],
                markersize=2.8,
                linewidth=1.0,
                label="held out",
                zorder=4,
            )
            shown.append(values)
        everything = np.concatenate(shown)
        if everything.min() > 0 and everything.max() > 8 * everything.min():
            ax.set_yscale("log")
            _plain_log_axis(ax.yaxis, everything)
        elif train is None:  # an error: zero is its natural origin
            ax.set_ylim(0, 1.1 * everything.max())
        for number, start in enumerate(starts, 1):
            ax.axvline(start, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            if ax is axes[-1]:  # errors start at zero, so there is room below
                ax.annotate(
                    f"round {number}", (start, 0.03), xycoords=("data", "axes fraction"), rotation=90,
                    xytext=(2, 0), textcoords="offset points", fontsize="x-small", color=COLOURS["muted"],
                )  # fmt: skip
        ax.set_title(title, loc="left")
        ax.set_xlabel("training step")
        ax.tick_params(labelbottom=True)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: count(step)))
        ax.margins(x=0.02)
        ax.legend(loc="best")
    if not present:
        axes[0].set_axis_off()
        axes[0].annotate("no training history", (0.5, 0.5), xycoords="axes fraction", ha="center")
    return figure


_LOSS_TITLES = {
    "mixed_score": "score-matching loss",
    "bi_level": "DiffCLF loss",
    "multi_level": "multi-level DiffCLF loss",
    # as runs of earlier versions recorded them
    "score": "score-matching loss",
    "diffclf": "DiffCLF loss",
}
_NO_LOSSES = {"step", "elapsed", "loss", "lr", "grad_norm", "round", "energy_sd"}


def _log_weight_histogram(ax: Axes, finite: Array, held_out: Array | None) -> None:
    shown = finite if held_out is None else np.concatenate([finite, held_out])
    lo, typical, hi = np.quantile(shown, [2e-3, 0.1, 1.0])
    lo = max(lo, min(_LOWEST, typical))  # what weighs nothing need not be seen in full
    margin = 0.04 * (hi - lo) or 0.5
    edges = np.linspace(lo - margin, hi + margin, 61)
    for values, name, label in (
        (finite, "proposal", "samples of the proposal"),
        (held_out, "data", "held-out data"),
    ):
        if values is not None:
            density = np.histogram(values, edges)[0] / (values.size * np.diff(edges))
            ax.stairs(density, edges, color=COLOURS[name], label=label, zorder=3)
            ax.stairs(density, edges, color=COLOURS[name], alpha=0.15, fill=True, zorder=2)
    beyond = float(np.mean(finite < edges[0]))
    if beyond >= 5e-3:
        ax.annotate(
            f"← {percent(beyond)} further left", (0.02, 0.68), xycoords="axes fraction", fontsize=6.5,
            color=COLOURS["muted"],
        )  # fmt: skip
    ax.axvline(0, ymax=0.65, color=COLOURS["muted"], linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    ax.set(xlabel=r"$\ln(w/\langle w\rangle)$", ylabel="probability density", xlim=(edges[0], edges[-1]))
    ax.set_ylim(0, ax.get_ylim()[1] * 1.35)
    ax.legend(loc="upper left", borderaxespad=0.2)


def _cumulative_share(ax: Axes, weight: Array, log_weight: Array) -> None:
    """Share of the weight held by the heaviest samples, against their share of all samples."""
    n = weight.size
    ordered = np.sort(weight)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    rows = np.unique(np.geomspace(1, n, 400).astype(np.intp)) - 1  # a curve of 400 points shows as much
    share = (rows + 1) / n
    ax.plot(share, held[rows], color=COLOURS["reweighted"], label="this run", zorder=3)
    ax.plot(share, share, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (5, 2)), label="equal weights")
    ax.set(xscale="log", yscale="log", xlabel="heaviest fraction of the samples", ylabel="share of weight")
    ax.set_xlim(min(1 / n, 0.5), 1)
    ax.set_ylim(min(1 / n, held[0]) * 0.8, 1.25)
    ax.legend(loc="lower right")
    zero = int(n - np.count_nonzero(np.isfinite(log_weight)))
    lines = [
        f"ESS {fraction(ess_kish(log_weight))}, N = {count(n)}",
        f"largest share {percent(float(held[0]))}",
    ]
    if zero:
        lines.append(f"{count(zero)} of weight zero")
    _note(ax, lines)


def _pareto_panel(ax: Axes, log_weight: Array, centre: float, tail: ParetoTail | None) -> None:
    """Fraction of samples heavier than w, for the largest weights, with the fitted distribution."""
    ax.set(xlabel=r"weight $w/\langle w\rangle$", ylabel="fraction of heavier samples")
    if tail is None:
        ax.set_axis_off()
        ax.annotate("too few distinct weights\nfor a tail", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    m, n = tail.log_weight.size, log_weight.size
    heavier = (m - np.arange(m) - 0.5) / n
    ax.plot(
        np.exp(tail.log_weight - centre), heavier, "o", color=COLOURS["proposal"], markersize=2.0, zorder=2
    )
    top = float(tail.log_weight[-1])  # the fit's unit is the largest weight
    threshold = np.exp(tail.log_threshold - top)
    excess = np.geomspace(threshold, 1, 300) - threshold if threshold > 0 else np.geomspace(1e-300, 1, 300)
    if abs(tail.shape) > 1e-9:
        base = np.maximum(1 + tail.shape * excess / tail.scale, 1e-300)
        survival = base ** (-1 / tail.shape)
    else:
        survival = np.exp(-excess / tail.scale)
    weight = (threshold + excess) * np.exp(top - centre)
    ax.plot(weight, survival * m / n, color=COLOURS["exact"], linewidth=1.0, label="Pareto fit", zorder=3)
    ax.set(xscale="log", yscale="log", ylim=(0.3 / n, 1.6 * m / n))
    _plain_log_axis(ax.xaxis, weight)
    _note(ax, [f"$\\hat k$ = {two_decimals(tail.shape)}", f"{count(m)} largest weights"], below=True)


def _plain_log_axis(axis: Axis, values: Array) -> None:
    """Label a logarithmic axis of less than two decades with plain numbers."""
    if values.max() >= 100 * values.min():
        return
    if values.max() < 6 * values.min():  # too short for 1, 2, 5
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _note(ax: Axes, lines: Sequence[str], below: bool = False) -> None:
    ax.annotate(
        "\n".join(lines),
        (0.04, 0.05 if below else 0.97),
        xycoords="axes fraction",
        va="bottom" if below else "top",
        fontsize=7.0,
    )


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    rows = [(record["step"], record[key]) for record in history if _finite(record.get(key))]
    array = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _smooth_line(ax: Axes, steps: Array, values: Array) -> Array:
    """Means of up to 120 groups of neighbouring steps, and a band that holds 80 % of each group."""
    groups = np.array_split(np.arange(steps.size), min(120, steps.size))
    x = np.array([steps[rows].mean() for rows in groups])
    mean = np.array([values[rows].mean() for rows in groups])
    if steps.size > 240:
        low, high = (np.array([np.quantile(values[rows], q) for rows in groups]) for q in (0.1, 0.9))
        ax.fill_between(x, low, high, color=COLOURS["data"], alpha=0.18, linewidth=0, zorder=1)
    ax.plot(x, mean, color=COLOURS["data"], label="training", zorder=3)
    return mean
