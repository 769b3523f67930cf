"""How figures look: one style, one colour per kind of sample, colour-blind safe, no global state."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec

import matplotlib
from matplotlib.figure import Figure

from bgdiff.io import atomic_path

__all__ = ["COLOURS", "DPI", "LABELS", "STYLE", "WIDTH", "save_figure", "styled"]

WIDTH = 7.0
"""Inches: a page's text width, or a journal's two columns."""

DPI = 200

# Okabe & Ito (2008), distinguishable with any colour vision and in print
COLOURS: Final = {
    "data": "#0072B2",
    "proposal": "#E69F00",
    "reweighted": "#009E73",
    "chains": "#009E73",
    "exact": "#000000",
    "alarm": "#D55E00",
    "muted": "#6B6B6B",
}
LABELS: Final = {
    "data": "data",
    "proposal": "proposal",
    "reweighted": "reweighted",
    "chains": "chains",
    "exact": "exact",
}

STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so figures are the same everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "mathtext.fontset": "dejavusans",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "lines.linewidth": 1.3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110.0,
    "pdf.fonttype": 42,  # text stays text
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function in the style and fix everything that matplotlib would settle later."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made at the first draw, with the settings of then
            figure.set_layout_engine("none")  # the layout is settled; computing it again is slow
        return figure

    return wrapper


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically; the suffix (.png, .pdf, .svg) is the format.

    Raises:
        StorageError: it cannot be written.
    """
    metadata = {"CreationDate": None} if Path(path).suffix == ".pdf" else None  # same run, same bytes
    with matplotlib.rc_context(STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata=metadata)
