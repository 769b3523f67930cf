"""Force-field tables made by hand, and parts of tables."""

from dataclasses import replace

import numpy as np

from bgdiff.targets.forcefield.tables import (
    MAX_PERIODICITY,
    AngleTable,
    BondTable,
    CMAPTable,
    ForceFieldTables,
    GeneralizedBornTable,
    PairTable,
    TorsionTable,
)


def empty_tables(n_atoms: int) -> ForceFieldTables:
    """Atoms of 12 Da without any interaction."""

    def atoms(width):
        return np.empty((0, width), np.int32)

    none, harmonics = np.empty(0), np.empty((0, MAX_PERIODICITY + 1))
    return ForceFieldTables(
        n_atoms=n_atoms,
        mass=np.full(n_atoms, 12.0),
        bonds=BondTable(atoms(2), none, none),
        angles=AngleTable(atoms(3), none, none),
        torsions=TorsionTable(atoms(4), harmonics, harmonics),
        cmaps=CMAPTable(atoms(8), np.empty(0, np.int32), np.empty((0, 0, 0, 4, 4))),
        pairs=PairTable(atoms(2), none, none, none),
        born=None,
    )


def only(tables: ForceFieldTables, group: str) -> ForceFieldTables:
    """The same molecule with one group of terms."""
    return replace(empty_tables(tables.n_atoms), **{group: getattr(tables, group)})


def one_pair(charge_product: float = 0.0, c12: float = 0.0, c6: float = 0.0) -> ForceFieldTables:
    pairs = PairTable(
        np.array([[0, 1]], np.int32), *(np.array([value]) for value in (charge_product, c12, c6))
    )
    return replace(empty_tables(2), pairs=pairs)


def one_angle(angle: float, k: float) -> ForceFieldTables:
    """The vertex is atom 1."""
    table = AngleTable(np.array([[0, 1, 2]], np.int32), np.array([angle]), np.array([k]))
    return replace(empty_tables(3), angles=table)


def one_torsion(cosine: np.ndarray, sine: np.ndarray) -> ForceFieldTables:
    table = TorsionTable(np.array([[0, 1, 2, 3]], np.int32), cosine[None], sine[None])
    return replace(empty_tables(4), torsions=table)


def born_pair(
    offset_radius=(0.11, 0.16), scaled_radius=(0.10, 0.13), *, rescaled=True, engulf=False, necks=False
) -> ForceFieldTables:
    """Two charged atoms in a generalised Born solvent with a surface-area term; GBn2's α, β, γ."""
    offset = np.array(offset_radius)
    square = np.ones((2, 2)) - np.eye(2)
    table = GeneralizedBornTable(
        charge=np.array([0.4, -0.7]),
        offset_radius=offset,
        scaled_radius=np.array(scaled_radius),
        radius=offset + 0.0195141,
        alpha=np.array([0.788440, 0.733756]),
        beta=np.array([0.798699, 0.506378]),
        gamma=np.array([0.437334, 0.205844]),
        rescaled=rescaled,
        prefactor=138.9 * (1 - 1 / 78.5),
        surface=28.3919551,
        probe=0.14,
        engulf=engulf,
        neck_distance=square * [[0, 0.27], [0.29, 0]] if necks else None,
        neck_strength=square * [[0, 0.9], [1.1, 0]] if necks else None,
        neck_cutoff=np.full((2, 2), 0.95) if necks else None,
    )
    return replace(empty_tables(2), born=table)
