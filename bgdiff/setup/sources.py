"""What a molecule can be made of: a structure and a force field, or files of OpenMM, Amber or GROMACS."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.setup.force_field import IMPLICIT, create_system, load_force_field, solvent_label
from bgdiff.setup.geometry import check_bonds, check_one_molecule
from bgdiff.setup.molecule import Molecule, Tell
from bgdiff.setup.records import read_text
from bgdiff.setup.repair import add_heavy_atoms, add_hydrogens
from bgdiff.setup.structure import check_complete, read_structure, select, solvent_of
from bgdiff.setup.templates import check_heavy_atoms, check_templates

if TYPE_CHECKING:
    from openmm import app

__all__ = ["FromAmber", "FromGromacs", "FromStructure", "FromSystem", "Source"]


class Source(Protocol):
    """Files that a molecule is made of."""

    @property
    def label(self) -> str:
        """The file that messages are about."""
        ...

    def build(self, tell: Tell) -> Molecule:
        """Read them.

        Raises:
            BgdiffError: a file is missing, damaged, or is not one molecule with a potential.
        """
        ...


@dataclass(frozen=True)
class FromStructure:
    """A PDB or mmCIF file, and force field files of OpenMM."""

    pdb: Path | str
    force_field: tuple[str, ...] = ()
    implicit: str | None = None
    """A key of :data:`~bgdiff.setup.force_field.IMPLICIT`"""
    add_hydrogens: bool = False
    ph: float = 7.0
    add_heavy_atoms: bool = False
    remove_solvent: bool = False
    keep_only: tuple[str, ...] = ()
    """Identifiers of chains; all if empty"""

    @property
    def label(self) -> str:
        return str(self.pdb)

    def build(self, tell: Tell) -> Molecule:
        """As :meth:`Source.build`."""
        path = Path(self.pdb)
        _check_implicit(self.implicit)
        if not 0 <= self.ph <= 14:
            raise ConfigError(f"--ph {self.ph:g}: must be from 0 to 14")
        structure = read_structure(path, tell)
        structure = select(structure, keep_only=self.keep_only, remove_solvent=self.remove_solvent, tell=tell)
        force_field = load_force_field(self.force_field)
        if not (self.add_heavy_atoms and structure.gaps):  # PDBFixer is to fill them first
            check_complete(structure)
            check_bonds(path, structure.topology, structure.positions)
        if self.add_heavy_atoms:
            structure = add_heavy_atoms(structure, tell)
            check_complete(structure)
        check_heavy_atoms(path, force_field, structure.topology)
        if self.add_hydrogens:
            structure = add_hydrogens(structure, force_field, self.ph, tell)
        check_bonds(path, structure.topology, structure.positions)
        check_one_molecule(path, structure.topology)
        check_templates(path, force_field, structure.topology)
        system = create_system(path, force_field, self.force_field, self.implicit, structure.topology)
        return Molecule(
            structure.topology,
            system,
            structure.positions,
            _force_field_label(self.force_field),
            solvent_label(self.implicit, system),
            (
                f"structure: {path.name}",
                f"force field: {', '.join(self.force_field)}"
                + (f", implicit/{self.implicit}.xml" if self.implicit else ""),
            ),
        )


@dataclass(frozen=True)
class FromSystem:
    """A serialised ``openmm.System``, and a PDB or mmCIF file with the same atoms in the same order."""

    system: Path | str
    topology: Path | str

    @property
    def label(self) -> str:
        return str(self.system)

    def build(self, tell: Tell) -> Molecule:
        """As :meth:`Source.build`."""
        from bgdiff.setup.agreement import bonds_of, check_same_atoms
        from bgdiff.targets.openmm import read_system

        xml, path = Path(self.system), Path(self.topology)
        read_text(xml)
        system = read_system(xml)
        structure = read_structure(path, tell)
        check_same_atoms(path, structure.topology, system)
        if not list(structure.topology.bonds()) and (bonds := bonds_of(system)):
            atoms = list(structure.topology.atoms())
            for first, second in bonds:
                structure.topology.addBond(atoms[first], atoms[second])
            tell("bonds", f"{len(bonds)} taken from {xml.name}, because {path.name} has none")
        check_bonds(path, structure.topology, structure.positions)
        check_one_molecule(path, structure.topology)
        return Molecule(
            structure.topology,
            system,
            structure.positions,
            "",
            "",
            (f"potential: {xml.name}", f"structure: {path.name}"),
        )


@dataclass(frozen=True)
class FromAmber:
    """An Amber ``prmtop`` with coordinates (``inpcrd``, ``rst7``)."""

    prmtop: Path | str
    inpcrd: Path | str
    implicit: str | None = None

    @property
    def label(self) -> str:
        return str(self.prmtop)

    def build(self, tell: Tell) -> Molecule:
        """As :meth:`Source.build`."""
        from openmm import app

        path, coordinates = Path(self.prmtop), Path(self.inpcrd)
        _check_implicit(self.implicit)
        prmtop = _read(path, lambda: app.AmberPrmtopFile(str(path)), "an Amber prmtop")
        inpcrd = _read(coordinates, lambda: app.AmberInpcrdFile(str(coordinates)), "an Amber inpcrd or rst7")
        topology = prmtop.topology
        positions = _positions(coordinates, inpcrd.positions, topology)
        _prepare(path, topology, positions)
        model = None if self.implicit is None else getattr(app, IMPLICIT[self.implicit])
        system = _create(path, lambda: prmtop.createSystem(implicitSolvent=model, **_alone()))
        return Molecule(
            topology,
            system,
            positions,
            f"Amber {path.name}",
            solvent_label(self.implicit, system),
            (f"potential: {path.name}", f"coordinates: {coordinates.name}"),
        )


@dataclass(frozen=True)
class FromGromacs:
    """A GROMACS ``top`` with coordinates (``gro``)."""

    top: Path | str
    gro: Path | str
    include: Path | str | None = None
    """Folder of the force field that ``top`` includes, unless it lies beside it; by default GROMACS's own"""

    @property
    def label(self) -> str:
        return str(self.top)

    def build(self, tell: Tell) -> Molecule:
        """As :meth:`Source.build`."""
        from openmm import app

        path, coordinates = Path(self.top), Path(self.gro)
        if self.include is not None and not Path(self.include).is_dir():
            raise ConfigError(f"--include {self.include}: is not a folder")
        gro = _read(coordinates, lambda: app.GromacsGroFile(str(coordinates)), "a GROMACS gro")
        include = None if self.include is None else str(self.include)
        try:
            top = _read(path, lambda: app.GromacsTopFile(str(path), includeDir=include), "a GROMACS top")
        except SystemDefinitionError as error:
            if "#include" in str(error) or "Could not locate" in str(error):
                raise SystemDefinitionError(
                    f"{error}; say with --include DIR where the included files lie"
                ) from error
            raise
        topology = top.topology
        positions = _positions(coordinates, gro.positions, topology)
        _prepare(path, topology, positions)
        system = _create(path, lambda: top.createSystem(**_alone()))
        return Molecule(
            topology,
            system,
            positions,
            f"GROMACS {path.name}",
            solvent_label(None, system),
            (f"potential: {path.name}", f"coordinates: {coordinates.name}"),
        )


