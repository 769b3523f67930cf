"""How many floating-point operations one conformation takes.

Counted by running the kernel's own sources with numbers that count what is done to them: an addition, a
subtraction, a multiplication, a division, a square root, a minimum, a maximum and a hardware estimate of a
reciprocal are one operation each, a fused multiply-add is two, selections and integer operations are none.
The counts are those of the AVX-512 variant with energies and forces; others differ by up to a fifth.
Every pair of the generalised Born model is counted in its long-range form, though close pairs take a hundred
operations more, so the count is a lower bound and so is the share of the peak.
"""

from dataclasses import dataclass

import numpy as np

from bgdiff.targets.forcefield.tables import ForceFieldTables

__all__ = ["flops_per_conformation"]


@dataclass(frozen=True)
class _Counts:
    atom: int
    bond: int
    angle: int
    torsion: dict[int, int]  # by the largest periodicity of the molecule for which the loop is unrolled
    pair: int
    born_atom: int
    born_pair: int  # with the direct interaction of the pair


_COUNTS = {
    "float64": _Counts(9, 36, 152, {3: 186, 4: 201, 6: 231}, 42, 88, 206),
    "float32": _Counts(9, 32, 118, {3: 174, 4: 189, 6: 219}, 39, 73, 154),
}


def flops_per_conformation(tables: ForceFieldTables, dtype: str) -> int:
    """Operations for the energy and force of one conformation.

    Raises:
        ValueError: a term has not been counted (CMAP, necks).
    """
    born = tables.born
    if len(tables.cmaps.atoms) or (born is not None and born.neck_distance is not None):
        raise ValueError("operations of CMAP terms and necks have not been counted")
    count = _COUNTS[dtype]
    used = np.flatnonzero((tables.torsions.cosine != 0).any(0) | (tables.torsions.sine != 0).any(0))
    order = min(order for order in count.torsion if order >= used.max(initial=0))
    bonded = (
        count.bond * len(tables.bonds.atoms)
        + count.angle * len(tables.angles.atoms)
        + count.torsion[order] * len(tables.torsions.atoms)
    )
    n = tables.n_atoms
    if born is None:
        return bonded + count.atom * n + count.pair * len(tables.pairs.atoms)
    return bonded + count.born_atom * n + count.born_pair * (n * (n - 1) // 2)
