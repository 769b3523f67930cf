"""Conformations that data and references start from: every basin of every residue at least once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bgdiff.setup.geometry import handedness, stereocentres
from bgdiff.setup.molecule import Array, Molecule, Tell, bond_pairs
from bgdiff.setup.torsions import Torsion

if TYPE_CHECKING:
    import openmm

__all__ = ["conformations", "proposals"]

_LIMIT = 24
_SLACK = np.radians(40)

# Basins of the Ramachandran map in degrees, the first ones those that most residues visit most
# (Smith, Bolin & Dalby, J. Mol. Biol. 249, 494, 1995, name the regions).
_RESIDUE = {
    "polyproline": (-75, 145),
    "right-handed": (-70, -30),
    "left-handed": (60, 45),
    "extended": (-150, 155),
    "gamma": (65, -60),
}
_PROLINE = ("polyproline", "right-handed")
_STAGGERED = {3: (-60, 180, 60), 2: (90, -90)}


@dataclass(frozen=True)
class _Site:
    """A residue with its backbone torsions."""

    number: int
    phi: Torsion | None
    psi: Torsion | None
    states: tuple[str, ...]


def conformations(molecule: Molecule, torsions: Sequence[Torsion], tell: Tell) -> list[dict[str, float]]:
    """Starts that can be built: torsions in degrees by name, of which at least one is kept.

    Each is turned and minimised as ``bgdiff data generate`` will do, but in vacuum, which is faster. Those
    whose torsions do not stay, that break the molecule, or invert a stereocentre are left out.
    """
    from bgdiff.data.starts import start_structure

    turnable = {torsion.name: torsion for torsion in torsions if torsion.turnable}
    centres = stereocentres(molecule.topology)
    sign = handedness(molecule.positions, centres)
    bonds = bond_pairs(molecule.topology)
    alone = _without_solvent(molecule)
    kept: list[dict[str, float]] = []
    lost = 0
    for start in proposals(list(turnable.values())):
        angles: dict[tuple[int, ...], float] = {
            turnable[name].atoms: float(np.radians(angle)) for name, angle in start.items()
        }
        x = start_structure(alone, molecule.positions, bonds, angles)
        sound = np.isfinite(x).all() and (handedness(x, centres) == sign).all()
        if sound and _stayed(x, angles) and _whole(molecule.positions, x, bonds):
            kept.append(start)
        else:
            lost += 1
    if not kept:
        kept = [{}]  # the minimum itself
    clashes = f"; {lost} others clash and are left out" if lost else ""
    tell("starts", f"{len(kept)} conformations to start from{clashes}")
    return kept


def proposals(torsions: Sequence[Torsion]) -> list[dict[str, float]]:
    """Combinations of basins, at most 24; torsions in degrees by name.

    All residues alike; then each residue in each rarer basin, its neighbours extended or helical; then pairs.
    Side chains go through their staggered forms, every bond in another order.
    """
    sites = _sites(torsions)
    others = [torsion for torsion in torsions if torsion.kind in ("chi", "torsion")]
    if not sites:
        choices = [_STAGGERED[torsion.folds] for torsion in others]
        count = int(np.prod([len(choice) for choice in choices])) if choices else 0
        if 0 < count <= _LIMIT:
            return [
                {torsion.name: float(angle) for torsion, angle in zip(others, angles, strict=True)}
                for angles in product(*choices)
            ]
        return [_staggered(others, index) for index in range(_LIMIT)] if others else [{}]
    starts: list[dict[str, float]] = []
    for states in _combinations(sites):
        start: dict[str, float] = {}
        for site, state in zip(sites, states, strict=True):
            for torsion, angle in zip((site.phi, site.psi), _RESIDUE[state], strict=True):
                if torsion is not None:
                    start[torsion.name] = float(angle)
        if start not in starts:
            starts.append(start)
        if len(starts) == _LIMIT:
            break
    return [start | _staggered(others, index) for index, start in enumerate(starts)]


def _sites(torsions: Sequence[Torsion]) -> list[_Site]:
    numbers = sorted({t.residue for t in torsions if t.kind in ("phi", "psi")})
    by_key = {(t.kind, t.residue): t for t in torsions}
    sites = []
    for number in numbers:
        phi, psi = by_key.get(("phi", number)), by_key.get(("psi", number))
        # a residue whose φ cannot be turned is a proline, or in a ring, or the first of a chain
        states = tuple(_RESIDUE) if phi is not None else _PROLINE
        sites.append(_Site(number, phi, psi, states))
    return sites


def _combinations(sites: Sequence[_Site]) -> Iterator[list[str]]:
    """A basin for every residue; the most useful combinations first."""
    common = ("polyproline", "right-handed", "extended")
    for state in common:
        yield [state if state in site.states else "polyproline" for site in sites]
    for state in ("left-handed", "gamma", "right-handed"):
        for background in ("polyproline", "right-handed")[: 1 if state == "right-handed" else 2]:
            if state == "gamma" and background == "right-handed":
                continue
            for index, site in enumerate(sites):
                if state in site.states:
                    yield [state if place == index else background for place in range(len(sites))]
    for first, second in product(range(len(sites)), repeat=2):
        if first < second and {"left-handed"} <= set(sites[first].states) & set(sites[second].states):
            yield [
                "left-handed" if place in (first, second) else "polyproline" for place in range(len(sites))
            ]


def _staggered(torsions: Sequence[Torsion], index: int) -> dict[str, float]:
    """One staggered form of each bond; over all indices every pair of bonds sees all of its combinations."""
    start = {}
    for place, torsion in enumerate(torsions):
        forms = _STAGGERED[torsion.folds]
        stride = index // len(forms) ** (place % 2)
        start[torsion.name] = float(forms[(stride + index * (place // 2) + place) % len(forms)])
    return start


def _without_solvent(molecule: Molecule) -> "openmm.System":
    """The potential without generalised Born forces; bonds and clashes do not depend on them."""
    import openmm

    system = openmm.XmlSerializer.clone(molecule.system)
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CustomGBForce | openmm.GBSAOBCForce):
            system.removeForce(index)
    return system


def _stayed(x: Array, angles: Mapping[tuple[int, ...], float]) -> bool:
    from bgdiff.data.observables import dihedral

    found = np.array([float(dihedral(x[None], atoms)[0]) for atoms in angles])
    wanted = np.array(list(angles.values()))
    return bool((np.abs(np.angle(np.exp(1j * (found - wanted)))) < _SLACK).all())


def _whole(before: Array, after: Array, bonds: Sequence[tuple[int, int]]) -> bool:
    pairs = np.array(bonds, dtype=int).reshape(-1, 2)
    old, new = (np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1) for x in (before, after))
    return bool((np.abs(new - old) < 0.02).all())
