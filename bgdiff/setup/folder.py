"""Writing a system folder: all of it or nothing."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import bgdiff
from bgdiff.errors import ConfigError, StorageError, SystemDefinitionError
from bgdiff.io import make_directory, write_text
from bgdiff.setup.basins import Basins, basins_of, example_basins
from bgdiff.setup.checks import check_molecule
from bgdiff.setup.lengths import simulation_lengths
from bgdiff.setup.molecule import Molecule, Tell, atom_label, bond_pairs, silent
from bgdiff.setup.recommended import recommended_settings
from bgdiff.setup.sources import Source
from bgdiff.setup.starts import conformations
from bgdiff.setup.system_yaml import Content, system_yaml
from bgdiff.setup.torsions import molecular_torsions

if TYPE_CHECKING:
    from openmm import app

__all__ = ["new_system"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LOWEST, _HIGHEST = 1.0, 10_000.0  # K
_SEQUENCE = 8  # residues; longer ones are only counted in titles


def new_system(
    name: str,
    source: Source,
    *,
    temperature: float = 300.0,
    basins: Sequence[str] = (),
    out: Path | str | None = None,
    command: str = "",
    tell: Tell = silent,
) -> Path:
    """Make a system folder of a molecule: check it, minimise it, and write what a run needs but data.

    Args:
        name: of the system: letters, digits, ``_``, ``.`` and ``-``.
        source: the files it is made of, such as :class:`~bgdiff.setup.sources.FromStructure`.
        temperature: K.
        basins: regions such as ``left: phi in [0, 130]``, see :mod:`bgdiff.regions`; differences go from the
            first to each other one. An example if there is none.
        out: the folder to make; ``name`` in the current directory by default, where ``load_system(name)``
            finds it.
        command: what was typed, for the comment at the top of ``system.yaml``.
        tell: called with every check and what it found.

    Returns:
        The folder. It appears when all is done; after an error there is none.

    Raises:
        ConfigError: the name, the temperature or a basin makes no sense, or the folder exists.
        SystemDefinitionError: the files are not one molecule that can be sampled; atoms, residues and a
            remedy are named.
        StorageError: the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: must be of letters, digits, '_', '.' and '-'; say where to make it with --out"
        )
    if not _LOWEST <= temperature <= _HIGHEST:
        raise ConfigError(
            f"--temperature {temperature:g}: must be in kelvin, from {_LOWEST:g} to {_HIGHEST:g}"
        )
    out = Path(name if out is None else out)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already; remove it, or choose another name or folder with --out")
    molecule = check_molecule(source.build(tell), source.label, temperature, tell)
    torsions = molecular_torsions(molecule)
    starts = conformations(molecule, torsions, tell)
    lengths = simulation_lengths(
        molecule.topology.getNumAtoms(),
        len(starts),
        batched=_is_batched(molecule),
        implicit="implicit" in molecule.solvent or _has_born(molecule),
    )
    origin = _origin(molecule, command)
    with _whole_folder(out) as folder:

        def write(chosen: Basins) -> None:
            title = _title(name, molecule, temperature)
            content = Content(
                name, title, temperature, origin, torsions, chosen, starts, lengths,
                recommended_settings(molecule.topology.getNumAtoms()),
            )  # fmt: skip
            write_text(folder / "system.yaml", system_yaml(content))

        _write_molecule(folder, molecule, source.label)
        write(example_basins(torsions))
        if basins:
            from bgdiff.systems import System

            write(basins_of(basins, System(folder)))
        _check_folder(folder, molecule)
    if torsions:
        tell("torsions", ", ".join(torsion.name for torsion in torsions))
    return out


