"""Which atoms of a trajectory are those of the system, and in which order."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError

__all__ = ["AtomMap", "match_atoms"]

_IONS = frozenset(["Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn", "F", "Cl", "Br", "I"])
_LETTERS = frozenset("HCNOSPF")
_SHOWN = 4  # residues, names


@dataclass(frozen=True)
class AtomMap:
    """How atoms of a file become those of the system.

    Attributes:
        index: ``(N,)``, for every atom of the system its row in the file.
        left_out: atoms of the file that are not in the system, counted by what they are.
        moved: how many atoms have another place in the file than in the system.
        renamed: (name in the file, name in the system) where they differ.
    """

    index: NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)
    moved: int = 0
    renamed: tuple[tuple[str, str], ...] = ()


def match_atoms(
    path: Path, found: Any, system: Any, *, selection: str | None = None, reorder: bool = False
) -> AtomMap:
    """Find the system's atoms among those of a file.

    A file with more atoms than the system is searched for water and ions that the system does not have; the
    rest must be the system. Atoms then must have the system's elements, in its order. Other names are taken
    for another convention; but the system's names in another order mean that atoms are shuffled. Those are
    put in order if asked for and if there is only one way to do it: every pair of residue and atom name
    occurs once.

    Args:
        path: the file that names the atoms, for messages.
        found: mdtraj topology of the file.
        system: mdtraj topology of the system.
        selection: which atoms to take, in mdtraj's language.
        reorder: put atoms in the system's order.

    Raises:
        DataError: the atoms are not those of the system; names the first that differs, and the remedy.
    """
    chosen, left_out = _chosen(path, found, system, selection)
    atoms = [found.atom(int(row)) for row in chosen]
    wanted = list(system.atoms)
    first = _first_difference(atoms, wanted)
    if first is None:
        renamed = tuple(
            (str(one), str(two)) for one, two in zip(atoms, wanted, strict=True) if one.name != two.name
        )
        return AtomMap(chosen, left_out, 0, renamed)
    order = _order(atoms, wanted)
    if order is not None and reorder:
        return AtomMap(chosen[order], left_out, int((order != np.arange(len(order))).sum()))
    one, two = atoms[first], wanted[first]
    message = f"{path}: atom {chosen[first]} is {_told(one)}, but atom {first} of the system is {_told(two)}"
    if order is not None:
        raise DataError(f"{message}. The file holds the same atoms in another order: add --reorder")
    ours, theirs = (Counter(map(_symbol, side)) for side in (wanted, atoms))
    if ours != theirs:
        raise DataError(
            f"{message}. It is another molecule: {_formula(theirs)} in the file, but {_formula(ours)} in the "
            "system"
        )
    known = set(_keys(wanted))
    strange = [atom for atom, key in zip(atoms, _keys(atoms), strict=True) if key not in known]
    if not strange:
        raise DataError(f"{message}. They cannot be put in order by name: a name occurs twice in a residue")
    raise DataError(
        f"{message}. They cannot be put in order by name, as the system has no {_listed(strange)}; write "
        "the trajectory in the system's order, or rename the atoms in --top as in the system's topology"
    )


def _chosen(
    path: Path, found: Any, system: Any, selection: str | None
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the atoms that must be the system, and what was left out."""
    n = system.n_atoms
    everything = np.arange(found.n_atoms)
    if selection is not None:
        try:
            chosen = np.asarray(found.select(selection), dtype=np.int64)
        except Exception as error:  # mdtraj's parser raises errors of several packages
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(
                f"--atoms {selection!r}: mdtraj does not understand it ({reason}); an "
                "example is --atoms 'resid 0 to 2'"
            ) from error
        if len(chosen) != n:
            raise DataError(
                f"{path}: --atoms {selection!r} chooses {len(chosen)} of {found.n_atoms} atoms"
                f"{_of(found, chosen)}, but the system has {n}"
            )
        return chosen, _counted(found, np.setdiff1d(everything, chosen))
    if found.n_atoms == n:
        return everything, {}
    if found.n_atoms < n:
        raise DataError(
            f"{path}: has {found.n_atoms} atoms, but the system has {n}; the trajectory must hold all atoms, "
            f"hydrogens too. Not in the file: {_missing(found, system)}"
        )
    ours = {residue.name for residue in system.residues}
    chosen = np.array(
        [
            atom.index
            for atom in found.atoms
            if atom.residue.name in ours or not (atom.residue.is_water or _is_ion(atom.residue))
        ],
        dtype=np.int64,
    )
    if len(chosen) != n:
        without = (
            f"{len(chosen)} without water and ions" if len(chosen) < found.n_atoms else "no water or ions"
        )
        raise DataError(
            f"{path}: has {found.n_atoms} atoms, {without}{_of(found, chosen)}, but the system has {n}; name "
            "the molecule's atoms, such as --atoms 'chainid 0'"
        )
    return chosen, _counted(found, np.setdiff1d(everything, chosen))


