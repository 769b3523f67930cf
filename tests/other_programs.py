"""Files of Amber and GROMACS, written from their documented formats, of one chain of four atoms.

Parameters are in the units of OpenMM (kJ/mol, nm, rad); each format has its own.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOND, LENGTH = 2.0e5, 0.15
ANGLE, REST = 400.0, 1.9
TORSION, PERIOD = 6.0, 3
SIGMA, EPSILON = 0.3, 0.5
CHARGES = (0.2, -0.3, 0.25, -0.15)
SCALE_LJ, SCALE_CHARGE = 1 / 2, 1 / 1.2
COULOMB = 138.935456  # kJ nm/(mol e²)
X = np.array([[0.03, 0.15, 0.02], [0.0, 0.0, 0.0], [0.152, 0.0, 0.0], [0.2, -0.1, 0.11]])
"""Coordinates ``(4, 3)`` in nm, off every minimum"""
_KCAL = 4.184


def chain_energy(x: NDArray[np.float64]) -> float:
    """kJ/mol, by the formulas of both manuals."""
    bonds = np.diff(x, axis=0)
    lengths = np.linalg.norm(bonds, axis=1)
    unit = bonds / lengths[:, None]
    angles = np.arccos(-(unit[:-1] * unit[1:]).sum(1))
    n1, n2 = np.cross(bonds[0], bonds[1]), np.cross(bonds[1], bonds[2])
    phi = np.arctan2(np.dot(np.cross(n1, n2), unit[1]), n1 @ n2)
    far = float(np.linalg.norm(x[3] - x[0]))
    six = (SIGMA / far) ** 6
    energy = BOND / 2 * ((lengths - LENGTH) ** 2).sum() + ANGLE / 2 * ((angles - REST) ** 2).sum()
    energy += TORSION * (1 + np.cos(PERIOD * phi))
    energy += SCALE_LJ * 4 * EPSILON * (six**2 - six)
    return float(energy + SCALE_CHARGE * COULOMB * CHARGES[0] * CHARGES[3] / far)


def write_gromacs(folder: Path, x: NDArray[np.float64] = X) -> tuple[Path, Path]:
    """``top`` and ``gro``."""
    degrees = np.degrees(REST)
    atoms = "".join(f"{k} CT 1 TW C{k} {k} {charge} 12.011\n" for k, charge in enumerate(CHARGES, start=1))
    top = folder / "chain.top"
    top.write_text(
        f"[ defaults ]\n1 2 yes {SCALE_LJ} {SCALE_CHARGE}\n"
        f"[ atomtypes ]\nCT CT 6 12.011 0.0 A {SIGMA} {EPSILON}\n"
        f"[ moleculetype ]\nTW 3\n[ atoms ]\n{atoms}"
        f"[ bonds ]\n" + "".join(f"{k} {k + 1} 1 {LENGTH} {BOND}\n" for k in (1, 2, 3)) + "[ pairs ]\n1 4 1\n"
        "[ angles ]\n"
        + "".join(f"{k} {k + 1} {k + 2} 1 {degrees} {ANGLE}\n" for k in (1, 2))
        + "[ dihedrals ]\n"
        f"1 2 3 4 9 0.0 {TORSION} {PERIOD}\n[ system ]\nchain\n[ molecules ]\nTW 1\n"
    )
    gro = folder / "chain.gro"
    lines = [
        f"    1TW      C{k}{k:5d}" + "".join(f"{v:8.3f}" for v in row) for k, row in enumerate(x, start=1)
    ]
    gro.write_text("chain\n    4\n" + "\n".join(lines) + "\n   3.00000   3.00000   3.00000\n")
    return top, gro


def write_amber(folder: Path, x: NDArray[np.float64] = X) -> tuple[Path, Path]:
    """``prmtop`` and ``inpcrd``."""
    radius = SIGMA * 10 * 2 ** (1 / 6)  # Å, of the minimum
    a, b = EPSILON / _KCAL * radius**12, 2 * EPSILON / _KCAL * radius**6
    pointers = [4, 1, 0, 3, 0, 2, 0, 1, 0, 0, 6, 1, 3, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]
    sections: dict[str, tuple[str, Iterable[object]]] = {
        "TITLE": ("20a4", ["chai"]),
        "POINTERS": ("10I8", pointers),
        "ATOM_NAME": ("20a4", [f"C{k}" for k in range(1, 5)]),
        "CHARGE": ("5E16.8", [18.2223 * charge for charge in CHARGES]),
        "ATOMIC_NUMBER": ("10I8", [6] * 4),
        "MASS": ("5E16.8", [12.011] * 4),
        "ATOM_TYPE_INDEX": ("10I8", [1] * 4),
        "NUMBER_EXCLUDED_ATOMS": ("10I8", [3, 2, 1, 1]),
        "NONBONDED_PARM_INDEX": ("10I8", [1]),
        "RESIDUE_LABEL": ("20a4", ["TW"]),
        "RESIDUE_POINTER": ("10I8", [1]),
        "BOND_FORCE_CONSTANT": ("5E16.8", [BOND / 2 / _KCAL / 100]),
        "BOND_EQUIL_VALUE": ("5E16.8", [10 * LENGTH]),
        "ANGLE_FORCE_CONSTANT": ("5E16.8", [ANGLE / 2 / _KCAL]),
        "ANGLE_EQUIL_VALUE": ("5E16.8", [REST]),
        "DIHEDRAL_FORCE_CONSTANT": ("5E16.8", [TORSION / _KCAL]),
        "DIHEDRAL_PERIODICITY": ("5E16.8", [PERIOD]),
        "DIHEDRAL_PHASE": ("5E16.8", [0.0]),
        "SCEE_SCALE_FACTOR": ("5E16.8", [1 / SCALE_CHARGE]),
        "SCNB_SCALE_FACTOR": ("5E16.8", [1 / SCALE_LJ]),
        "SOLTY": ("5E16.8", [0.0]),
        "LENNARD_JONES_ACOEF": ("5E16.8", [a]),
        "LENNARD_JONES_BCOEF": ("5E16.8", [b]),
        "BONDS_INC_HYDROGEN": ("10I8", []),
        "BONDS_WITHOUT_HYDROGEN": ("10I8", [0, 3, 1, 3, 6, 1, 6, 9, 1]),
        "ANGLES_INC_HYDROGEN": ("10I8", []),
        "ANGLES_WITHOUT_HYDROGEN": ("10I8", [0, 3, 6, 1, 3, 6, 9, 1]),
        "DIHEDRALS_INC_HYDROGEN": ("10I8", []),
        "DIHEDRALS_WITHOUT_HYDROGEN": ("10I8", [0, 3, 6, 9, 1]),
        "EXCLUDED_ATOMS_LIST": ("10I8", [2, 3, 4, 3, 4, 4, 0]),
        "HBOND_ACOEF": ("5E16.8", []),
        "HBOND_BCOEF": ("5E16.8", []),
        "HBCUT": ("5E16.8", []),
        "AMBER_ATOM_TYPE": ("20a4", ["CT"] * 4),
        "TREE_CHAIN_CLASSIFICATION": ("20a4", ["M"] * 4),
        "RADIUS_SET": ("1a80", ["modified Bondi radii (mbondi)"]),
        "RADII": ("5E16.8", [1.7] * 4),
        "SCREEN": ("5E16.8", [0.72] * 4),
    }
    written = {"20a4": "{:<4}", "1a80": "{:<80}", "10I8": "{:8d}", "5E16.8": "{:16.8E}"}
    per_line = {"20a4": 20, "1a80": 1, "10I8": 10, "5E16.8": 5}
    text = "%VERSION  VERSION_STAMP = V0001.000  DATE = 01/01/01  00:00:00\n"
    for flag, (form, values) in sections.items():
        fields = [written[form].format(value) for value in values]
        rows = ["".join(fields[k : k + per_line[form]]) for k in range(0, len(fields), per_line[form])] or [
            ""
        ]
        text += f"%FLAG {flag:<74}\n%FORMAT({form})\n" + "\n".join(rows) + "\n"
    prmtop = folder / "chain.prmtop"
    prmtop.write_text(text)
    values = [f"{10 * value:12.7f}" for value in x.ravel()]
    inpcrd = folder / "chain.inpcrd"
    inpcrd.write_text("chain\n    4\n" + "".join(values[:6]) + "\n" + "".join(values[6:]) + "\n")
    return prmtop, inpcrd
