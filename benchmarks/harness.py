"""What all benchmarks share: their options, their environment, and the file they write."""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import bgdiff
from bgdiff.environment import available_cores, package_versions, processor_name
from bgdiff.io import write_json

__all__ = ["Row", "environment", "main"]

Row = dict[str, Any]


def environment() -> dict[str, Any]:
    """Versions, processor and threads behind the numbers."""
    import torch

    return {
        "bgdiff": bgdiff.__version__,
        **package_versions(),
        "processor": processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }


def main(
    name: str,
    measure: Callable[[bool, int, Path, Console], list[Row]],
    description: str,
    tables: Callable[[list[Row]], Iterable[Table]] | None = None,
    draw: Callable[[list[Row], Path, Path], None] | None = None,
) -> None:
    """Parse the options, measure, print a table, and write JSON if asked to.

    Args:
        measure: called with (quick, seed, folder for what it makes, console); returns rows of plain values,
            the first of which names the row.
        tables: how to show the rows; one column per row if None.
        draw: called with (rows, that folder, file) if a figure is asked for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="a reduced form, to see that it works")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the work here, and continue it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    if draw is not None:
        parser.add_argument(
            "--figure", type=Path, metavar="FILE", help="draw the figure of the documentation"
        )
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        rows = measure(arguments.quick, arguments.seed, folder, console)
        if draw is not None and arguments.figure:
            draw(rows, folder, arguments.figure)
            console.print(f"wrote {arguments.figure}")
    for table in [_columns(name, rows)] if tables is None else tables(rows):
        console.print(table)
    if arguments.json:
        content = {"name": name, "environment": environment(), "seed": arguments.seed, "rows": rows}
        write_json(arguments.json, {**content, "quick": arguments.quick})
        console.print(f"wrote {arguments.json}")


def _columns(name: str, rows: list[Row]) -> Table:
    quantities = list(dict.fromkeys(quantity for row in rows for quantity in row))
    table = Table("", *(_text(row[quantities[0]]) for row in rows), title=name)
    for quantity in quantities[1:]:
        table.add_row(quantity, *(_text(row.get(quantity)) for row in rows))
    return table


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
