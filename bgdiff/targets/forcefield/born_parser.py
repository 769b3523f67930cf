"""Read OpenMM's implicit solvents: GBSAOBCForce, and the CustomGBForce that ``openmm.app`` writes."""

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.errors import UnsupportedSystem
from bgdiff.targets.forcefield.expressions import match_expression
from bgdiff.targets.forcefield.tables import GeneralizedBornTable

__all__ = ["COULOMB", "parse_custom_born", "parse_obc"]

Floats = NDArray[np.float64]

_EPSILON = 1e-6 * 8.8541878128e-12 / (1.602176634e-19**2 * 6.02214076e23)  # ε₀ in e² mol/(kJ nm), CODATA 2018
COULOMB = 1 / (4 * math.pi * _EPSILON)
"""1/4πε₀ in kJ nm/(mol e²), 138.935458, as OpenMM's own forces have it; its CustomGBForces say 138.935485."""

_NAME = "CustomGBForce"
_ALPHA_BETA_GAMMA = ("alpha", "beta", "gamma")
_OBC_OFFSET, _OBC_PROBE = 0.009, 0.14  # nm, fixed in GBSAOBCForce, like the coefficients of OBC2
_OBC2 = (1.0, 0.8, 4.85)

_DESCREENING = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r), 0);"
    "U=r+sr2; L=max(or1, D); D=abs(r-sr2)"
)
_DESCREENING_AND_NECK = (
    "Ivdw + {neck_scale}*Ineck;"
    "Ineck=step(radius1+radius2+{neck_gap}-r)*getm0(radindex1,radindex2)/"
    "(1+100*(r-getd0(radindex1,radindex2))^2+0.3*1000000*(r-getd0(radindex1,radindex2))^6);"
    f"Ivdw={_DESCREENING};"
    "radius1=or1+{offset}; radius2=or2+{offset}"
)
# The inverse Born radius: every form of α ψ - β ψ² + γ ψ³ that occurs, with the coefficients it leaves out.
_TANH = "1/(1/or-tanh(%s)/radius); psi=I*or; radius=or+{offset}"
_RADII: tuple[tuple[str, dict[str, float]], ...] = (
    (_TANH % "{alpha}*psi+{gamma}*psi^3", {"beta": 0.0}),  # OBC1
    (_TANH % "psi-{beta}*psi^2+{gamma}*psi^3", {"alpha": 1.0}),  # OBC2
    (_TANH % "{alpha}*psi-{beta}*psi^2+{gamma}*psi^3", {}),  # GBn
)
_RADII_OF_ATOMS = _TANH % "alpha*psi-beta*psi^2+gamma*psi^3"  # GBn2: coefficients are parameters of the atoms
_RADII_HCT = "1/(1/or-I)"

_SELF = "-0.5*{coulomb}*(1/{solute}-1/{solvent})*charge^2/B"
_PAIR = "-{coulomb}*(1/{solute}-1/{solvent})*charge1*charge2/f; f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))"
_SURFACE = "{surface}*(radius+{probe})^2*(radius/B)^6; radius=or+{offset}"

_SINGLE = openmm.CustomGBForce.SingleParticle
_PAIRS = (  # the same, as exclusions are refused
    openmm.CustomGBForce.ParticlePair,
    openmm.CustomGBForce.ParticlePairNoExclusions,
)


def parse_obc(force: openmm.GBSAOBCForce) -> GeneralizedBornTable:
    """Read a GBSAOBCForce: OBC2, where only the dielectrics and the surface energy are free."""
    rows = [_row(force.getParticleParameters(i)) for i in range(force.getNumParticles())]
    charge, radius, scale = _columns(rows, 3)
    offset_radius = radius - _OBC_OFFSET
    alpha, beta, gamma = (np.full(len(charge), value) for value in _OBC2)
    screening = _screening("GBSAOBCForce", force.getSoluteDielectric(), force.getSolventDielectric())
    table = GeneralizedBornTable(
        charge=charge,
        offset_radius=offset_radius,
        scaled_radius=scale * offset_radius,
        radius=radius,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        rescaled=True,
        prefactor=COULOMB * screening,
        surface=4 * math.pi * _row([force.getSurfaceAreaEnergy()])[0],
        probe=_OBC_PROBE,
        engulf=True,
    )
    return _checked("GBSAOBCForce", table)


