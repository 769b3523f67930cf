"""``bgdiff export``: samples of a run for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bgdiff.cli_options import RunDirectory, Seed
from bgdiff.terminal import errors_told, say, stage_progress

__all__ = ["export"]


class Program(StrEnum):
    """Whose files are written."""

    openmm = "openmm"


def export(
    directory: RunDirectory,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make.", show_default="DIR/openmm-starts")
    ] = None,
    to: Annotated[Program, typer.Option(help="Program the files are for.")] = Program.openmm,
    n: Annotated[int, typer.Option("--n", min=1, max=100_000, help="How many starting states.")] = 100,
    velocities: Annotated[
        bool, typer.Option(help="Draw velocities at the temperature of the system.")
    ] = True,
    seed: Seed = 0,
) -> None:
    """Write corrected samples as starting states of molecular dynamics.

    They are drawn by their weights, so that the states are an unweighted sample. The folder holds State
    files, the System, the topology, where every state comes from, and a script that simulates them.

    Example: bgdiff export runs/ala --n 100 --out starts && python starts/simulate.py --ps 100
    """
    with errors_told():
        from bgdiff.interop.openmm import export_run
        from bgdiff.io import read_json

        with stage_progress().stage("starting states") as progress:
            path = export_run(
                directory,
                out or directory / "openmm-starts",
                n=n,
                seed=seed,
                velocities=velocities,
                progress=progress,
            )
        distinct = read_json(path / "starts.json")["n_distinct"]
        say(f"wrote {n} starting states ({distinct} different conformations) to {path}")
        say(f"simulate them with: python {path / 'simulate.py'}")