def _alone() -> dict[str, Any]:
    """Arguments of createSystem for a molecule alone in space whose degrees of freedom are all free."""
    from openmm import app

    return {
        "nonbondedMethod": app.NoCutoff,
        "constraints": None,
        "rigidWater": False,
        "removeCMMotion": False,
    }


def _read(path: Path, reader: Any, kind: str) -> Any:
    read_text(path)
    try:
        return reader()
    except Exception as error:  # these readers raise whatever goes wrong inside them
        raise SystemDefinitionError(
            f"{path}: is cut off, or is not {kind} file that OpenMM reads ({error})"
        ) from error


def _create(path: Path, maker: Any) -> Any:
    try:
        return maker()
    except Exception as error:
        raise SystemDefinitionError(f"{path}: OpenMM cannot make a System of it ({error})") from error


def _positions(path: Path, positions: Any, topology: "app.Topology") -> Any:
    from openmm import unit

    values = np.array(positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3)
    if len(values) != topology.getNumAtoms():
        raise SystemDefinitionError(
            f"{path}: has {len(values)} atoms, but the potential has {topology.getNumAtoms()}; the two "
            "files are not of the same molecule"
        )
    return values


def _prepare(path: Path, topology: "app.Topology", positions: Any) -> None:
    """Refuse solvent and loose pieces, forget the box."""
    topology.setPeriodicBoxVectors(None)
    if (solvent := solvent_of(topology)) and len(solvent) < topology.getNumResidues():
        names = ", ".join(sorted({residue.name for residue in solvent}))
        raise SystemDefinitionError(
            f"{path}: holds {len(solvent)} waters, ions or single atoms ({names}) besides the molecule; "
            "strip them with the program that made the file (such as cpptraj or gmx), because bgdiff takes "
            "one molecule without solvent"
        )
    check_bonds(path, topology, positions)
    check_one_molecule(path, topology)


def _check_implicit(implicit: str | None) -> None:
    if implicit is not None and implicit not in IMPLICIT:
        raise ConfigError(f"--implicit {implicit}: must be one of vacuum, {', '.join(IMPLICIT)}")


def _force_field_label(files: tuple[str, ...]) -> str:
    return " + ".join(name.removesuffix(".xml") for name in files)
