"""Command line of the studies; see the package."""

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console

import benchmarks.objectives
from benchmarks.harness import Row
from benchmarks.objectives.alanine_study import alanine_jobs, alanine_tables
from benchmarks.objectives.jobs import finished_rows, settings_of, with_changes
from benchmarks.objectives.mixture_study import mixture_jobs, mixture_tables
from benchmarks.objectives.pictures import draw_study
from benchmarks.objectives.planar_study import planar_jobs, planar_tables
from benchmarks.objectives.shipped import read_rows, rounded, shipped_file, write_rows
from bgdiff.errors import ConfigError
from bgdiff.io import write_text

__all__ = ["STUDIES", "main"]

STUDIES = {
    "gmm": (mixture_jobs, mixture_tables),
    "modes": (mixture_jobs, mixture_tables),
    "planar": (planar_jobs, planar_tables),
    "alanine": (alanine_jobs, alanine_tables),
}
"""What makes a study's jobs, and what makes tables of its rows."""


def main(arguments: list[str] | None = None) -> list[Row]:
    """Do a study, print its tables, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives",
        description=benchmarks.objectives.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--quick", action="store_true", help="a reduced form, to see that it works")
    parser.add_argument(
        "--survey", action="store_true", help="all objectives with a short training each (gmm, modes, planar)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, without pictures")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep finished jobs here, and continue")
    parser.add_argument("--objectives", metavar="A;B", help="only these, by their names in the settings")
    parser.add_argument("--dims", metavar="D,E", help="only these dimensions")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="as many seeds, instead of the settings' number"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="change a setting; may be repeated"
    )
    parser.add_argument("--part", default="0/1", metavar="I/N", help="do every N-th job, from the I-th")
    parser.add_argument("--read", action="store_true", help="do nothing, show what is finished")
    parser.add_argument(
        "--known",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="do not repeat what --json wrote here, but take it over; without FILE: what is shipped",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="do nothing, show the rows that --json wrote here; without FILE: those shipped",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw the study's figures into DIR")
    given = parser.parse_args(arguments)
    console = Console(width=170)
    settings = with_changes(settings_of(given.study, given.quick, given.survey), given.set)
    chosen = None if given.objectives is None else [name.strip() for name in given.objectives.split(";")]
    for name in chosen or ():
        if name not in settings["objectives"]:
            raise ConfigError(f"no objective {name!r}; there are: {'; '.join(settings['objectives'])}")
    if given.dims is not None and "dims" in settings:
        settings["dims"] = [int(dim) for dim in given.dims.split(",")]
    if given.seeds is not None:
        settings.pop("more_seeds", None)
    make_jobs, tables = STUDIES[given.study]
    shipped = shipped_file(given.study, given.survey)
    if given.rows:
        file = shipped if given.rows is True else given.rows
        rows = [
            row
            for row in read_rows(file, given.study)
            if (chosen is None or row["objective"] in chosen)
            and (given.dims is None or row.get("dim") in settings.get("dims", [None]))
            and (given.seeds is None or row["seed"] < given.seeds)
        ]
    else:
        jobs = make_jobs(given.study, settings, chosen, given.seeds or settings["seeds"])
        first, of = map(int, given.part.split("/"))
        with tempfile.TemporaryDirectory() as scratch:
            file = shipped if given.known is True else given.known
            known = read_rows(file, given.study) if file else []
            folder = given.keep or Path(scratch)
            rows = finished_rows(jobs, folder, console, part=(first, of), work=not given.read, known=known)
    found = list(tables(rounded(rows)))
    for table in found:
        console.print(table.rich())
    if given.markdown:
        write_text(given.markdown, "\n".join(table.markdown() for table in found))
        console.print(f"wrote {given.markdown}")
    if given.json:
        write_rows(given.json, given.study, rows)
        console.print(f"wrote {given.json}")
    if given.figures:
        for file in draw_study(given.study, rows, given.figures, settings.get("drawn")):
            console.print(f"wrote {file}")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
