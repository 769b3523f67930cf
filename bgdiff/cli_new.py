"""``bgdiff new``: a system folder of one's own molecule."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgdiff.errors import ConfigError
from bgdiff.terminal import Options, console, errors_told, say

if TYPE_CHECKING:
    from bgdiff.setup import Source

__all__ = ["new"]


class Solvent(StrEnum):
    """What surrounds the molecule."""

    vacuum = "vacuum"
    hct = "hct"
    obc1 = "obc1"
    obc2 = "obc2"
    gbn = "gbn"
    gbn2 = "gbn2"


_STRUCTURE = "From a structure and a force field"
_OTHER = "From files of other programs"


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the system.", show_default=False)],
    pdb: Annotated[
        Path | None,
        typer.Option(help="Structure, PDB or mmCIF.", show_default=False, rich_help_panel=_STRUCTURE),
    ] = None,
    forcefield: Annotated[
        list[str] | None,
        typer.Option(
            metavar="XML",
            help="Force field file: one of OpenMM's, such as amber14-all.xml, or a path; may be repeated.",
            show_default=False,
            rich_help_panel=_STRUCTURE,
        ),
    ] = None,
    implicit: Annotated[
        Solvent | None,
        typer.Option(
            help="Generalised Born model that stands for water; also with --prmtop.",
            show_default="vacuum",
            rich_help_panel=_STRUCTURE,
        ),
    ] = None,
    add_hydrogens: Annotated[
        bool, typer.Option("--add-hydrogens", help="Add missing hydrogens.", rich_help_panel=_STRUCTURE)
    ] = False,
    ph: Annotated[
        float, typer.Option("--ph", help="For which pH to add them.", rich_help_panel=_STRUCTURE)
    ] = 7.0,
    add_heavy_atoms: Annotated[
        bool,
        typer.Option(
            "--add-heavy-atoms",
            help="Build missing heavy atoms, and residues inside chains that SEQRES names, with PDBFixer.",
            rich_help_panel=_STRUCTURE,
        ),
    ] = False,
    remove_solvent: Annotated[
        bool,
        typer.Option("--remove-solvent", help="Leave out water and ions.", rich_help_panel=_STRUCTURE),
    ] = False,
    keep_only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHAIN",
            help="Keep only this chain; may be repeated.",
            show_default=False,
            rich_help_panel=_STRUCTURE,
        ),
    ] = None,
    system: Annotated[
        Path | None,
        typer.Option(
            metavar="XML",
            help="Serialised OpenMM System, with --topology.",
            show_default=False,
            rich_help_panel=_OTHER,
        ),
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(
            help="Its atoms and a structure, PDB or mmCIF.", show_default=False, rich_help_panel=_OTHER
        ),
    ] = None,
    prmtop: Annotated[
        Path | None,
        typer.Option(help="Amber topology, with --inpcrd.", show_default=False, rich_help_panel=_OTHER),
    ] = None,
    inpcrd: Annotated[
        Path | None,
        typer.Option(help="Amber coordinates, inpcrd or rst7.", show_default=False, rich_help_panel=_OTHER),
    ] = None,
    top: Annotated[
        Path | None,
        typer.Option(help="GROMACS topology, with --gro.", show_default=False, rich_help_panel=_OTHER),
    ] = None,
    gro: Annotated[
        Path | None, typer.Option(help="GROMACS coordinates.", show_default=False, rich_help_panel=_OTHER)
    ] = None,
    include: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of what the GROMACS topology includes.",
            show_default=False,
            rich_help_panel=_OTHER,
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(metavar="K", help="In kelvin.")] = 300.0,
    basin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGION",
            help="A basin, such as 'left: phi in [0, 130]' in degrees; may be repeated. Free energies are "
            "from the first to each other one, or from the rest to a single one.",
            show_default="an example",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make.", show_default="NAME")
    ] = None,
) -> None:
    """Make a system of your own molecule, check it, and say what to do next.

    Example: bgdiff new my_peptide --pdb my.pdb --forcefield amber14-all.xml --implicit obc2 --add-hydrogens
    """
    files = {
        "pdb": pdb,
        "system": system,
        "topology": topology,
        "prmtop": prmtop,
        "inpcrd": inpcrd,
        "top": top,
        "gro": gro,
    }
    structural = {
        "forcefield": forcefield,
        "implicit": implicit,
        "add-hydrogens": add_hydrogens,
        "add-heavy-atoms": add_heavy_atoms,
        "remove-solvent": remove_solvent,
        "keep-only": keep_only,
        "include": include,
    }
    with errors_told():
        given = {flag for flag, value in {**files, **structural}.items() if value}
        kind = _kind(given)
        model = None if implicit is None or implicit is Solvent.vacuum else implicit.value
        from bgdiff.setup import FromAmber, FromGromacs, FromStructure, FromSystem, new_system

        source: Source
        if kind == "pdb":
            assert pdb is not None
            source = FromStructure(
                pdb,
                tuple(forcefield or ()),
                model,
                add_hydrogens=add_hydrogens,
                ph=ph,
                add_heavy_atoms=add_heavy_atoms,
                remove_solvent=remove_solvent,
                keep_only=tuple(keep_only or ()),
            )
        elif kind == "system":
            assert system is not None
            assert topology is not None
            source = FromSystem(system, topology)
        elif kind == "prmtop":
            assert prmtop is not None
            assert inpcrd is not None
            source = FromAmber(prmtop, inpcrd, model)
        else:
            assert top is not None
            assert gro is not None
            source = FromGromacs(top, gro, include)
        folder = new_system(
            name,
            source,
            temperature=temperature,
            basins=tuple(basin or ()),
            out=out,
            command=shlex.join(["bgdiff", *sys.argv[1:]]),
            tell=_tell,
        )
        say(f"wrote {folder}")
        _next_steps(name, folder)


# Which files belong together, and which other options go with them.
_FILES = {"pdb": ("forcefield",), "system": ("topology",), "prmtop": ("inpcrd",), "top": ("gro",)}
_ALSO = {
    "pdb": {"implicit", "add-hydrogens", "add-heavy-atoms", "remove-solvent", "keep-only"},
    "system": set(),
    "prmtop": {"implicit"},
    "top": {"include"},
}


def _kind(given: set[str]) -> str:
    """Which of the four ways the options ask for."""
    ways = (
        "--pdb FILE --forcefield XML, --system XML --topology PDB, --prmtop FILE --inpcrd FILE, "
        "or --top FILE --gro FILE"
    )
    asked = [kind for kind, others in _FILES.items() if given & {kind, *others}]
    if len(asked) != 1:
        problem = "say what the molecule is made of" if not asked else "these do not go together; give one of"
        raise ConfigError(f"{problem}: {ways}")
    kind = asked[0]
    for flag in (kind, *_FILES[kind]):
        if flag not in given:
            raise ConfigError(f"--{flag} is missing; give {ways}")
    if extra := sorted(given - {kind, *_FILES[kind]} - _ALSO[kind]):
        flags = ", ".join(f"--{flag}" for flag in extra)
        raise ConfigError(f"{flags}: means nothing together with --{kind}; leave it out")
    return kind


def _tell(what: str, found: str) -> None:
    from rich.text import Text

    if not Options.quiet:
        line = Text.assemble(("✓ ", "green"), what, "  ", (found, "dim"))
        console(stderr=True).print(line, soft_wrap=True, highlight=False)


def _next_steps(name: str, folder: Path) -> None:
    """The commands that come next, as they work from here."""
    from bgdiff.cli_options import folder_name

    system = name if folder == Path(name) else shlex.quote(f"{folder}/")
    run = Path("runs") / f"{folder_name(str(folder))}-standard-0"
    say(
        f"\nWhat comes next ({folder / 'system.yaml'} says what will be done; change it as you like):\n"
        f"  bgdiff data generate {system}\n"
        f"  bgdiff run {system}\n"
        f"  bgdiff free-energy {shlex.quote(str(run))}"
    )