def _first_difference(atoms: list[Any], wanted: list[Any]) -> int | None:
    """The first place where elements differ or, if the same names occur in another order, names."""
    theirs, ours = _keys(atoms), _keys(wanted)
    shuffled = theirs != ours and sorted(theirs) == sorted(ours)
    for place, (one, two) in enumerate(zip(atoms, wanted, strict=True)):
        if _other_element(one, two) or (shuffled and theirs[place] != ours[place]):
            return place
    return None


def _order(atoms: list[Any], wanted: list[Any]) -> NDArray[np.int64] | None:
    """Places of the wanted atoms among ``atoms``, if names say it beyond doubt."""
    theirs, ours = _keys(atoms), _keys(wanted)
    if len(set(theirs)) != len(theirs) or set(theirs) != set(ours):
        return None
    place = {key: row for row, key in enumerate(theirs)}
    order = np.array([place[key] for key in ours], dtype=np.int64)
    other = any(_other_element(atoms[row], atom) for row, atom in zip(order, wanted, strict=True))
    return None if other else order


def _keys(atoms: list[Any]) -> list[tuple[int, str]]:
    """Which residue an atom is in, counted along the molecule, and its name.

    Residue names are left out: they differ between conventions (HIS, HIE, HSE) for the same atoms.
    """
    number = {index: place for place, index in enumerate(sorted({atom.residue.index for atom in atoms}))}
    return [(number[atom.residue.index], atom.name) for atom in atoms]


def _symbol(atom: Any) -> str:
    """Chemical symbol; if mdtraj cannot tell it from the name, such as 1HB, the first letter; else ``?``."""
    if atom.element is not None and atom.element.symbol != "VS":  # mdtraj's virtual site, its last resort
        return str(atom.element.symbol)
    letter = atom.name.lstrip("0123456789*'")[:1].upper()
    return letter if letter in _LETTERS else "?"


def _other_element(one: Any, two: Any) -> bool:
    symbols = _symbol(one), _symbol(two)
    return symbols[0] != symbols[1] and "?" not in symbols


def _told(atom: Any) -> str:
    return f"{atom} ({_symbol(atom)})"


def _formula(count: Counter[str]) -> str:
    return " ".join(f"{symbol}{number}" for symbol, number in sorted(count.items()))


def _is_ion(residue: Any) -> bool:
    return residue.n_atoms == 1 and _symbol(residue.atom(0)) in _IONS


def _counted(found: Any, rows: NDArray[np.int64]) -> dict[str, int]:
    """Atoms by what they belong to."""
    kinds: Counter[str] = Counter()
    for row in rows:
        residue = found.atom(int(row)).residue
        kinds["water" if residue.is_water else "ions" if _is_ion(residue) else residue.name] += 1
    return dict(kinds)


def _of(found: Any, rows: NDArray[np.int64]) -> str:
    """Which residues the atoms belong to, in brackets."""
    residues = list(dict.fromkeys(str(found.atom(int(row)).residue) for row in rows))
    if not residues:
        return ""
    return f" ({', '.join(residues[:_SHOWN])}{', …' if len(residues) > _SHOWN else ''})"


def _missing(found: Any, system: Any) -> str:
    """Atoms of the system for which the file has no name."""
    theirs = Counter(_keys(list(found.atoms)))
    lost = []
    for atom, key in zip(system.atoms, _keys(list(system.atoms)), strict=True):
        theirs[key] -= 1
        if theirs[key] < 0:
            lost.append(atom)
    return _listed(lost) or "it is another molecule"


def _listed(atoms: list[Any]) -> str:
    return ", ".join(map(str, atoms[:_SHOWN])) + (", …" if len(atoms) > _SHOWN else "")
