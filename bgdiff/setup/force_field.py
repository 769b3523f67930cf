"""Force field files of OpenMM, and which implicit solvents go with them."""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bgdiff.errors import ConfigError, SystemDefinitionError

if TYPE_CHECKING:
    import openmm
    from openmm import app

__all__ = ["IMPLICIT", "create_system", "known_files", "load_force_field", "solvent_label"]

IMPLICIT = {"hct": "HCT", "obc1": "OBC1", "obc2": "OBC2", "gbn": "GBn", "gbn2": "GBn2"}
"""Generalised Born models by their name as an option, and as OpenMM, Amber and titles call them."""

_BORN = ("CustomGBForce", "GBSAOBCForce", "AmoebaGeneralizedKirkwoodForce")


def known_files() -> list[str]:
    """Names of the force field files that come with OpenMM, as ``ForceField`` takes them."""
    from importlib.metadata import entry_points

    from openmm import app

    folders = [Path(app.__file__).parent / "data"]
    for entry in entry_points(group="openmm.forcefielddir"):  # of other packages, such as openmmforcefields
        with suppress(Exception):
            folders.append(Path(entry.load()()))
    names = {str(file.relative_to(folder).as_posix()) for folder in folders for file in folder.rglob("*.xml")}
    return sorted(names - {"residues.xml", "hydrogens.xml", "pdbNames.xml", "glycam-hydrogens.xml"})


def load_force_field(files: Sequence[str]) -> "app.ForceField":
    """Load force field files: names of those that come with OpenMM, or paths.

    Raises:
        ConfigError: no file is named, there is no such file (near names are told), or one cannot be read.
    """
    from openmm import app

    if not files:
        raise ConfigError("name a force field with --forcefield, such as amber14-all.xml")
    known = known_files()
    for name in files:
        path = Path(name)
        if path.is_dir():
            raise ConfigError(f"--forcefield {name}: is a directory; name a file")
        if not path.is_file() and name not in known:
            by_stem = {Path(other).stem: other for other in known}
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            near += [
                by_stem[stem] for stem in difflib.get_close_matches(Path(name).stem, by_stem, n=2)
                if by_stem[stem] not in near
            ]  # fmt: skip
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            some = "amber14-all.xml, amber19-all.xml, amber99sbildn.xml, amber96.xml, charmm36.xml"
            raise ConfigError(
                f"--forcefield {name}: there is no such file, here or among those of OpenMM; {hint}Proteins "
                f"are in {some}, for example"
            )
    try:
        return app.ForceField(*files)
    except Exception as error:  # ForceField raises whatever goes wrong inside it
        raise ConfigError(f"--forcefield {' '.join(files)}: cannot be read ({error})") from error


def create_system(
    path: Path,
    force_field: "app.ForceField",
    files: Sequence[str],
    implicit: str | None,
    topology: "app.Topology",
) -> "openmm.System":
    """The potential of a molecule alone in space: no cutoff, no constraints, no motion removed.

    Args:
        path: the file of the structure, for messages.
        force_field: gets the file of the implicit solvent besides.
        files: it was made of.
        implicit: a key of :data:`IMPLICIT`, or None for what the files say themselves.

    Raises:
        ConfigError: the implicit solvent does not go with the force field.
        SystemDefinitionError: the force field lacks a parameter.
    """
    from openmm import app

    options = {
        "nonbondedMethod": app.NoCutoff,
        "constraints": None,
        "rigidWater": False,
        "removeCMMotion": False,
    }
    names = " ".join(files)
    try:
        system = force_field.createSystem(topology, **options)
    except Exception as error:  # templates are checked before; whatever is left is told as OpenMM tells it
        if "single NonbondedForce" in str(error):
            raise ConfigError(
                f"--forcefield {names}: its files of solvent and of molecules do not go together ({error})"
            ) from error
        raise SystemDefinitionError(f"{path}: {names} cannot describe it ({error})") from error
    if implicit is None:
        return system
    _check_goes_with(names, implicit, system)
    try:
        force_field.loadFile(f"implicit/{implicit}.xml")
        return force_field.createSystem(topology, **options)
    except Exception as error:
        raise ConfigError(
            f"--implicit {implicit}: has no parameters for this molecule ({error}); try another model"
        ) from error


def solvent_label(implicit: str | None, system: "openmm.System") -> str:
    """For the title."""
    if implicit is not None:
        return f"implicit water ({IMPLICIT[implicit]})"
    born = [type(force).__name__ for force in system.getForces() if type(force).__name__ in _BORN]
    return f"implicit water ({born[0]})" if born else "vacuum"


def _check_goes_with(names: str, implicit: str, system: "openmm.System") -> None:
    """Generalised Born models of OpenMM take charges from the one NonbondedForce and radii from elements."""
    forces = [type(force).__name__ for force in system.getForces()]
    if born := [name for name in forces if name in _BORN]:
        raise ConfigError(
            f"--implicit {implicit}: {names} has an implicit solvent already ({born[0]}); take one of the two"
        )
    if polarisable := [name for name in forces if name in ("AmoebaMultipoleForce", "DrudeForce")]:
        own = "; its own is in the file that ends in _gk.xml" if polarisable[0].startswith("Amoeba") else ""
        raise ConfigError(
            f"--implicit {implicit}: does not go with {names}, which is polarisable ({polarisable[0]}); "
            f"generalised Born models of this kind are for fixed charges{own}"
        )
    if forces.count("NonbondedForce") != 1:
        raise ConfigError(
            f"--implicit {implicit}: does not go with {names}, which has {forces.count('NonbondedForce')} "
            "NonbondedForces to take charges from, not one"
        )
