"""The numbers of a force field, without the program they came from: NumPy tables in nm, kJ/mol, e, radian.

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


@dataclass(frozen=True, eq=False)
class BondTable:
    """½ k (r - r₀)²; atoms ``(n, 2)``, length ``(n,)`` nm, k ``(n,)`` kJ/mol/nm²."""

    atoms: Ints
    length: Floats
    k: Floats


@dataclass(frozen=True, eq=False)
class AngleTable:
    """½ k (θ - θ₀)²; atoms ``(n, 3)``, vertex in the middle; angle ``(n,)`` rad, k ``(n,)`` kJ/mol/rad²."""

    atoms: Ints
    angle: Floats
    k: Floats


@dataclass(frozen=True, eq=False)
class TorsionTable:
    """Σ_m C_m cos(m φ) + S_m sin(m φ), all terms on the same four atoms merged.

    atoms ``(n, 4)``; cosine and sine ``(n, MAX_PERIODICITY + 1)`` kJ/mol. Column 0 of cosine is the constant,
    column 0 of sine is 0. φ has OpenMM's (IUPAC) sign: 0 for cis, and i-j-k-l backwards gives the same φ.
    """

    atoms: Ints
    cosine: Floats
    sine: Floats


@dataclass(frozen=True, eq=False)
class CMAPTable:
    """Bicubic corrections on two torsions: atoms ``(n, 8)``, φ of the first four and χ of the last four.

    ``coefficients`` ``(maps, size, size, 4, 4)`` kJ/mol, ``index`` ``(n,)`` the map of each term. With φ and
    χ taken in [0, 2π), φ size/2π = s + u and χ size/2π = t + v (s, t whole, 0 ≤ u, v < 1), the energy is
    Σ_ab c[s, t, a, b] u^a v^b. It and its first derivatives are continuous over cell borders, so rounding
    may put a point on either side. All maps of one table have the same size (0 if there are none).
    """

    atoms: Ints
    index: Ints
    coefficients: Floats


@dataclass(frozen=True, eq=False)
class PairTable:
    """Every pair i < j that interacts: charge_product / r + c12 / r¹² - c6 / r⁶.

    atoms ``(n, 2)``; charge_product ``(n,)`` is q_i q_j / 4πε₀ in kJ nm/mol; c12 = 4εσ¹² kJ nm¹²/mol,
    c6 = 4εσ⁶ kJ nm⁶/mol. Exceptions (1-2, 1-3, 1-4) are applied; pairs that do not interact are left out.
    """

    atoms: Ints
    charge_product: Floats
    c12: Floats
    c6: Floats


@dataclass(frozen=True, eq=False)
class GeneralizedBornTable:
    """Generalised Born solvation with pairwise descreening, all atoms with all (no exclusions).

    With scaled radii s_j, offset radii o_i, I_i = Σ_{j≠i} [H(r_ij; o_i, s_j) + neck_ij(r_ij)], ψ_i = I_i o_i

        1/B_i = 1/o_i - tanh(α_i ψ_i - β_i ψ_i² + γ_i ψ_i³)/ρ_i,  or 1/o_i - I_i if ``rescaled`` is False,
        U = -½ P Σ_i q_i²/B_i - P Σ_{i<j} q_i q_j / f_ij + A Σ_i (ρ_i + probe)² (ρ_i/B_i)⁶,
        f_ij = √(r² + B_i B_j exp(-r²/(4 B_i B_j))).

    The descreening of atom i by the sphere of atom j, with u = r + s and l = max(o, |r - s|), is

        H(r; o, s) = ½ [1/l - 1/u + ¼ (r - s²/r)(1/u² - 1/l²) + ½ ln(l/u)/r]   if u ≥ o, else 0.

    Where ``engulf`` is True and sphere j swallows atom i (o < s - r), H has the further term 1/o - 1/l:
    GBSAOBCForce has it, the CustomGBForce expressions of OpenMM do not. s may be negative (sulphur in GBn2).

    The neck correction, for GBn and GBn2 only, is, with lengths in nm,

        neck_ij(r) = m₀ / (1 + 100 (r - d₀)² + 3·10⁵ (r - d₀)⁶)   if r ≤ neck_cutoff, else 0.

    It jumps at the cutoff (by about 3·10⁻⁵ m₀), as it does in OpenMM and Amber.

    Args:
        charge: q ``(N,)`` e, independent of the charges behind :class:`PairTable`.
        offset_radius: o ``(N,)`` nm.
        scaled_radius: s ``(N,)`` nm.
        radius: ρ ``(N,)`` nm.
        alpha: ``(N,)``, like beta and gamma; all three are 0 and unused for HCT.
        rescaled: the tanh form (OBC, GBn) rather than HCT's.
        prefactor: P = (1/ε_solute - 1/ε_solvent)/4πε₀ in kJ nm/mol/e².
        surface: A in kJ/mol/nm² (28.3919551), 0 for no surface-area term.
        probe: in nm (0.14).
        engulf: see above.
        neck_distance: d₀ ``(N, N)`` nm; [i, j] is what j adds to I_i. None without necks, as the next two.
        neck_strength: m₀ ``(N, N)`` 1/nm, its scale included; 0 on the diagonal.
        neck_cutoff: ``(N, N)`` nm.

    Sources: Hawkins, Cramer & Truhlar, J. Phys. Chem. 100, 19824 (1996); Onufriev, Bashford & Case, Proteins
    55, 383 (2004); Mongan et al., J. Chem. Theory Comput. 3, 156 (2007); Nguyen, Roe & Simmerling, ibid. 9,
    2020 (2013); surface term: Schaefer, Bartels & Karplus, J. Mol. Biol. 284, 835 (1998).
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


@dataclass(frozen=True, eq=False)
class ForceFieldTables:
    """A molecule's force field. ``mass`` ``(N,)`` in dalton; a table without terms is empty, never None."""

    n_atoms: int
    mass: Floats
    bonds: BondTable
    angles: AngleTable
    torsions: TorsionTable
    cmaps: CMAPTable
    pairs: PairTable
    born: GeneralizedBornTable | None
