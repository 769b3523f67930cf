"""Z-matrices: whatever the bond graph, every atom hangs on atoms placed before it."""

import math

import numpy as np
import pytest
import torch
from checks import GRAPHS, geometry, rigid_deviation
from hypothesis import given, settings
from hypothesis import strategies as st

from bgdiff.coordinates import ZMatrix, ZMatrixMap, wrap
from bgdiff.errors import SystemDefinitionError
from bgdiff.systems import load_system

Bonds = list[tuple[int, int]]


def check(z: ZMatrix, n_atoms: int, bonds: Bonds, heavy: list[bool] | None) -> None:
    """Everything that must hold of a Z-matrix of this bond graph."""
    neighbours: list[set[int]] = [set() for _ in range(n_atoms)]
    for i, j in bonds:
        neighbours[i].add(j)
        neighbours[j].add(i)
    assert sorted(z.atom.tolist()) == list(range(n_atoms))
    assert z.n_atoms == n_atoms
    proper: set[int] = set()
    for k in range(n_atoms):
        used = min(k, 3)
        row = [int(column[k]) for column in (z.bond, z.angle, z.torsion)]
        assert all(reference == -1 for reference in row[used:])
        assert len({int(z.atom[k]), *row[:used]}) == used + 1, "references are distinct"
        assert set(row[:used]) <= set(z.atom[:k].tolist()), "references are placed earlier"
        atom, (bond, angle, torsion) = int(z.atom[k]), row
        if k > 0:
            assert atom in neighbours[bond]
        if k > 1:
            assert angle in neighbours[bond]
        if k > 2:
            if z.improper[k]:
                assert torsion in neighbours[bond]
            else:
                assert torsion in neighbours[angle]
                assert bond not in proper, "one proper torsion per bond: its rotation is one coordinate"
                proper.add(bond)
    assert not z.improper[:3].any()

    placed = dict.fromkeys(z.atom[:3].tolist(), 0)
    rows = []
    for group in z.levels():
        for k in group.tolist():
            assert all(int(column[k]) in placed for column in (z.bond, z.angle, z.torsion))
            rows.append(k)
        placed |= dict.fromkeys(z.atom[group].tolist(), 0)
    assert sorted(rows) == list(range(3, n_atoms))

    if heavy is not None:
        parent = dict(zip(z.atom[1:].tolist(), z.bond[1:].tolist(), strict=True))
        last: dict[int, bool] = {}
        for atom in z.atom[3:].tolist():
            assert last.get(parent[atom], True) >= heavy[atom], "heavy siblings come first"
            last[parent[atom]] = heavy[atom]


def check_round_trip(z: ZMatrix) -> None:
    """internal → Cartesian → internal, and Cartesian → internal → Cartesian up to a rigid motion."""
    map_ = ZMatrixMap(z)
    bonds, angles, torsions = geometry(z.n_atoms, 4, seed=3)
    x = map_.to_cartesian(bonds, angles, torsions)
    back = map_.to_internal(x)
    assert torch.allclose(back[0], bonds, rtol=1e-9)
    assert torch.allclose(back[1], angles, atol=1e-8)
    assert torch.allclose(wrap(back[2] - torsions), torch.zeros_like(torsions), atol=1e-8)
    again = map_.to_cartesian(*back)
    assert torch.allclose(again, x, atol=1e-8)


@pytest.mark.parametrize("name", GRAPHS)
def test_molecules(name: str) -> None:
    n_atoms, bonds, heavy = GRAPHS[name]
    z = ZMatrix.from_bonds(n_atoms, bonds, heavy)
    check(z, n_atoms, bonds, heavy)
    check_round_trip(z)


def test_alanine_dipeptide() -> None:
    """Each rotatable bond is one proper torsion; substituents of the same atom are relative to it."""
    topology = load_system("alanine_dipeptide_vacuum").topology
    assert topology is not None
    bonds = [(i.index, j.index) for i, j in topology.bonds]
    heavy = [atom.element.symbol != "H" for atom in topology.atoms]
    z = ZMatrix.from_bonds(22, bonds, heavy)
    check(z, 22, bonds, heavy)
    proper = {
        frozenset(pair) for k in range(3, 22) if not z.improper[k] for pair in [(z.bond[k], z.angle[k])]
    }
    inner = {
        frozenset((i, j))
        for i, j in bonds
        if min(sum(i in bond for bond in bonds), sum(j in bond for bond in bonds)) > 1
    }
    assert proper == inner  # φ, ψ, two ω and three methyls
    assert z.atom[0] in (6, 8, 14), "the tree grows from the middle of the molecule"
    # φ and ψ themselves are among the rows, so a basin is an interval of one latent axis
    dihedrals = {tuple(map(int, row)) for row in zip(z.atom, z.bond, z.angle, z.torsion, strict=True)}
    for angle in [(4, 6, 8, 14), (6, 8, 14, 16)]:
        assert angle in dihedrals or angle[::-1] in dihedrals


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Bonds, list[bool]]:
    """A random tree, relabelled, with up to three more bonds that close rings."""
    n = draw(st.integers(3, 14))
    parents = [draw(st.integers(0, i - 1)) for i in range(1, n)]
    names = draw(st.permutations(range(n)))
    bonds = [(names[i + 1], names[parent]) for i, parent in enumerate(parents)]
    for _ in range(draw(st.integers(0, 3))):
        i, j = draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))
        if i != j:
            bonds.append((i, j))
    return n, bonds, draw(st.lists(st.booleans(), min_size=n, max_size=n))


