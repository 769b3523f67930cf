"""What lengths of bonds say about a trajectory: its unit, periodic images, constraints."""

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import DataError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["bond_lengths", "bonds_of", "check_order", "check_unit", "constrained_bonds", "make_whole"]

Array = NDArray[np.float64]

_PROBES = 200  # frames that unit and order are judged by
_MIX_UP = 2.0  # factor about 10 and 1/10 that still is a mix-up of nm and Å
_MISPLACED = 1.6  # atoms next but one are so far apart, in bonds
_RIGID = 0.008  # relative spread at 300 K: rounding in XTC files makes 0.004, the stiffest bonds have 0.018
_ENOUGH = 50  # frames to judge a spread by


def bonds_of(topology: Any) -> list[tuple[int, int]]:
    """Bonds as pairs of atom indices."""
    return [(first.index, second.index) for first, second in topology.bonds]


def bond_lengths(x: Array, bonds: list[tuple[int, int]]) -> NDArray[np.float64]:
    """Lengths ``(n, B)`` of B bonds in conformations ``(n, N, 3)``."""
    first, second = np.array(bonds, dtype=np.int64).reshape(-1, 2).T
    return np.asarray(np.linalg.norm(x[:, first] - x[:, second], axis=2))


def check_unit(path: Path, system: "System", x: Array, unit: str) -> None:
    """Refuse coordinates ``(n, N, 3)`` in a wrong unit: the median bond would be ten times too long or short.

    Args:
        unit: the numbers in the file were taken for, ``nm`` or ``angstrom``.

    Raises:
        DataError: names the remedy.
    """
    ratio = _typical_ratio(system, x)
    for factor, true in ((10.0, "angstrom"), (0.1, "nm")):
        if factor / _MIX_UP < ratio < factor * _MIX_UP:
            if unit == true:
                raise DataError(
                    f"{path}: bonds are {ratio:.3g} times as long as in {_topology_file(system)}, although "
                    f"--units {unit} was said; leave --units out"
                )
            raise DataError(
                f"{path}: bonds are {ratio:.3g} times as long as in {_topology_file(system)}: numbers were "
                f"read as {unit}, but are {true}. Add --units {true}"
            )


def check_order(path: Path, system: "System", x: Array) -> None:
    """Refuse whole molecules ``(n, N, 3)`` whose atoms are not those that the topology says are bonded.

    Most frames of shuffled atoms have a bond, in the topology's sense, as long as atoms next but one are
    apart; thermal motion and single broken frames do not change a bond's median.

    Raises:
        DataError: names a bond.
    """
    bonds = bonds_of(system.topology)
    ratio = np.median(_ratios(system, x), axis=0)
    if not bonds or not (ratio > _MISPLACED).any():
        return
    worst = int(np.argmax(ratio))
    first, second = (system.topology.atom(index) for index in bonds[worst])  # type: ignore[union-attr]
    raise DataError(
        f"{path}: {int((ratio > _MISPLACED).sum())} of {len(bonds)} bonds are much too long in most frames, "
        f"{first} to {second} by a factor of {ratio[worst]:.2g}: the atoms are in another order than in "
        f"{_topology_file(system)}, or it is another molecule. Name the file's atoms with --top, and add "
        "--reorder if the order differs"
    )


def make_whole(x: Array, box: NDArray[np.float64] | None, topology: Any) -> tuple[Array, int]:
    """Undo what periodic images did to a molecule: mdtraj moves atoms to the image next to a neighbour.

    Args:
        x: ``(n, N, 3)``, in the unit of ``box``.
        box: edges ``(n, 3, 3)``; None leaves x as it is.
        topology: mdtraj topology with the bonds.

    Returns:
        The conformations, and how many had a bond longer than half the box.
    """
    bonds = bonds_of(topology)
    if box is None or not bonds:
        return x, 0
    half = np.abs(np.diagonal(box, axis1=1, axis2=2)).min(axis=1) / 2
    with np.errstate(invalid="ignore"):
        broken = np.flatnonzero((bond_lengths(x, bonds) > half[:, None]).any(axis=1))
    if not len(broken):
        return x, 0
    import mdtraj

    trajectory = mdtraj.Trajectory(x[broken].astype(np.float32), topology)
    trajectory.unitcell_vectors = box[broken].astype(np.float32)
    tree = np.array(_outward(topology.n_atoms, bonds), dtype=np.int32)
    whole = trajectory.make_molecules_whole(sorted_bonds=tree)
    result = x.copy()
    result[broken] = whole.xyz
    return result, len(broken)


def constrained_bonds(system: "System", x: Array, temperature: float) -> list[tuple[int, int]]:
    """Bonds that hardly vary in conformations ``(n, N, 3)`` of a temperature (K): they were constrained."""
    bonds = bonds_of(system.topology)
    if len(x) < _ENOUGH or not bonds:
        return []
    lengths = bond_lengths(x, bonds)
    spread = lengths.std(axis=0) / lengths.mean(axis=0)
    rigid = spread < _RIGID * min(1.0, np.sqrt(temperature / 300))
    return [bond for bond, stiff in zip(bonds, rigid, strict=True) if stiff]


def _ratios(system: "System", x: Array) -> NDArray[np.float64]:
    """Bonds of some frames, as far as they are finite, relative to the topology file's: ``(m, B)``."""
    bonds = bonds_of(system.topology)
    some = x[np.linspace(0, len(x) - 1, min(len(x), _PROBES)).astype(int)]
    some = some[np.isfinite(some).all(axis=(1, 2))]
    usual = bond_lengths(system.structure[None], bonds)
    return bond_lengths(some, bonds) / usual if len(some) else np.ones((1, len(bonds)))


def _typical_ratio(system: "System", x: Array) -> float:
    ratios = _ratios(system, x)
    return float(np.median(ratios)) if ratios.size else 1.0


def _outward(atoms: int, bonds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Bonds of a spanning tree of every molecule, each from an atom that was reached to a new one."""
    neighbours: list[list[int]] = [[] for _ in range(atoms)]
    for first, second in bonds:
        neighbours[first].append(second)
        neighbours[second].append(first)
    seen, tree = set[int](), []
    for root in range(atoms):
        queue = deque([] if root in seen else [root])
        seen.add(root)
        while queue:
            current = queue.popleft()
            for following in neighbours[current]:
                if following not in seen:
                    seen.add(following)
                    tree.append((current, following))
                    queue.append(following)
    return tree


def _topology_file(system: "System") -> str:
    return str(getattr(system.spec, "topology", "the topology"))
