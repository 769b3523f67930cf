"""The energy of a force field in plain torch: on any device, in any precision, differentiable to any order.

This is the definition that the compiled kernel is tested against, so it is written close to the formulas of
:mod:`bgdiff.targets.forcefield.tables`. Memory grows with batch × atoms²: callers chunk large batches.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bgdiff.errors import DataError
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

__all__ = ["GROUPS", "dense_energies", "dense_energy"]

GROUPS = ("bonds", "angles", "torsions", "cmaps", "pairs", "born")
"""The parts of the energy, as they are named everywhere."""


def dense_energy(tables: ForceFieldTables, x: Tensor) -> Tensor:
    """Return the potential energy ``(..., )`` in kJ/mol of conformations ``(..., N, 3)`` in nm.

    A row with coordinates that are not finite, or with two interacting atoms in one point, has an energy that
    is not finite. Dtype and device are those of ``x``.
    """
    return torch.stack(list(dense_energies(tables, x).values())).sum(0)


def dense_energies(tables: ForceFieldTables, x: Tensor) -> dict[str, Tensor]:
    """Return the energy of each of :data:`GROUPS`, shaped as in :func:`dense_energy`.

    Raises:
        DataError: ``x`` is not of floating point or not of shape ``(..., N, 3)``.
    """
    if x.shape[-2:] != (tables.n_atoms, 3) or not x.is_floating_point():
        raise DataError(
            f"conformations must be floating-point numbers of shape (..., {tables.n_atoms}, 3), not "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    born = x.new_zeros(x.shape[:-2]) if tables.born is None else _born(tables.born, x)
    return {
        "bonds": _bonds(tables.bonds, x),
        "angles": _angles(tables.angles, x),
        "torsions": _torsions(tables.torsions, x),
        "cmaps": _cmaps(tables.cmaps, x),
        "pairs": _pairs(tables.pairs, x),
        "born": born,
    }


def _bonds(table: BondTable, x: Tensor) -> Tensor:
    i, j = _points(x, table.atoms)
    deviation = _norm(j - i) - _like(x, table.length)
    return (0.5 * _like(x, table.k) * deviation**2).sum(-1)


def _angles(table: AngleTable, x: Tensor) -> Tensor:
    i, j, k = _points(x, table.atoms)
    a, b = i - j, k - j
    theta = torch.atan2(_norm(torch.linalg.cross(a, b)), _dot(a, b))
    return (0.5 * _like(x, table.k) * (theta - _like(x, table.angle)) ** 2).sum(-1)


def _torsions(table: TorsionTable, x: Tensor) -> Tensor:
    """Sum the Fourier series by the addition theorem, which spares the angle itself."""
    sine, cosine = _sine_and_cosine(x, table.atoms)
    length = torch.sqrt(sine**2 + cosine**2)
    s1, c1 = sine / length, cosine / length
    C, S = _like(x, table.cosine), _like(x, table.sine)
    c, s = c1, s1
    energy = C[:, 0] + C[:, 1] * c + S[:, 1] * s
    for m in range(2, MAX_PERIODICITY + 1):
        c, s = c * c1 - s * s1, s * c1 + c * s1
        energy = energy + C[:, m] * c + S[:, m] * s
    return energy.sum(-1)


def _cmaps(table: CMAPTable, x: Tensor) -> Tensor:
    if not len(table.atoms):
        return x.new_zeros(x.shape[:-2])
    size = table.coefficients.shape[1]
    cells, powers = [], []
    for atoms in (table.atoms[:, :4], table.atoms[:, 4:]):
        angle = torch.remainder(torch.atan2(*_sine_and_cosine(x, atoms)), 2 * math.pi)
        place = angle * (size / (2 * math.pi))
        cell = (
            place.detach().to(torch.int64).clamp(0, size - 1)
        )  # also where the angle is nan or rounds up to 2π
        u = place - cell
        cells.append(cell)
        powers.append(torch.stack([torch.ones_like(u), u, u**2, u**3], dim=-1))
    index = torch.as_tensor(table.index, dtype=torch.int64, device=x.device)
    coefficients = _like(x, table.coefficients)[index, cells[0], cells[1]]
    return torch.einsum("...na,...nab,...nb->...", powers[0], coefficients, powers[1])


def _pairs(table: PairTable, x: Tensor) -> Tensor:
    i, j = _points(x, table.atoms)
    d = j - i
    inverse_square = 1 / _dot(d, d)
    inverse_sixth = inverse_square**3
    coulomb = _like(x, table.charge_product) * torch.sqrt(inverse_square)
    dispersion = (_like(x, table.c12) * inverse_sixth - _like(x, table.c6)) * inverse_sixth
    return (coulomb + dispersion).sum(-1)


def _born(table: GeneralizedBornTable, x: Tensor) -> Tensor:
    d = x.unsqueeze(-2) - x.unsqueeze(-3)
    square = _dot(d, d)
    own = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    radii = _born_radii(table, torch.sqrt(square + own), own)

    # The sum over all ordered pairs i, j holds every pair twice and, as f_ii = B_i, the atoms' own energies.
    products = radii.unsqueeze(-1) * radii.unsqueeze(-2)
    f = torch.sqrt(square + products * torch.exp(-square / (4 * products)))
    charge = _like(x, table.charge)
    polarisation = -0.5 * table.prefactor * (charge.unsqueeze(-1) * charge / f).sum((-1, -2))

    radius = _like(x, table.radius)
    surface = table.surface * ((radius + table.probe) ** 2 * (radius / radii) ** 6).sum(-1)
    return polarisation + surface


def _born_radii(table: GeneralizedBornTable, r: Tensor, own: Tensor) -> Tensor:
    """Return the effective radii B ``(..., N)``; the diagonal of ``r``, where ``own`` is 1, is left out."""
    offset_radius = _like(r, table.offset_radius)
    descreening = _descreening(r, offset_radius.unsqueeze(-1), _like(r, table.scaled_radius), table.engulf)
    if table.neck_distance is not None and table.neck_strength is not None and table.neck_cutoff is not None:
        distance = r - _like(r, table.neck_distance)
        neck = _like(r, table.neck_strength) / (1 + 100 * distance**2 + 3e5 * distance**6)
        descreening = descreening + torch.where(r <= _like(r, table.neck_cutoff), neck, 0.0)
    integral = torch.where(own == 0, descreening, 0.0).sum(-1)
    if not table.rescaled:
        return 1 / (1 / offset_radius - integral)
    alpha, beta, gamma = (_like(r, values) for values in (table.alpha, table.beta, table.gamma))
    psi = integral * offset_radius
    return 1 / (
        1 / offset_radius - torch.tanh(alpha * psi - beta * psi**2 + gamma * psi**3) / _like(r, table.radius)
    )


def _descreening(r: Tensor, o: Tensor, s: Tensor, engulf: bool) -> Tensor:
    lower = torch.maximum(o, torch.abs(r - s))
    # With equal limits the integral and all its derivatives vanish, also where log(u) would be nan.
    upper = torch.where(r + s >= o, r + s, lower)
    integral = 0.5 * (
        1 / lower
        - 1 / upper
        + 0.25 * (r - s**2 / r) * (1 / upper**2 - 1 / lower**2)
        + 0.5 * torch.log(lower / upper) / r
    )
    if engulf:
        integral = integral + torch.where(o < s - r, 1 / o - 1 / lower, 0.0)
    return integral


def _sine_and_cosine(x: Tensor, atoms: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the sine and cosine of torsions, both times the same positive number."""
    i, j, k, l = _points(x, atoms)
    a, b, c = j - i, k - j, l - k
    normal, other = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return _norm(b) * _dot(a, other), _dot(normal, other)


def _points(x: Tensor, atoms: np.ndarray) -> list[Tensor]:
    """Return the positions ``(..., n, 3)`` of the first atom of every term, of the second, and so on."""
    index = torch.as_tensor(atoms, dtype=torch.int64, device=x.device)
    return [x.index_select(-2, column) for column in index.unbind(1)]


def _like(x: Tensor, values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=x.dtype, device=x.device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=-1)
