"""The figure of several runs beside each other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bgdiff.analysis.run_comparison import ComparedRun, RunComparison
from bgdiff.analysis.style import COLOURS, WIDTH, styled
from bgdiff.analysis.summary import MARKS

__all__ = ["comparison_figure"]

_LEVELS = {"reliable": "#00664A", "use with caution": "#7D5200", "not reliable": "#A83300"}
_KT = r"$k_\mathrm{B}T$"
_STAGES = {"training": COLOURS["data"], "sampling": COLOURS["proposal"], "rest": COLOURS["muted"]}


class _Panel(NamedTuple):
    """Values and errors of the runs, nan where not known, with a reference and its error."""

    label: str
    value: Sequence[float]
    error: Sequence[float]
    reference: float | None = None
    reference_error: float | None = None
    floor: Sequence[float] | None = None
    limits: tuple[float, float | None] | None = None


@styled
def comparison_figure(compared: RunComparison) -> Figure:
    """Draw what the runs are worth, estimate and cost: a panel for each, a row for every run.

    Errors are one standard error (thick) and two (thin); dashed lines and bands are references with theirs.
    The mark before a run's name is its verdict.
    """
    panels = list(_panels(compared))
    columns = 2 if len(panels) + 1 in (2, 4) else 3
    rows = -(-(len(panels) + 1) // columns)
    n = len(compared.runs)
    figure = Figure(figsize=(WIDTH, rows * (0.75 + 0.24 * n)), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _points(ax, panel)
    _costs(axes[len(panels)], compared.runs)
    for ax in axes[len(panels) + 1 :]:
        ax.set_axis_off()
    for index, ax in enumerate(axes):
        ax.set_ylim(n - 0.45, -0.55)
        ax.tick_params(axis="y", length=0, labelleft=index % columns == 0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="y", color="#E3E6EA", linewidth=0.6)
    axes[0].set_yticks(range(n), [f"{_mark(run)} {run.name}" for run in compared.runs])
    for ax in axes[::columns]:
        for label, run in zip(ax.get_yticklabels(), compared.runs, strict=False):
            label.set_color(_LEVELS[run.verdict])
    return figure


def _mark(run: ComparedRun) -> str:
    return next(mark for level, mark in MARKS.items() if level.words == run.verdict)


def _panels(compared: RunComparison) -> Sequence[_Panel]:
    runs = compared.runs
    nothing = [np.nan] * len(runs)
    found = [
        _Panel(
            "effective fraction",
            [run.results.independent_fraction for run in runs],
            nothing,
            limits=(0.0, 1.05),
        )
    ]
    for one in compared.estimates:
        found.append(
            _Panel(
                one.name.replace("_", " ") + (f" / {_KT}" if one.unit == "kT" else ""),
                _numbers(one.values),
                _numbers(one.std_errors),
                one.reference,
                one.reference_std_error,
            )
        )
    distances = [run.distance("energy_w2") for run in runs]
    if any(distance is not None for distance in distances):
        columns = [
            _numbers([None if distance is None else distance[k] for distance in distances]) for k in range(3)
        ]
        found.append(
            _Panel(f"W2 of the energy / {_KT}", columns[0], columns[1], floor=columns[2], limits=(0.0, None))
        )
    return found


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def _points(ax: Axes, panel: _Panel) -> None:
    if panel.reference is not None:
        ax.axvline(panel.reference, color=COLOURS["exact"], linewidth=0.9, linestyle=(0, (5, 2)), zorder=1)
        if panel.reference_error:
            low, high = (panel.reference + sign * panel.reference_error for sign in (-1, 1))
            ax.axvspan(low, high, color=COLOURS["exact"], alpha=0.10, linewidth=0, zorder=0)
    value, error = (np.array(column, dtype=np.float64) for column in (panel.value, panel.error))
    place = np.arange(value.size)
    if panel.floor is not None:
        ax.plot(panel.floor, place, "|", color=COLOURS["exact"], markersize=11, label="floor")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=0.8, borderaxespad=0.1)
    for factor, width in ((2, 0.9), (1, 2.4)):
        ax.errorbar(
            value, place, xerr=factor * error, fmt="none", color=COLOURS["reweighted"], elinewidth=width
        )
    ax.plot(value, place, "o", color=COLOURS["reweighted"], markersize=4.5, zorder=3)
    for row in place[np.isnan(value)]:
        ax.annotate(
            "none", (0.5, row), xycoords=("axes fraction", "data"), ha="center", va="center", fontsize=6.5,
            color=COLOURS["muted"], bbox={"facecolor": "white", "linewidth": 0, "pad": 1.5},
        )  # fmt: skip
    ax.set_xlabel(panel.label)
    ax.margins(x=0.12)
    if panel.limits is not None:
        ax.set_xlim(*panel.limits)
    ax.locator_params(axis="x", nbins=4)


def _costs(ax: Axes, runs: Sequence[ComparedRun]) -> None:
    """Minutes of training, sampling and the rest, side by side in one bar."""
    done = np.zeros(len(runs))
    for name, colour in _STAGES.items():
        minutes = np.array([_minutes(run, name) for run in runs])
        ax.barh(range(len(runs)), minutes, left=done, height=0.55, color=colour, label=name)
        done += minutes
    ax.set_xlabel("wall-clock time / min")
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        handlelength=0.8,
        columnspacing=0.8,
        borderaxespad=0.1,
    )
    ax.locator_params(axis="x", nbins=4)


def _minutes(run: ComparedRun, stage: str) -> float:
    train, sample = (run.seconds(name) or 0.0 for name in ("train", "sample"))
    rest = sum(run.results.timings.values()) - train - sample
    return {"training": train, "sampling": sample, "rest": rest}[stage] / 60
