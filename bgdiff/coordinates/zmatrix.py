"""Which atoms each atom is placed from: a Z-matrix built from the bond graph."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bgdiff.errors import SystemDefinitionError

__all__ = ["ZMatrix"]


@dataclass(frozen=True)
class ZMatrix:
    """Rows in order of placement; row k places ``atom[k]`` from the three reference atoms of its row.

    ``bond[k]`` is the atom it is bonded to, ``angle[k]`` and ``torsion[k]`` complete the angle
    (atom, bond, angle) and the dihedral (atom, bond, angle, torsion). The first three rows lack one,
    two or three references (-1). ``improper[k]`` marks a dihedral taken relative to a sibling on the
    same parent: stiff, unless the molecule can flip that centre's chirality.
    """

    atom: np.ndarray
    bond: np.ndarray
    angle: np.ndarray
    torsion: np.ndarray
    improper: np.ndarray

    @property
    def n_atoms(self) -> int:
        return len(self.atom)

    @classmethod
    def from_bonds(
        cls, n_atoms: int, bonds: Iterable[tuple[int, int]], heavy: Sequence[bool] | None = None
    ) -> "ZMatrix":
        """Build from the bond graph, outward from the molecule's centre (short lever arms).

        Every atom hangs on its neighbour towards the centre. The first atom placed on a parent takes a
        proper torsion; later ones take the dihedral relative to that first sibling, so each rotatable
        bond is one coordinate and the rest stay stiff.

        Args:
            n_atoms: at least 3.
            bonds: pairs of atom indices.
            heavy: which atoms are not hydrogen; heavy atoms are placed before hydrogens.

        Raises:
            SystemDefinitionError: fewer than 3 atoms, no bonds, or several fragments.
        """
        neighbours: list[set[int]] = [set() for _ in range(n_atoms)]
        for i, j in bonds:
            neighbours[i].add(j)
            neighbours[j].add(i)
        is_heavy = [True] * n_atoms if heavy is None else [bool(flag) for flag in heavy]
        if n_atoms < 3:
            raise SystemDefinitionError(f"internal coordinates need at least 3 atoms, not {n_atoms}")
        distances = _distances(neighbours, 0)
        if len(distances) < n_atoms:
            lost = next(i for i in range(n_atoms) if i not in distances)
            raise SystemDefinitionError(
                f"atom {lost} is not bonded to the fragment of atom 0: internal coordinates need one "
                "connected molecule; add the missing bonds (CONECT records) to the topology"
            )

        size = _branch_sizes(neighbours, is_heavy)
        root = _centre(neighbours, is_heavy)

        def rank(child: int, parent: int) -> tuple[bool, int, int]:
            return (not is_heavy[child], -size(child, parent), child)

        first, second = sorted(neighbours[root], key=lambda i: rank(i, root))[:2]
        rows = [(root, -1, -1, -1, False), (first, root, -1, -1, False), (second, root, first, -1, False)]
        parent = {root: -1, first: root, second: root}
        eldest = {root: second}  # per parent: the sibling that later ones refer to
        queue = deque([root, first, second])
        done = {root, first, second}
        while queue:
            p = queue.popleft()
            grand = first if p == root else parent[p]
            for i in sorted(neighbours[p] - done, key=lambda i: rank(i, p)):
                if p in eldest:
                    rows.append((i, p, grand, eldest[p], True))
                else:
                    rows.append((i, p, grand, _beyond(grand, p, parent, root, first, second), False))
                    eldest[p] = i
                parent[i] = p
                done.add(i)
                queue.append(i)
        atom, bond, angle, torsion, improper = (np.array(column) for column in zip(*rows, strict=True))
        return cls(atom, bond, angle, torsion, improper)

    def levels(self) -> list[np.ndarray]:
        """Rows (from the fourth) grouped so that each group needs only atoms of earlier groups."""
        depth = dict.fromkeys(self.atom[:3].tolist(), 0)
        groups: dict[int, list[int]] = {}
        for k in range(3, self.n_atoms):
            level = 1 + max(depth[int(column[k])] for column in (self.bond, self.angle, self.torsion))
            depth[int(self.atom[k])] = level
            groups.setdefault(level, []).append(k)
        return [np.array(groups[level]) for level in sorted(groups)]


def _beyond(grand: int, p: int, parent: dict[int, int], root: int, first: int, second: int) -> int:
    """The fourth atom of a proper torsion about the bond p-grand."""
    if grand != root:
        return parent[grand]
    return second if p == first else first


def _distances(neighbours: list[set[int]], start: int) -> dict[int, int]:
    distance = {start: 0}
    queue = deque([start])
    while queue:
        i = queue.popleft()
        for j in neighbours[i]:
            if j not in distance:
                distance[j] = distance[i] + 1
                queue.append(j)
    return distance


def _centre(neighbours: list[set[int]], heavy: list[bool]) -> int:
    """The atom with two neighbours or more that is closest to all others; heavy ones first."""
    candidates = [i for i in range(len(neighbours)) if len(neighbours[i]) > 1]

    def cost(i: int) -> tuple[bool, int, int, int]:
        distance = _distances(neighbours, i).values()
        heavy_neighbours = sum(heavy[j] for j in neighbours[i])
        return (not heavy[i] or heavy_neighbours < 2, max(distance), sum(distance), i)

    return min(candidates, key=cost)


def _branch_sizes(neighbours: list[set[int]], heavy: list[bool]):  # type: ignore[no-untyped-def]
    """A function (child, parent) → number of heavy atoms reached from child without crossing parent."""

    def size(child: int, parent: int) -> int:
        seen = {child, parent}
        stack = [child]
        while stack:
            for j in neighbours[stack.pop()] - seen:
                seen.add(j)
                stack.append(j)
        return sum(heavy[i] for i in seen - {parent})

    return size
