"""Several runs in one table: for the terminal, and as a page that needs no network."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bgdiff.analysis.run_comparison import Estimated, RunComparison
from bgdiff.analysis.text import count, fraction, plus_minus, seconds, unbroken, with_error

__all__ = ["comparison_rows", "comparison_table", "write_comparison"]

_MARKS = {True: "✓", False: "✗", None: ""}


def comparison_rows(compared: RunComparison) -> Iterator[tuple[str, list[str], str]]:
    """Name, the text of each run, and how the runs agree, of every row of the table."""
    runs = [run.results for run in compared.runs]
    yield "verdict", [run.verdict for run in compared.runs], ""
    for one in compared.estimates:
        name = one.name + (f" / {one.unit}" if one.unit else "")
        yield (
            name,
            [with_error(*pair) for pair in zip(one.values, one.std_errors, strict=True)],
            _agreement(one),
        )
    yield "samples", [count(run.n_samples) for run in runs], ""
    yield "effective fraction", [fraction(run.independent_fraction) for run in runs], ""
    yield "forward, proportions corrected", [fraction(run.ess_forward_rebalanced) for run in runs], ""
    distances = [run.distance("energy_w2") for run in compared.runs]
    if any(distances):
        yield (
            "W2 of the energy / kT (floor)",
            ["–" if one is None else f"{plus_minus(one[0], one[1])} ({one[2]:.2g})" for one in distances],
            "",
        )
    for stage, name in (("train", "training"), ("sample", "sampling")):
        spent = [run.seconds(stage) for run in compared.runs]
        yield f"time of {name}", ["–" if time is None else seconds(time) for time in spent], ""
    yield "target evaluations", [count(run.target_evaluations) for run in runs], ""
    yield (
        "effective samples per evaluation",
        [fraction(run.effective_samples_per_evaluation) for run in runs],
        "",
    )
    yield "effective samples per second", [fraction(run.effective_samples_per_second) for run in runs], ""


def comparison_table(compared: RunComparison) -> Group:
    """The tables for the terminal: estimates and costs, then the settings that differ."""
    table = Table(title=Text(compared.runs[0].results.title), title_style="bold", box=SIMPLE_HEAD)
    settings = Table(title="settings that differ", title_style="bold", box=SIMPLE_HEAD)
    for each in (table, settings):
        each.add_column("", overflow="fold")
        for run in compared.runs:
            each.add_column(Text(run.name), justify="right", overflow="fold")
    table.add_column("between runs", overflow="fold")
    for name, cells, agreement in comparison_rows(compared):
        style = "bold" if agreement else None
        table.add_row(Text(name), *map(Text, cells), Text(agreement), style=style)
    for name, values in compared.settings:
        settings.add_row(Text(name), *(Text(_plain(value)) for value in values))
    if not compared.settings:
        return Group(table, Text("All settings are the same."))
    return Group(table, settings)


def write_comparison(
    compared: RunComparison, page: Path | None = None, figure: Path | None = None
) -> list[Path]:
    """Write the figure (``.png``, ``.pdf`` or ``.svg``) and one self-contained page, whichever is wanted.

    Returns:
        What was written.

    Raises:
        ConfigError: the figure's suffix is none of these.
        StorageError: a file cannot be written.
    """
    from bgdiff.analysis.run_comparison_plots import comparison_figure
    from bgdiff.analysis.style import DPI, save_figure
    from bgdiff.errors import ConfigError
    from bgdiff.io import write_text

    if figure is not None and figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"{figure}: a figure is a .png, .pdf or .svg")
    if page is None and figure is None:
        return []
    drawn = comparison_figure(compared)
    if figure is not None:
        save_figure(drawn, figure)
    if page is not None:
        stream = io.BytesIO()
        drawn.savefig(stream, format="png", dpi=DPI)
        write_text(page, _page(compared, base64.b64encode(stream.getvalue()).decode("ascii")))
    return [path for path in (figure, page) if path is not None]


def _page(compared: RunComparison, picture: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bgdiff.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["unbroken"] = unbroken
    rows: list[dict[str, Any]] = [
        {"name": name, "cells": cells, "agreement": agreement}
        for name, cells, agreement in comparison_rows(compared)
    ]
    return environment.get_template("comparison.html").render(
        title=compared.runs[0].results.title,
        names=[run.name for run in compared.runs],
        rows=rows,
        settings=[(name, [_plain(value) for value in values]) for name, values in compared.settings],
        unfinished=[str(path) for path in compared.unfinished],
        picture=picture,
        distances=any(run.distance("energy_w2") for run in compared.runs),
    )


def _agreement(one: Estimated) -> str:
    if one.largest_z is None:
        return ""
    words = "agree" if one.agree else "do not agree"
    reference = (
        "" if one.reference is None else f"; reference {with_error(one.reference, one.reference_std_error)}"
    )
    return f"{_MARKS[one.agree]} {words}: largest z {one.largest_z:.1f}, p {fraction(one.p_value)}{reference}"


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)