def parse_custom_born(force: openmm.CustomGBForce) -> GeneralizedBornTable:
    """Read a CustomGBForce whose every expression is one of those OpenMM writes.

    Raises:
        UnsupportedSystem: an expression, parameter or function is another.
    """
    _check_settings(force)
    descreening, inverse_radius = _computed_values(force)
    neck = match_expression(descreening, _DESCREENING_AND_NECK)
    if neck is None and match_expression(descreening, _DESCREENING) is None:
        raise _unknown("computed value I", descreening)
    coefficients, of_atoms = _coefficients(inverse_radius)
    wanted = ["charge", "or", "sr", *(_ALPHA_BETA_GAMMA if of_atoms else ()), *(["radindex"] if neck else ())]
    atoms = _parameters(force, wanted)
    prefactor, surface = _energy_terms(force)

    offset = _common_offset([neck or {}, coefficients, surface])
    radius = atoms["or"] + offset
    n_atoms = len(radius)
    alpha, beta, gamma = (
        atoms[name] if of_atoms else np.full(n_atoms, coefficients.get(name, 0.0))
        for name in _ALPHA_BETA_GAMMA
    )
    table = GeneralizedBornTable(
        charge=atoms["charge"],
        offset_radius=atoms["or"],
        scaled_radius=atoms["sr"],
        radius=radius,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        rescaled=bool(coefficients) or of_atoms,
        prefactor=prefactor,
        surface=surface.get("surface", 0.0),
        probe=surface.get("probe", 0.0),
        engulf=False,
        **(_necks(force, atoms["radindex"], radius, neck) if neck else {}),
    )
    return _checked(_NAME, table)


def _check_settings(force: openmm.CustomGBForce) -> None:
    functions = {force.getTabulatedFunctionName(i) for i in range(force.getNumTabulatedFunctions())}
    for count, what in (
        (functions - {"getd0", "getm0"}, f"the tabulated functions {sorted(functions)}"),
        (force.getNumExclusions(), "exclusions"),
        (force.getNumGlobalParameters(), "global parameters"),
        (force.getNumEnergyParameterDerivatives(), "parameter derivatives"),
    ):
        if count:
            raise UnsupportedSystem(f"{_NAME}: has {what}")


def _parameters(force: openmm.CustomGBForce, wanted: list[str]) -> dict[str, Floats]:
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    if sorted(names) != sorted(wanted):
        raise UnsupportedSystem(f"{_NAME}: has the per-particle parameters {names} instead of {wanted}")
    rows = [_row(force.getParticleParameters(i)) for i in range(force.getNumParticles())]
    for atom, row in enumerate(rows):
        if len(row) != len(names):
            raise UnsupportedSystem(f"{_NAME}: particle {atom} has {len(row)} parameters, not {len(names)}")
    return dict(zip(names, _columns(rows, len(names)), strict=True))


def _computed_values(force: openmm.CustomGBForce) -> tuple[str, str]:
    """Return the expressions of I and B."""
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    if [name for name, _, _ in values] != ["I", "B"]:
        names = [name for name, _, _ in values]
        raise UnsupportedSystem(f"{_NAME}: has the computed values {names} instead of ['I', 'B']")
    (_, descreening, over_pairs), (_, inverse_radius, single) = values
    if over_pairs not in _PAIRS or single != _SINGLE:
        raise UnsupportedSystem(f"{_NAME}: I is not a sum over pairs, or B not a value of one particle")
    return descreening, inverse_radius


def _coefficients(text: str) -> tuple[dict[str, float], bool]:
    """Return α, β, γ and the offset (HCT has none of them), and whether the first three belong to atoms."""
    for template, implied in _RADII:
        if (found := match_expression(text, template)) is not None:
            return found | implied, False
    if (found := match_expression(text, _RADII_OF_ATOMS)) is not None:
        return found, True
    if match_expression(text, _RADII_HCT) is not None:
        return {}, False
    raise _unknown("computed value B", text)


