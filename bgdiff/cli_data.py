"""``bgdiff data``: the commands that make data sets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bgdiff.cli_options import DataMethod, EngineName, Evaluator, Processes, Seed, SystemName
from bgdiff.terminal import console, errors_told, say, stage_progress

__all__ = ["data_app"]

data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)


class LengthUnit(StrEnum):
    """Of the numbers in a file."""

    nm = "nm"
    angstrom = "angstrom"


DataFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File to write.",
        show_default="as system.yaml says, if there is none yet; else SYSTEM.dcd or .npz",
    ),
]


@data_app.command("import")
def data_import(
    system: SystemName,
    trajectories: Annotated[
        list[Path],
        typer.Argument(metavar="TRAJ...", help="Trajectories of any format that mdtraj reads."),
    ],
    top: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names the trajectories' atoms: PDB, GRO, PRMTOP, PSF, ...",
            show_default="the files themselves; else the system's topology",
        ),
    ] = None,
    stride: Annotated[
        str, typer.Option(metavar="N|auto", help="Keep one frame in N; auto: by the energy's memory.")
    ] = "1",
    burn_in: Annotated[
        str,
        typer.Option(
            metavar="FRAMES|auto|TIME", help="Leave out the beginning: frames, or a time such as 100ps."
        ),
    ] = "0",
    atoms: Annotated[
        str | None,
        typer.Option(
            metavar="SELECTION",
            help="Which atoms are the system, as in mdtraj: 'chainid 0'.",
            show_default="all but water and ions",
        ),
    ] = None,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Put atoms in the system's order, by residue and name.")
    ] = False,
    units: Annotated[
        LengthUnit | None,
        typer.Option(help="Of the numbers in the files.", show_default="that of the format"),
    ] = None,
    spacing_ps: Annotated[
        float | None,
        typer.Option(min=0.0, help="Time between frames, for files that do not say.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="K", help="Of the simulation.", show_default="the system's"),
    ] = None,
    out: DataFile = None,
) -> None:
    """Check your own trajectories, put right what can be, and write them as the system's data set.

    Example: bgdiff data import my_molecule first.xtc second.xtc --top solvated.gro --burn-in auto
    """
    with errors_told():
        import shlex

        from bgdiff.data.importing import import_data
        from bgdiff.data.importing_options import ImportOptions
        from bgdiff.data.output import system_argument
        from bgdiff.import_view import import_view
        from bgdiff.systems import load_system

        options = ImportOptions(
            top=top,
            atoms=atoms,
            reorder=reorder,
            units=None if units is None else units.value,
            burn_in=int(burn_in) if burn_in.isdigit() else burn_in,
            stride=int(stride) if stride.isdigit() else stride,
            spacing_ps=spacing_ps,
            temperature=temperature,
        )
        chosen = load_system(system)
        with stage_progress().stage("import") as progress:
            found = import_data(chosen, trajectories, options, out=out, progress=progress)
        console().print(import_view(found))
        for warning in found.warnings:
            say(f"Note: {warning}")
        say(f"wrote {found.path}: {found.frames} frames")
        own = chosen.data_path is not None and found.path.resolve() == chosen.data_path.resolve()
        data = "" if own else f" --data {shlex.quote(str(found.path))}"
        say(f"next: bgdiff run {shlex.quote(system_argument(chosen))}{data}")


@data_app.command("generate")
def data_generate(
    system: SystemName,
    out: DataFile = None,
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
    start: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Start from every frame of your own structures or trajectories; may be repeated.",
            show_default="torsions in system.yaml",
        ),
    ] = None,
    top: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names the atoms of --start files.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="K", help="Of the simulation; training knows it.", show_default="the system's"),
    ] = None,
    seed: Seed = 0,
    processes: Processes = None,
    engine: Evaluator = EngineName.auto,
) -> None:
    """Simulate a system as its system.yaml says, and write a data set with its provenance.

    Example: bgdiff data generate my_molecule --start crystal.pdb --start md.dcd --temperature 400
    """
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
                starts=start or (),
                top=top,
                temperature=temperature,
            )
        if found := read_json(provenance_path(path, chosen)).get("validation"):
            for line in verdicts(found):
                say(line)
        say(f"wrote {path}")
