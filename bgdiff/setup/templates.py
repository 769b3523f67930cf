"""Residues that a force field has no template for: which atoms they lack, or which template is nearest."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.molecule import listed, residue_label

if TYPE_CHECKING:
    from openmm import app

__all__ = ["check_heavy_atoms", "check_templates"]

# Residues of PDB files whose forms force fields name differently.
_FORMS = {
    "ASP": ("ASP", "ASH"),
    "CYS": ("CYS", "CYX", "CYM"),
    "GLU": ("GLU", "GLH"),
    "HIS": ("HIS", "HID", "HIE", "HIP"),
    "LYS": ("LYS", "LYN"),
}


@dataclass(frozen=True)
class _Fit:
    """How a residue differs from the template that comes nearest."""

    residue: "app.Residue"
    template: str
    known: bool
    """Whether the template is one for residues of this name"""
    heavy: tuple[str, ...]
    hydrogens: tuple[str, ...]
    """Names of atoms that the residue lacks"""
    extra: tuple[str, ...]
    """Names of atoms that the template lacks"""


def check_heavy_atoms(path: Path, force_field: "app.ForceField", topology: "app.Topology") -> None:
    """Refuse residues that lack heavy atoms, or that the force field does not know.

    Raises:
        SystemDefinitionError: it names the residues, the atoms and what to do.
    """
    fits = [_nearest(force_field, topology, residue) for residue in _unmatched(force_field, topology)]
    _refuse_unknown(path, fits)
    if incomplete := [fit for fit in fits if fit.heavy]:
        names = listed(f"{residue_label(fit.residue)} lacks {', '.join(fit.heavy)}" for fit in incomplete)
        also = " --add-hydrogens" if any(fit.hydrogens for fit in fits) else ""
        raise SystemDefinitionError(
            f"{path}: heavy atoms are missing: {names}; build them with --add-heavy-atoms{also} (PDBFixer)"
        )


def check_templates(path: Path, force_field: "app.ForceField", topology: "app.Topology") -> None:
    """Refuse a molecule with a residue that no template of the force field matches.

    Raises:
        SystemDefinitionError: hydrogens are missing, or there are atoms too many, or bonds do not fit.
    """
    unmatched = _unmatched(force_field, topology)
    if not unmatched:
        return
    fits = [_nearest(force_field, topology, residue) for residue in unmatched]
    _refuse_unknown(path, fits)
    if bare := [fit for fit in fits if fit.hydrogens and not fit.heavy and not fit.extra]:
        names = listed((f"{residue_label(fit.residue)} lacks {', '.join(fit.hydrogens)}" for fit in bare), 4)
        raise SystemDefinitionError(f"{path}: hydrogens are missing: {names}; add them with --add-hydrogens")
    fit = fits[0]
    differences = [
        f"it {verb} {', '.join(names)}"
        for verb, names in (("lacks", fit.heavy + fit.hydrogens), ("has besides", fit.extra))
        if names
    ]
    reason = " and ".join(differences) or "its bonds, within it or to its neighbours, are others"
    raise SystemDefinitionError(
        f"{path}: {residue_label(fit.residue)} fits no template of the force field; the nearest is "
        f"{fit.template}: {reason}. Chains end in ACE and NME caps, or in charged ends (H1 H2 H3 at N, OXT "
        "at C)"
    )


def _refuse_unknown(path: Path, fits: Iterable[_Fit]) -> None:
    if unknown := [fit for fit in fits if not fit.known]:
        names = listed(f"{residue_label(fit.residue)} (nearest template: {fit.template})" for fit in unknown)
        raise SystemDefinitionError(
            f"{path}: the force field has no template for {names}; give a force field file that has one "
            "with another --forcefield, rename the residue if it is only named differently, or start from "
            "Amber or GROMACS files of your molecule (--prmtop, --top) or from an OpenMM System (--system)"
        )


def _unmatched(force_field: "app.ForceField", topology: "app.Topology") -> "list[app.Residue]":
    residues: list[Any] = force_field.getUnmatchedResidues(topology)
    return residues


def _nearest(force_field: "app.ForceField", topology: "app.Topology", residue: "app.Residue") -> _Fit:
    templates: dict[str, Any] = force_field._templates  # there is no public way to ask for their atoms
    own = {atom.name for atom in residue.atoms()}
    names = _FORMS.get(residue.name, (residue.name,))
    same = [name for name in templates if _base(name, names)]
    outside = {
        (bond.atom1 if bond.atom1.residue is residue else bond.atom2).name
        for bond in topology.bonds()
        if (bond.atom1.residue is residue) != (bond.atom2.residue is residue)
    }

    elements = Counter(atom.element.symbol for atom in residue.atoms() if atom.element is not None)

    def cost(name: str) -> tuple[bool, int, int, str]:
        atoms = templates[name].atoms
        others = Counter(atom.element.symbol for atom in atoms if atom.element is not None)
        return (
            {atoms[index].name for index in templates[name].externalBonds} != outside,
            (elements - others).total() + (others - elements).total(),
            len(own ^ {atom.name for atom in atoms}),
            name,
        )

    if same:
        best = min(same, key=cost)
        lacking, extra = _differences(residue, templates[best].atoms)
        heavy = tuple(name for name, element in lacking if element != "H")
        hydrogens = tuple(name for name, element in lacking if element == "H")
        return _Fit(residue, best, True, heavy, hydrogens, tuple(name for name, _ in extra))

    def distance(name: str) -> tuple[int, int, str]:
        others = Counter(atom.element.symbol for atom in templates[name].atoms if atom.element is not None)
        heavy = sum(abs(elements[e] - others[e]) for e in {*elements, *others} - {"H"})
        common = len(own & {atom.name for atom in templates[name].atoms})
        return (heavy + abs(elements["H"] - others["H"]) // 2, -common, name)

    nearest = min(templates, key=distance) if templates else "none, it has no templates at all"
    return _Fit(residue, nearest, False, (), (), ())


def _differences(
    residue: "app.Residue", template: Sequence[Any]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Atoms that a residue lacks and has besides, as (name, element).

    Old force fields name some atoms in their own way, so that elements are counted first; where names do not
    tell which atoms of an element differ, they are only counted.
    """
    ours = [(atom.name, atom.element.symbol) for atom in residue.atoms() if atom.element is not None]
    theirs = [(atom.name, atom.element.symbol) for atom in template if atom.element is not None]

    def beyond(some: list[tuple[str, str]], others: list[tuple[str, str]]) -> list[tuple[str, str]]:
        found = []
        more = Counter(element for _, element in some) - Counter(element for _, element in others)
        for element, count in more.items():
            names = [name for name, own in some if own == element and name not in {n for n, _ in others}]
            found += [(n, element) for n in (names if len(names) == count else [f"{count} {element}"])]
        return found

    return beyond(theirs, ours), beyond(ours, theirs)


def _base(template: str, names: Iterable[str]) -> bool:
    """Whether a template is one for a residue of these names, inside a chain or at its end (NALA, CALA)."""
    return any(template in (name, f"N{name}", f"C{name}") for name in names)