@settings(max_examples=80)
@given(graphs())
def test_any_connected_graph(graph: tuple[int, Bonds, list[bool]]) -> None:
    n, bonds, heavy = graph
    z = ZMatrix.from_bonds(n, bonds, heavy)
    check(z, n, bonds, heavy)
    check_round_trip(z)


def test_mirrored_internals_place_the_mirror_image() -> None:
    n_atoms, bonds, heavy = GRAPHS["ethanol"]
    map_ = ZMatrixMap(ZMatrix.from_bonds(n_atoms, bonds, heavy))
    r, theta, tau = geometry(n_atoms, 5, seed=1)
    x = map_.to_cartesian(r, theta, tau)
    mirrored = map_.to_cartesian(r, theta, -tau)
    reflection = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    assert rigid_deviation(mirrored, x * reflection) < 1e-9
    assert rigid_deviation(mirrored, x) > 1e-2


def test_the_frame_of_the_molecule() -> None:
    """First atom at the origin, second on the x axis, third in the upper xy half-plane."""
    n_atoms, bonds, heavy = GRAPHS["neopentane"]
    z = ZMatrix.from_bonds(n_atoms, bonds, heavy)
    r, theta, tau = geometry(n_atoms, 6, seed=2)
    x = ZMatrixMap(z).to_cartesian(r, theta, tau)[:, z.atom]
    assert torch.equal(x[:, 0], torch.zeros(6, 3, dtype=torch.float64))
    assert (x[:, 1, 0] > 0).all()
    assert (x[:, 1, 1:] == 0).all()
    assert (x[:, 2, 1] > 0).all()
    assert (x[:, 2, 2] == 0).all()


def test_a_right_angle_built_by_hand() -> None:
    """H2O2-like chain: bonds 1, angles 90°, torsion +90° is clockwise when looking along the middle bond."""
    z = ZMatrix.from_bonds(4, [(0, 1), (1, 2), (2, 3)])
    half = torch.full((1, 2), math.pi / 2, dtype=torch.float64)
    x = ZMatrixMap(z).to_cartesian(torch.ones(1, 3, dtype=torch.float64), half, half[:, :1])[0]
    a, b, c, d = (x[i] for i in range(4))
    assert torch.allclose((a - b).dot(d - c), torch.zeros((), dtype=torch.float64), atol=1e-12)
    # IUPAC: seen from the front atom b towards c, the rear bond lies clockwise of the front bond
    assert torch.linalg.cross(a - b, d - c).dot(c - b) == pytest.approx(1.0)


def test_fragments_are_refused() -> None:
    with pytest.raises(SystemDefinitionError, match=r"atom 3 is not bonded.*CONECT"):
        ZMatrix.from_bonds(5, [(0, 1), (1, 2), (3, 4)])
    with pytest.raises(SystemDefinitionError, match="no bonds"):
        ZMatrix.from_bonds(3, [])


@pytest.mark.parametrize("n_atoms", [0, 1, 2])
def test_too_few_atoms_are_refused(n_atoms: int) -> None:
    with pytest.raises(SystemDefinitionError, match=f"at least 3 atoms, not {n_atoms}"):
        ZMatrix.from_bonds(n_atoms, [(0, 1)] if n_atoms == 2 else [])


def test_the_result_does_not_depend_on_the_order_of_bonds() -> None:
    n_atoms, bonds, heavy = GRAPHS["cyclohexane"]
    first = ZMatrix.from_bonds(n_atoms, bonds, heavy)
    second = ZMatrix.from_bonds(n_atoms, [(j, i) for i, j in reversed(bonds)], heavy)
    for name in ("atom", "bond", "angle", "torsion", "improper"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
