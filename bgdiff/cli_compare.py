"""``bgdiff compare``: several runs in one table and one figure."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bgdiff.terminal import complain, console, errors_told, say

__all__ = ["compare"]


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run directories of one system.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a page with table and figure, in one file.", show_default=False
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the figure: .png, .pdf or .svg.", show_default=False),
    ] = None,
) -> None:
    """Show runs of one system beside each other: estimates, whether they agree, costs, what was set.

    Example: bgdiff compare runs/first runs/second --html comparison.html
    """
    with errors_told():
        from bgdiff.analysis.run_comparison import compare_runs
        from bgdiff.analysis.run_comparison_view import comparison_table, write_comparison

        compared = compare_runs(runs)
        written = write_comparison(compared, html, figure)
        if as_json:
            typer.echo(json.dumps(compared.to_json(), indent=2, ensure_ascii=False))
        else:
            console().print(comparison_table(compared))
        for path in compared.unfinished:
            complain(f"{path}: is not finished and left out; continue it with: bgdiff run --resume {path}")
        for path in written if not as_json else ():
            say(f"wrote {path}")
