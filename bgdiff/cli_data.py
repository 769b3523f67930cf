"""``bgdiff data``: the commands that make data sets."""

from pathlib import Path
from typing import Annotated

import typer

from bgdiff.cli_options import DataMethod, EngineName, Evaluator, Processes, Seed, SystemName
from bgdiff.terminal import errors_told, say, stage_progress

__all__ = ["data_app"]

data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)


@data_app.command("generate")
def data_generate(
    system: SystemName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.", show_default="SYSTEM.dcd or .npz")
    ] = None,
    method: Annotated[
        DataMethod | None,
        typer.Option(
            help="md is plain and deliberately short; parallel-tempering samples the equilibrium.",
            show_default="md for molecules, mala for toy densities",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Frames that parallel tempering makes, at least.", show_default="50000"),
    ] = None,
    seed: Seed = 0,
    processes: Processes = None,
    engine: Evaluator = EngineName.auto,
) -> None:
    """Simulate a system as its system.yaml says, and write a data set with its provenance."""
    with errors_told(again=True):
        from bgdiff.data.generate import generate_data
        from bgdiff.data.output import provenance_path
        from bgdiff.data.validation import verdicts
        from bgdiff.io import read_json
        from bgdiff.systems import load_system

        chosen = load_system(system)
        with stage_progress().stage("simulate") as progress:
            path = generate_data(
                chosen,
                out,
                seed=seed,
                processes=processes,
                progress=progress,
                method=None if method is None else method.value,
                frames=frames,
                engine=engine.value,
            )
        if found := read_json(provenance_path(path, chosen)).get("validation"):
            for line in verdicts(found):
                say(line)
        say(f"wrote {path}")
