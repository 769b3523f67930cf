"""``bgdiff free-energy``: free energies of a run by every estimator that applies, with a verdict."""

from pathlib import Path
from typing import Annotated

import typer

from bgdiff.cli_options import RunDirectory
from bgdiff.terminal import console, errors_told, say, stage_progress

__all__ = ["free_energy"]


def free_energy(
    directory: RunDirectory,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Difference F(B) - F(A) between two regions: basins of the system, or such as "
            "'phi in [0, 130]'. Angles in degrees.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Difference F(RUN) - F(DIR) to another run, of the same atoms in another potential or at "
            "another temperature.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            metavar="T",
            help="Also say what holds at this temperature (K); may be repeated.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE",
            help="Also draw the free energy along this variable, with its confidence band; may be repeated.",
            show_default=False,
        ),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            min=0, max=100_000, help="Resamplings for the errors; 0: asymptotic errors. A few hundred do."
        ),
    ] = 0,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**7,
            help="Held-out frames of the data to walk up the ladder.",
            show_default="those of the run",
        ),
    ] = None,
    rung_samples: Annotated[
        int,
        typer.Option(
            min=0,
            max=10**6,
            help="Samples of every rung, for MBAR and integration over the rungs; 0: leave these out.",
        ),
    ] = 5000,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of all random numbers.", show_default="that of the run")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of tables.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file to write.", show_default="DIR/free_energies.json"),
    ] = None,
) -> None:
    """Free energies of a run by all estimators side by side, with a verdict on which to quote.

    Always the system's own differences and log Z. Samples that this takes are kept in DIR/free-energy.

    Example: bgdiff free-energy runs/ala --temperature 280 --temperature 320 --profile phi
    """
    with errors_told(again=True):
        from bgdiff.free_energies import Request, free_energies

        request = Request(
            between=between,
            to=to,
            temperatures=tuple(temperature or ()),
            profiles=tuple(profile or ()),
            bootstrap=bootstrap,
            frames=frames,
            rung_samples=rung_samples,
            seed=seed,
            out=out,
        )
        content, path = free_energies(directory, request, progress=stage_progress().stage)
        if as_json:
            typer.echo(path.read_text(encoding="utf-8"), nl=False)
            return
        from bgdiff.analysis.free_energy_view import free_energies_view

        console().print(free_energies_view(content))
        say(f"wrote {path}")
