"""The ladder rung by rung: how far steps go, how even populations stay, how often moves are accepted."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from bgdiff.analysis.rung_record import Exchanges, Population, RungRecord, Steps
from bgdiff.analysis.style import COLOURS, WIDTH, styled
from bgdiff.analysis.text import count

__all__ = ["ladder_rungs"]

Array = NDArray[np.float64]


@styled
def ladder_rungs(record: RungRecord, *, threshold: float | None = None) -> Figure:
    """Draw what is known about every rung, against its noise σ; the target is to the left.

    Args:
        threshold: effective fraction below which populations are resampled.
    """
    populations = record.populations
    moved = any(np.isfinite(one.acceptance).any() for one in populations)
    panels = [
        *(["steps"] if record.steps else []),
        *(["populations"] if populations else []),
        *(["moves"] if moved else []),
        *(["exchanges"] if record.exchanges else []),
    ]
    figure = Figure(figsize=(WIDTH if len(panels) > 1 else 0.62 * WIDTH, 2.5), layout="constrained")
    axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for ax, panel, letter in zip(axes, panels, "abcd", strict=False):
        if panel == "steps" and record.steps:
            _steps(ax, record.steps)
        elif panel == "populations":
            _populations(ax, populations, threshold)
        elif panel == "moves":
            _moves(ax, populations)
        elif record.exchanges:
            _exchanges(ax, record.exchanges)
        ax.set(xscale="log", ylim=(0, 1.03), xlabel=r"noise $\sigma$ of the rung")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if len(panels) > 1:
            ax.set_title(letter, loc="left", fontweight="bold")
        ax.tick_params(labelleft=True)
    return figure


def _steps(ax: Axes, steps: Steps) -> None:
    low, middle, high = steps.spread.T
    ax.fill_between(
        steps.sigma, low, high, color=COLOURS["data"], alpha=0.2, linewidth=0, label="80 % of the axes"
    )
    ax.plot(steps.sigma, middle, color=COLOURS["data"], label="median of the axes")
    ax.set_ylabel(r"variance of the step, $v/D$")
    ax.legend(loc="lower right")


def _populations(ax: Axes, populations: tuple[Population, ...], threshold: float | None) -> None:
    for number, one in enumerate(populations):
        ax.plot(
            one.sigma, one.effective, color=COLOURS["reweighted"],
            linewidth=0.9 if len(populations) > 1 else 1.3, alpha=max(0.25, 1 / len(populations) ** 0.5),
            label="population" if number == 0 else None,
        )  # fmt: skip
        at = one.resampled
        ax.plot(
            one.sigma[at], one.effective[at], "v", color=COLOURS["alarm"], markersize=4,
            label="resampled" if number == 0 and any(p.resampled.any() for p in populations) else None,
        )  # fmt: skip
    if threshold is not None:
        ax.axhline(threshold, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), label="threshold")
    ax.set_ylabel("effective fraction")
    if len(populations) > 1:
        ax.set_title(f"{count(len(populations))} populations", loc="right", fontsize=7.0)
    ax.legend(loc="lower right")


def _moves(ax: Axes, populations: tuple[Population, ...]) -> None:
    for one in populations:
        known = np.isfinite(one.acceptance)
        ax.plot(
            one.sigma[known], one.acceptance[known], color=COLOURS["proposal"], linewidth=0.9,
            alpha=max(0.25, 1 / len(populations) ** 0.5),
        )  # fmt: skip
    ax.set_ylabel("acceptance of moves")


def _exchanges(ax: Axes, exchanges: Exchanges) -> None:
    ax.plot(exchanges.sigma, exchanges.rate, "o-", color=COLOURS["chains"], markersize=3, linewidth=1.0)
    ax.set_ylabel("exchanges with the rung below")
