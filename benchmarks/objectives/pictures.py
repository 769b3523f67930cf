"""Figures of the studies, from their rows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.harness import Row
from bgdiff.analysis.style import COLOURS, WIDTH, save_figure, styled
from bgdiff.io import make_directory

__all__ = ["draw_study"]

# of things without order: those of Okabe & Ito (2008)
_CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_SMALLEST = {"fisher": 1e-5, "mode_error": 1e-3}
_LINES = ("-", "--", ":", "-.")


def draw_study(study: str, rows: list[Row], folder: Path, drawn: Sequence[str] | None = None) -> list[Path]:
    """Write the figures of a study into a folder; returns what was written.

    Args:
        drawn: objectives whose curves are drawn, where all would be too many; None: all.
    """
    good = [row for row in rows if "failed" not in row]
    drawings = {
        "gmm": {"levels": _levels, "classification": _classification, "weights": _mode_weights},
        "modes": {"levels": _levels, "weights": _mode_weights},
        "planar": {"densities": _densities, "gallery": _gallery},
        "alanine": {},
    }
    make_directory(folder)
    written = []
    for name, draw in drawings[study].items():
        few = [row for row in good if drawn is None or row["objective"] in drawn]
        shown = good if draw in (_classification, _mode_weights, _gallery) else few
        if draw in (_densities, _gallery):  # rows from a file have no pictures
            shown = [row for row in shown if row["seed"] == 0 and "picture" in row]
        if shown:
            file = folder / f"objectives_{study}_{name}.png"
            save_figure(draw(shown), file)
            if draw is _gallery:  # a third of the size, and nothing that could be seen
                with Image.open(file) as image:
                    few_colours = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
                few_colours.save(file, optimize=True)
            written.append(file)
    return written


def _names(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _look(index: int) -> dict[str, Any]:
    """Colour and line of the index-th objective: all colours, then the next line."""
    colour = _CATEGORIES[index % len(_CATEGORIES)]
    return {"color": colour, "linestyle": _LINES[index // len(_CATEGORIES) % len(_LINES)]}


@styled
def _levels(rows: list[Row]) -> Figure:
    """ESS, Fisher divergence and mode weights along the ladder, a column per dimension; medians of seeds."""
    dims, names = sorted(_names(rows, "dim")), _names(rows, "objective")
    panels = (
        ("ess", "effective fraction", "linear"),
        ("fisher", "Fisher div. / d", "log"),
        ("mode_error", "mode error / nat", "log"),
    )
    figure = Figure(figsize=(max(WIDTH, 1.9 * len(dims)), 5.6), layout="constrained")
    axes = figure.subplots(len(panels), len(dims), sharex=True, sharey="row", squeeze=False)
    for column, dim in enumerate(dims):
        axes[0, column].set_title(f"d = {dim}")
        axes[-1, column].set_xlabel("noise σ")
        for index, name in enumerate(names):
            of = [row["levels"] for row in rows if row["dim"] == dim and row["objective"] == name]
            if not of:
                continue
            for panel, (key, _, _) in enumerate(panels):
                values = np.abs(np.array([levels[key] for levels in of]))
                axis: Axes = axes[panel, column]
                label = name if column == 0 and panel == 0 else None
                axis.plot(of[0]["sigma"], np.median(values, 0), label=label, **_look(index))
                if len(of) > 1:
                    low, high = values.min(0), values.max(0)
                    axis.fill_between(
                        of[0]["sigma"], low, high, color=_look(index)["color"], alpha=0.15, lw=0
                    )
        axes[2, column].axhline(0.05, color=COLOURS["muted"], lw=0.8)
    for panel, (key, label, scale) in enumerate(panels):
        axes[panel, 0].set_ylabel(label)
        axes[panel, 0].set_yscale(scale)
        axes[panel, 0].set_xscale("log")
        if key in _SMALLEST:  # sampling noise is below
            axes[panel, 0].set_ylim(bottom=_SMALLEST[key])
    found = {row["objective"] for row in rows if row["dim"] == dims[0]}
    for index, name in enumerate(names):
        if name not in found:  # not trained in the first dimension, but in another
            axes[0, 0].plot([], [], label=name, **_look(index))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _classification(rows: list[Row]) -> Figure:
    """Excess of the classification loss over the optimum, per dimension and objective."""

    def chance(of: list[Row]) -> float:
        return float(
            np.mean([row["classification"]["chance"] - row["classification"]["optimum"] for row in of])
        )

    return _dots(
        rows,
        {
            "learned offsets": lambda row: max(row["classification"]["excess"], 1e-3),  # less is noise
            "best offsets": lambda row: max(row["classification"]["excess_best_offsets"], 1e-3),
        },
        "excess loss / nat",
        ("chance", chance),
    )


def _mode_weights(rows: list[Row]) -> Figure:
    """Error of the modes' weights at its worst level, per dimension and objective."""
    worst = {"worst level": lambda row: max(map(abs, row["levels"]["mode_error"]))}
    return _dots(rows, worst, "error of modes' weights / nat", ("0.05", lambda of: 0.05))


