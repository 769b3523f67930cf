"""Chains: how the slowest quantity moves in some of them, and how its average settles in all."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bgdiff.analysis.run_figure import RunFigure
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.run_structures import basin_of
from bgdiff.analysis.style import COLOURS, WIDTH, styled
from bgdiff.analysis.text import symbol

__all__ = ["chain_figures", "chain_traces"]

Array = NDArray[np.float64]

_TRACES = 4
_POINTS = 40  # of a running average
_FEWEST = 8  # draws of a chain


class _Slowest(NamedTuple):
    """A quantity: what to draw of it and what to average, ``(n,)``, with their labels."""

    name: str
    trace: Array
    trace_label: str
    value: Array
    value_label: str


@styled
def chain_traces(trace: Array, value: Array, *, trace_label: str, value_label: str) -> Figure:
    """Draw a few chains draw by draw, and the running average of every chain and of all with its error.

    Args:
        trace: ``(C, T)`` what is drawn of four chains, of those that spread most evenly over the numbers.
        value: ``(C, T)`` what is averaged, T at least 8.
        trace_label, value_label: the axes.
    """
    from bgdiff.sampling.diagnostics import mean_error  # its package loads torch

    chains, draws = value.shape
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    shown = np.unique(np.linspace(0, chains - 1, min(_TRACES, chains)).astype(int))
    axes = left.subplots(shown.size, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, number in zip(axes, shown, strict=True):
        ax.plot(np.arange(1, draws + 1), trace[number], ".", color=COLOURS["chains"], markersize=1.6)
        ax.annotate(
            f"chain {number + 1}", (1.0, 1.0), xycoords="axes fraction", ha="right", va="bottom",
            fontsize=6.5, color=COLOURS["muted"], annotation_clip=False,
        )  # fmt: skip
        ax.set_xlim(0, draws + 1)
    axes[0].set_title("a", loc="left", fontweight="bold")
    axes[-1].set_xlabel("draw")
    left.supylabel(trace_label, fontsize=8.5)

    ax = right.subplots()
    places = np.unique(np.geomspace(_FEWEST, draws, _POINTS).astype(int))
    number = np.arange(1, draws + 1)
    for one in value:
        ax.plot(places, (np.cumsum(one) / number)[places - 1], color="#B9BDC2", linewidth=0.6, zorder=1)
    mean = np.array([value[:, :place].mean() for place in places])
    error = np.array([mean_error(value[:, :place])[0] for place in places])
    ax.fill_between(
        places, mean - error, mean + error, color=COLOURS["chains"], alpha=0.3, linewidth=0, zorder=2
    )
    ax.plot(places, mean, color=COLOURS["chains"], label=f"all {chains} chains", zorder=3)
    ax.plot([], [], color="#B9BDC2", linewidth=0.6, label="each")
    ax.set(xlabel="draws of each chain", ylabel=value_label, xlim=(places[0], draws))
    ax.set_title("b", loc="left", fontweight="bold")
    ax.legend(loc="upper right", ncols=2)
    ax.margins(y=0.04)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.12 * (high - low))  # room for the legend
    return figure


def chain_figures(run: RunFiles) -> Iterator[RunFigure]:
    """Traces of the slowest quantity, round by round in the run's arrays; nothing for weighted samples."""
    n_chains, found = run.results.n_chains, _slowest(run) if run.results.n_chains else None
    if found is None or found.value.size % n_chains or found.value.size < _FEWEST * n_chains:
        return
    trace, value = (part.reshape(-1, n_chains).T for part in (found.trace, found.value))
    yield RunFigure(
        "chains",
        "Chains",
        f"(a) {found.trace_label} in some of the chains, draw by draw. (b) Running average of the slowest "
        f"quantity, {found.name}: of every chain, and of all with one standard error. Chains agree where the "
        "thin lines come together.",
        f"Traces of some chains and running averages of {found.name}.",
        chain_traces(trace, value, trace_label=found.trace_label, value_label=found.value_label),
        section="weights",
    )


def _slowest(run: RunFiles) -> _Slowest | None:
    """None if what it is about is not in the run's arrays."""
    results, slowest = run.results, run.results.slowest or ""
    values = {key: value for key, value in run.proposal.items() if key.startswith("obs_")}
    names = [basin.name for basin in results.basins]
    kind, _, name = slowest.partition(" ")
    if kind == "basin" and name in names:
        observable = results.basins[names.index(name)].observable
        if f"obs_{observable}" not in values:
            return None
        inside = (basin_of(results, values) == names.index(name)).astype(np.float64)
        label = f"population of {name.replace('_', ' ')}"
        return _Slowest(f"the {label}", *_trace(run, observable), inside, label)
    if kind in ("cos", "sin") and f"obs_{name}" in values:
        value, label = getattr(np, kind)(values[f"obs_{name}"]), f"{kind} {symbol(name)}"
        return _Slowest(label, *_trace(run, name), value, label)
    if f"obs_{slowest}" in values:
        trace, label = _trace(run, slowest)
        return _Slowest(symbol(slowest), trace, label, trace, label)
    energy, label = run.proposal["energy"], "potential energy / kT"
    return _Slowest("the energy", energy, label, energy, label)


def _trace(run: RunFiles, name: str) -> tuple[Array, str]:
    """An observable and its label, torsions in degrees."""
    info = next(info for info in run.results.observables if info.name == name)
    value = run.proposal[f"obs_{name}"]
    if info.kind in ("angle", "dihedral"):
        return np.degrees(value), f"{symbol(name)} / degree"
    return value, symbol(name) + (f" / {info.unit}" if info.unit == "nm" else "")