def _energy_terms(force: openmm.CustomGBForce) -> tuple[float, dict[str, float]]:
    """Return the prefactor of the polarisation energy, and the numbers of the surface term if it is there."""
    prefactors: dict[str, float] = {}
    surface: dict[str, float] = {}
    for index in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(index)
        templates = {"self": _SELF, "surface": _SURFACE} if kind == _SINGLE else {"pair": _PAIR}
        found = {name: match_expression(text, template) for name, template in templates.items()}
        name, numbers = next(((n, f) for n, f in found.items() if f is not None), ("", {}))
        if not name or name in prefactors or (name == "surface" and surface):
            raise _unknown(f"energy term {index}", text)
        if name == "surface":
            surface = numbers
        else:
            prefactors[name] = numbers["coulomb"] * _screening(_NAME, numbers["solute"], numbers["solvent"])
    if prefactors.keys() != {"self", "pair"}:
        raise UnsupportedSystem(f"{_NAME}: lacks the polarisation energy of single atoms or of pairs")
    if not math.isclose(prefactors["self"], prefactors["pair"], rel_tol=1e-12):
        raise UnsupportedSystem(f"{_NAME}: atoms and pairs have different dielectrics")
    return prefactors["pair"], surface


def _necks(
    force: openmm.CustomGBForce, index: Floats, radius: Floats, numbers: dict[str, float]
) -> dict[str, Floats]:
    """Return the neck matrices: OpenMM tabulates d₀ and m₀ over the distinct radii, (of i, of j)."""
    tables = {
        force.getTabulatedFunctionName(i): force.getTabulatedFunction(i)
        for i in range(force.getNumTabulatedFunctions())
    }
    rows = index.astype(np.int64)
    matrices = []
    for name in ("getd0", "getm0"):
        table = tables.get(name)
        if not isinstance(table, openmm.Discrete2DFunction):
            raise UnsupportedSystem(
                f"{_NAME}: tabulated function {name} is missing or not a Discrete2DFunction"
            )
        size_i, size_j, values = table.getFunctionParameters()
        if (rows != index).any() or (rows < 0).any() or (rows >= min(size_i, size_j)).any():
            raise UnsupportedSystem(f"{_NAME}: a radindex is not an index into the tabulated function {name}")
        matrices.append(np.reshape(values, (size_j, size_i)).T[np.ix_(rows, rows)])  # i runs fastest
    distance, strength = matrices
    strength = numbers["neck_scale"] * strength
    np.fill_diagonal(strength, 0.0)
    return {
        "neck_distance": np.ascontiguousarray(distance),
        "neck_strength": np.ascontiguousarray(strength),
        "neck_cutoff": radius[:, None] + radius + numbers["neck_gap"],
    }


def _common_offset(found: list[dict[str, float]]) -> float:
    """Return the offset ρ - o on which all expressions agree; 0 for HCT without surface, which has no ρ."""
    offsets = [numbers["offset"] for numbers in found if "offset" in numbers]
    if any(not math.isclose(offset, offsets[0], rel_tol=1e-12) for offset in offsets):
        raise UnsupportedSystem(f"{_NAME}: its expressions disagree on the offset of the radii: {offsets}")
    return offsets[0] if offsets else 0.0


def _screening(name: str, solute: float, solvent: float) -> float:
    """Return 1/ε_solute - 1/ε_solvent."""
    if not (solute > 0 and solvent > 0):
        raise UnsupportedSystem(f"{name}: dielectric constants {solute:g} (solute) and {solvent:g} (solvent)")
    return 1 / solute - 1 / solvent


def _checked(name: str, table: GeneralizedBornTable) -> GeneralizedBornTable:
    for field, value in vars(table).items():
        if value is not None and not np.isfinite(value).all():
            raise UnsupportedSystem(f"{name}: {field} is not finite")
    if (table.offset_radius <= 0).any():
        atom = int(np.argmin(table.offset_radius))
        raise UnsupportedSystem(f"{name}: atom {atom} has no positive radius after the offset")
    return table


def _unknown(what: str, text: str) -> UnsupportedSystem:
    reason = " (salt: it depends on kappa)" if re.search(r"exp\(\s*-\s*kappa", text) else ""
    return UnsupportedSystem(f"{_NAME}: {what} is an expression that is not known{reason}: {text}")


def _row(values: Iterable[Any]) -> list[float]:
    return [float(v.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(v) else v) for v in values]


def _columns(rows: list[list[float]], count: int) -> list[Floats]:
    return [np.ascontiguousarray(column) for column in np.array(rows, np.float64).reshape(-1, count).T]