@styled
def _dots(
    rows: list[Row],
    measures: dict[str, Callable[[Row], float]],
    label: str,
    line: tuple[str, Callable[[list[Row]], float]],
) -> Figure:
    """One dot per seed: objectives down, dimensions across; ``line`` is a thin one and its name."""
    dims, names = sorted(_names(rows, "dim")), _names(rows, "objective")
    figure = Figure(figsize=(WIDTH + 1, 1.2 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(dims), sharex=True, sharey=True, squeeze=False)[0]
    offsets = np.linspace(-0.15, 0.15, len(measures)) if len(measures) > 1 else [0.0]
    for axis, dim in zip(axes, dims, strict=True):
        here = [row for row in rows if row["dim"] == dim]
        for place, name in enumerate(names):
            of = [row for row in here if row["objective"] == name]
            for index, (offset, (title, measure)) in enumerate(zip(offsets, measures.items(), strict=True)):
                values = [measure(row) for row in of]
                heights = [place + offset] * len(values)
                axis.plot(
                    values, heights, "o", ms=3.5, mew=0, alpha=0.8, color=_CATEGORIES[index],
                    label=title if place == 0 else None,
                )  # fmt: skip
        value = line[1](here)
        axis.axvline(value, color=COLOURS["muted"], lw=0.8)
        axis.text(value, -0.9, f" {line[0]}", fontsize=6.5, color=COLOURS["muted"], va="center", ha="left")
        axis.set_xscale("log")
        axis.set_title(f"d = {dim}")
        axis.set_xlabel(label if len(dims) < 3 else "", fontsize=7)
        axis.grid(axis="y", lw=0.4, alpha=0.5)
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0].invert_yaxis()
    if len(dims) > 2:
        figure.supxlabel(label, fontsize=8)
    if len(measures) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


@styled
def _densities(rows: list[Row]) -> Figure:
    """Learned energies at the lowest noise and samples of them, seed 0: sets across, objectives down."""
    sets, names = _names(rows, "set"), _names(rows, "objective")
    height = 2 * len(names)
    figure = Figure(figsize=(WIDTH, WIDTH / len(sets) * height), layout="constrained")
    axes = figure.subplots(height, len(sets), squeeze=False)
    for column, name in enumerate(sets):
        axes[0, column].set_title(name)
        for line, objective in enumerate(names):
            energy, points = axes[2 * line, column], axes[2 * line + 1, column]
            found = [row for row in rows if row["set"] == name and row["objective"] == objective]
            for axis in (energy, points):
                axis.set(xticks=[], yticks=[], aspect="equal")
            if column == 0:
                energy.set_ylabel(objective.replace(" + ", "\n+ "), fontsize=6.5)
                points.set_ylabel("SMC samples", fontsize=6.5)
            if not found:
                continue
            _draw_energy(energy, found[0])
            samples, reach = np.array(found[0]["picture"]["samples"]), found[0]["reach"]
            points.plot(*samples.T, ".", ms=0.8, mew=0, color=COLOURS["data"], rasterized=True)
            ratio = found[0]["W2 SMC"] / found[0]["W2 floor"]
            points.set(xlim=(-reach, reach), ylim=(-reach, reach))
            shown = f"W2 {ratio:.2f} × floor" if math.isfinite(ratio) else "W2 not finite"
            points.set_xlabel(shown, fontsize=6, labelpad=1)
    return figure


@styled
def _gallery(rows: list[Row]) -> Figure:
    """All objectives, seed 0, one below the other: energies at the lowest noise and SMC's samples."""
    sets, names = _names(rows, "set"), _names(rows, "objective")
    figure = Figure(figsize=(WIDTH, 0.4 + 0.53 * len(names)))
    left, top = 1.75 / WIDTH, 1 - 0.3 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(names), 2 * len(sets), left=left, right=0.995, bottom=0.01, top=top, wspace=0.04, hspace=0.04
    )
    for line, objective in enumerate(names):
        for column, name in enumerate(sets):
            found = [row for row in rows if row["set"] == name and row["objective"] == objective]
            energy, points = (figure.add_subplot(grid[line, 2 * column + i]) for i in (0, 1))
            for axis in (energy, points):
                axis.set(xticks=[], yticks=[], aspect="equal")
                axis.spines[:].set_visible(False)
            if line == 0:
                energy.set_title(name, fontsize=7, x=1.0)
            if column == 0:
                label = objective.replace(" + score, ", " + score,\n")
                energy.set_ylabel(label, fontsize=5.5, rotation=0, ha="right", va="center")
            if found:
                _draw_energy(energy, found[0])
                samples, reach = np.array(found[0]["picture"]["samples"]), found[0]["reach"]
                points.plot(*samples.T, ".", ms=0.5, mew=0, color=COLOURS["data"], rasterized=True)
                points.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return figure


def _draw_energy(axis: Axes, row: Row) -> None:
    """The learned energy up to 12 kT above its minimum, dark where it is high."""
    reach, value = row["reach"], np.array(row["picture"]["log_density"])
    extent = (-reach, reach, -reach, reach)
    axis.imshow(-value, origin="lower", extent=extent, cmap="viridis_r", vmin=0, vmax=12)
