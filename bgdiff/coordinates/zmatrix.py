"""Which atoms each atom is placed from: a Z-matrix built from the bond graph."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bgdiff.errors import SystemDefinitionError

__all__ = ["ZMatrix"]


@dataclass(frozen=True)
class ZMatrix:
    """Rows in order of placement; row k places ``atom[k]`` from the three reference atoms of its row.

    ``bond[k]`` is the atom it is bonded to, ``angle[k]`` and ``torsion[k]`` complete the angle
    (atom, bond, angle) and the dihedral (atom, bond, angle, torsion). The first three rows lack one,
    two or three references (-1). ``improper[k]`` marks a dihedral taken relative to another neighbour of
    the same parent: stiff, unless the molecule can flip that centre's chirality.
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
        cls,
        n_atoms: int,
        bonds: Iterable[tuple[int, int]],
        heavy: Sequence[bool] | None = None,
        *,
        weak: Iterable[tuple[int, int]] = (),
        names: Sequence[str] | None = None,
    ) -> "ZMatrix":
        """Build from the bond graph, outward from the molecule's centre (short lever arms).

        Every atom hangs on its neighbour towards the centre. The first atom placed on a parent takes a
        proper torsion; later ones take the dihedral relative to that first sibling, so each rotatable
        bond is one coordinate and the rest stay stiff.

        A ring has one bond more than the tree, whose length is no coordinate: it is the one farthest from
        the centre, or a weak one. The substituents of its two ends take their dihedrals relative to the
        other end, so that they stay in place when the ring puckers.

        Args:
            n_atoms: at least 3.
            bonds: pairs of atom indices.
            heavy: which atoms are not hydrogen; heavy atoms are placed before hydrogens.
            weak: those of the bonds that are left out first wherever they close a ring, such as disulfide
                bridges: the softer that bond, the less a loop that does not quite close costs.
            names: of the atoms, for messages.

        Raises:
            SystemDefinitionError: fewer than 3 atoms, no bonds, several fragments, or a bond of an atom
                with itself or with one that does not exist.
        """
        names = [f"atom {i}" for i in range(n_atoms)] if names is None else names
        if n_atoms < 3:
            raise SystemDefinitionError(f"internal coordinates need at least 3 atoms, not {n_atoms}")
        graph = _graph(n_atoms, bonds, names)
        tree = [set(partners) for partners in graph]
        for i, j in weak:
            tree[i].discard(j)
            tree[j].discard(i)
            if j not in _distances(tree, i):
                tree[i].add(j)
                tree[j].add(i)
        is_heavy = [True] * n_atoms if heavy is None else [bool(flag) for flag in heavy]
        size = _branch_sizes(tree, is_heavy)
        root = _centre(tree, is_heavy)

        def rank(child: int, parent: int) -> tuple[bool, int, int]:
            return (not is_heavy[child], -size(child, parent), child)

        first, second = sorted(tree[root], key=lambda i: rank(i, root))[:2]
        children, parent = _span(tree, (root, first, second), rank)
        rows = [(root, -1, -1, -1, False), (first, root, -1, -1, False), (second, root, first, -1, False)]
        eldest = {root: second}  # per parent: the sibling that later ones refer to
        done = {root, first, second}
        for p in _turns(graph, children, parent, (root, first, second)):
            grand = first if p == root else parent[p]
            closing = sorted(q for q in graph[p] & done if parent[p] != q and parent[q] != p)
            if closing:
                eldest.setdefault(p, closing[0])
            for i in children[p]:
                if p in eldest:
                    rows.append((i, p, grand, eldest[p], True))
                else:
                    rows.append((i, p, grand, _beyond(grand, p, parent, root, first, second), False))
                    eldest[p] = i
                done.add(i)
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


def _graph(n_atoms: int, bonds: Iterable[tuple[int, int]], names: Sequence[str]) -> list[set[int]]:
    """Neighbours of each atom of one connected molecule."""
    graph: list[set[int]] = [set() for _ in range(n_atoms)]
    for i, j in bonds:
        if i == j or not (0 <= i < n_atoms and 0 <= j < n_atoms):
            raise SystemDefinitionError(f"the topology has a bond {i}-{j}, of {n_atoms} atoms counted from 0")
        graph[i].add(j)
        graph[j].add(i)
    if not any(graph):
        raise SystemDefinitionError(
            f"the topology has no bonds (first atoms {', '.join(names[:3])}): internal coordinates are built "
            "from the bond graph. PDB files imply the bonds of standard residues only; write those of others "
            "as CONECT records. Clusters of particles without bonds have `coordinates: mean_free`"
        )
    fragments: list[list[int]] = []
    for start in range(n_atoms):
        if not any(start in fragment for fragment in fragments):
            fragments.append(sorted(_distances(graph, start)))
    if len(fragments) > 1:
        described = [f"{names[atoms[0]]} and {len(atoms) - 1} more" for atoms in fragments[:4]]
        more = f" and {len(fragments) - 4} others" if len(fragments) > 4 else ""
        raise SystemDefinitionError(
            f"{names[fragments[1][0]]} is not bonded to the fragment of {names[0]}: internal coordinates "
            f"need one connected molecule, not {len(fragments)} ({'; '.join(described)}{more}). "
            "Remove water, ions and other molecules, or add the missing bonds (CONECT records of a PDB file; "
            "disulfide bridges are SSBOND or CONECT records)"
        )
    return graph


def _span(
    tree: list[set[int]], seeds: tuple[int, int, int], rank: Callable[[int, int], tuple[bool, int, int]]
) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Breadth-first spanning tree: children of each atom in order of rank, and parents."""
    root, first, second = seeds
    parent = {root: -1, first: root, second: root}
    children: dict[int, list[int]] = {}
    queue = deque(seeds)
    while queue:
        p = queue.popleft()
        children[p] = sorted(tree[p] - parent.keys(), key=lambda i: rank(i, p))
        parent |= dict.fromkeys(children[p], p)
        queue.extend(children[p])
    return children, parent


def _turns(
    graph: list[set[int]], children: dict[int, list[int]], parent: dict[int, int], seeds: tuple[int, int, int]
) -> Iterator[int]:
    """Atoms in the order in which their children are placed.

    That of the tree, but for ends of ring-closing bonds: they wait for the other end, if they can.
    """
    queue, placed, waited = deque(seeds), set(seeds), 0
    while queue:
        p = queue.popleft()
        others = {q for q in graph[p] if parent[p] != q and parent[q] != p}
        if children[p] and not others <= placed and waited < len(queue):
            queue.append(p)
            waited += 1
            continue
        waited = 0
        yield p
        placed |= set(children[p])
        queue.extend(children[p])


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