def _write_molecule(folder: Path, molecule: Molecule, source: str) -> None:
    """``system.xml`` and ``topology.pdb``, with every bond that readers would not know by themselves."""
    import io

    import mdtraj
    import openmm
    from openmm import app

    write_text(folder / "system.xml", openmm.XmlSerializer.serialize(molecule.system))
    text = io.StringIO()
    app.PDBFile.writeFile(
        molecule.topology, 10 * molecule.positions, text, keepIds=_ids_fit(molecule.topology)
    )
    path = folder / "topology.pdb"
    # without OpenMM's remark, which has the date: the same molecule should be the same file
    content = "".join(line for line in text.getvalue().splitlines(keepends=True) if line[:6] != "REMARK")
    write_text(path, content)
    bonds = {(min(pair), max(pair)) for pair in bond_pairs(molecule.topology)}
    read = mdtraj.load(str(path)).topology
    if read.n_atoms != molecule.topology.getNumAtoms():
        names = [atom.name for atom in read.atoms]
        atoms = list(molecule.topology.atoms())
        lost = next(
            (
                atom
                for atom, name in zip(atoms, [*names, *[""] * len(atoms)], strict=False)
                if atom.name != name
            ),
            atoms[-1],
        )
        raise SystemDefinitionError(
            f"{source}: a PDB file of it loses atoms, {atom_label(lost)} among them, because atoms of a "
            "residue have the same name; give every atom of a residue its own name"
        )
    known = {(min(a.index, b.index), max(a.index, b.index)) for a, b in read.bonds}
    if unknown := sorted(bonds - known):
        serials = [int(line[6:11]) for line in content.splitlines() if line.startswith(("ATOM", "HETATM"))]
        records = "".join(f"CONECT{serials[i]:5d}{serials[j]:5d}\n" for i, j in unknown)
        head, _, tail = content.rpartition("END")
        write_text(path, f"{head}{records}END{tail}")


def _check_folder(folder: Path, molecule: Molecule) -> None:
    """What was written must read back as the same molecule."""
    from bgdiff.systems import System

    system = System(folder)
    topology = system.topology
    assert topology is not None  # it is a molecule
    read = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds}
    wanted = {(min(pair), max(pair)) for pair in bond_pairs(molecule.topology)}
    if read != wanted:
        atoms = list(molecule.topology.atoms())
        first, second = sorted(read ^ wanted)[0]
        raise SystemDefinitionError(
            f"the bond of {atom_label(atoms[first])} with {atom_label(atoms[second])} is not the same in "
            "the PDB file written; standard residue names must have the standard atoms and bonds: rename "
            "the residue"
        )
    for name, spec in system.spec.observables.items():
        system.observable(name, spec, (topology.n_atoms, 3))


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name if the block succeeds, and vanishes otherwise."""
    make_directory(out.parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(
            f"{out}: cannot be made ({error.strerror or error}); choose another --out"
        ) from error
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes 0700
        try:
            folder.rename(out)
        except OSError as error:
            raise StorageError(f"{out}: cannot be made ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _origin(molecule: Molecule, command: str) -> list[str]:
    import openmm

    made = f"Made by bgdiff {bgdiff.__version__} with OpenMM {openmm.__version__}"
    return [f"{made}:" if command else made, *([f"  {command}"] if command else []), *molecule.origin]


def _title(name: str, molecule: Molecule, temperature: float) -> str:
    names = [residue.name for residue in molecule.topology.residues()]
    parts = "-".join(names) if len(names) <= _SEQUENCE else f"{len(names)} residues"
    potential = molecule.force_field
    if molecule.solvent:
        potential += f" in {molecule.solvent}"
    middle = f"{potential}, " if potential else ""
    return f"{name} ({parts}), {middle}no constraints, {temperature:g} K"


def _is_batched(molecule: Molecule) -> bool:
    from bgdiff.errors import UnsupportedSystem
    from bgdiff.targets.forcefield.parser import parse_system

    try:
        parse_system(molecule.system)
    except UnsupportedSystem:
        return False
    return True


def _has_born(molecule: Molecule) -> bool:
    return any("GB" in type(force).__name__ for force in molecule.system.getForces())


def _ids_fit(topology: "app.Topology") -> bool:
    """Whether identifiers of chains and residues fit the columns of a PDB file."""
    return all(len(chain.id) == 1 for chain in topology.chains()) and all(
        residue.id.lstrip("-").isdigit() and len(residue.id) <= 4 for residue in topology.residues()
    )
