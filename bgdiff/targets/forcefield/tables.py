"""The numbers of a force field, stripped of the program they came from: NumPy tables in nm, kJ/mol, e, radian.

Everything that evaluates energies (the torch implementation and the compiled kernel) reads these tables and
nothing else; everything that knows of file formats or OpenMM only writes them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MAX_PERIODICITY",
    "AngleTable",
    "BondTable",
    "CMAPTable",
    "ForceFieldTables",
    "GeneralizedBornTable",
    "PairTable",
    "TorsionTable",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

MAX_PERIODICITY = 6


@dataclass(frozen=True)
class BondTable:
    """½ k (r - r₀)²; atoms ``(n, 2)``, length ``(n,)`` nm, k ``(n,)`` kJ/mol/nm²."""

    atoms: Ints
    length: Floats
    k: Floats


@dataclass(frozen=True)
class AngleTable:
    """½ k (θ - θ₀)²; atoms ``(n, 3)``, the middle one is the vertex; angle ``(n,)`` rad, k ``(n,)`` kJ/mol/rad²."""

    atoms: Ints
    angle: Floats
    k: Floats


@dataclass(frozen=True)
class TorsionTable:
    """Σ_m C_m cos(m φ) + S_m sin(m φ), all terms on the same four atoms merged.

    atoms ``(n, 4)``; cosine and sine ``(n, MAX_PERIODICITY + 1)`` kJ/mol. Column 0 of cosine is the constant,
    column 0 of sine is 0. φ has OpenMM's (IUPAC) sign: 0 for cis, and i-j-k-l backwards gives the same φ.
    """

    atoms: Ints
    cosine: Floats
    sine: Floats


@dataclass(frozen=True)
class CMAPTable:
    """Bicubic corrections on two torsions: atoms ``(n, 8)``, the first four and the last four.

    ``coefficients`` ``(maps, size, size, 4, 4)`` kJ/mol: on the cell (s, t) of a grid of spacing 2π/size that
    starts at (0, 0), with u, v in [0, 1) the position inside the cell, the energy is Σ_ab c[a, b] u^a v^b.
    ``index`` ``(n,)`` is the map of each term. All maps of one table have the same size.
    """

    atoms: Ints
    index: Ints
    coefficients: Floats


@dataclass(frozen=True)
class PairTable:
    """Every pair i < j that interacts: charge_product / r + c12 / r¹² - c6 / r⁶.

    atoms ``(n, 2)``; charge_product ``(n,)`` is q_i q_j / 4πε₀ in kJ nm/mol; c12 = 4εσ¹² kJ nm¹²/mol, c6 = 4εσ⁶ kJ
    nm⁶/mol. Exceptions (1-2, 1-3, 1-4 pairs) are applied; pairs that do not interact are left out.
    """

    atoms: Ints
    charge_product: Floats
    c12: Floats
    c6: Floats


@dataclass(frozen=True)
class GeneralizedBornTable:
    """Generalised Born solvation with pairwise descreening, all atoms with all.

    With s_j the scaled and o_i the offset radii, I_i = Σ_{j≠i} [descreening(r_ij; o_i, s_j) + neck_ij(r)]
    (Hawkins, Cramer & Truhlar 1996; Onufriev, Bashford & Case 2004; Mongan et al. 2007), ψ = I_i o_i,
    1/B_i = 1/o_i - tanh(α ψ - β ψ² + γ ψ³)/ρ_i, or 1/B_i = 1/o_i - I_i where ``rescaled`` is False (HCT), and

        U = -½ P Σ_i q_i²/B_i - P Σ_{i<j} q_i q_j / f_ij + A Σ_i (ρ_i + probe)² (ρ_i/B_i)⁶,
        f_ij = √(r² + B_i B_j exp(-r²/(4 B_i B_j))).

    Args:
        charge: q ``(N,)`` e, independent of the charges behind :class:`PairTable`.
        offset_radius: o ``(N,)`` nm. scaled_radius: s ``(N,)`` nm. radius: ρ ``(N,)`` nm.
        alpha, beta, gamma: ``(N,)``.
        rescaled: the tanh form (OBC, GBn) rather than HCT's.
        prefactor: P = (1/ε_solute - 1/ε_solvent)/4πε₀ in kJ nm/mol/e².
        surface: A in kJ/mol/nm² (28.3919551), 0 for no surface-area term. probe: nm.
        engulf: descreening has the extra term 1/o_i - 1/L where sphere j swallows atom i (o_i < s_j - r):
            GBSAOBCForce has it, the CustomGBForce expressions of OpenMM do not.
        neck_distance, neck_strength: ``(N, N)`` d₀ (nm) and m₀ (1/nm, its scale included), for GBn and GBn2;
            neck_ij = m₀/(1 + 100 (r/Å - d₀/Å)² + 0.3 (…)⁶)-like as OpenMM writes it, inside r < neck_cutoff ``(N, N)``.
            None without necks. [i, j] is what atom j adds to I_i.
    """

    charge: Floats
    offset_radius: Floats
    scaled_radius: Floats
    radius: Floats
    alpha: Floats
    beta: Floats
    gamma: Floats
    rescaled: bool
    prefactor: float
    surface: float
    probe: float
    engulf: bool
    neck_distance: Floats | None = None
    neck_strength: Floats | None = None
    neck_cutoff: Floats | None = None


@dataclass(frozen=True)
class ForceFieldTables:
    """A molecule's force field. ``mass`` ``(N,)`` in dalton; a table that has no term is empty, never None."""

    n_atoms: int
    mass: Floats
    bonds: BondTable
    angles: AngleTable
    torsions: TorsionTable
    cmaps: CMAPTable
    pairs: PairTable
    born: GeneralizedBornTable | None
