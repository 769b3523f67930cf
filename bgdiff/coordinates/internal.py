"""Whitened internal coordinates of one connected molecule."""

import math
from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates.whitening import TWO_PI, Whitening, wrap
from bgdiff.coordinates.zmatrix import ZMatrix
from bgdiff.errors import DataError

__all__ = ["InternalCoordinates", "ZMatrixMap"]


class ZMatrixMap:
    """Bonds, angles and torsions of a Z-matrix ↔ Cartesian positions, with exact Jacobians.

    Overall translation and rotation are left out: the map is onto positions with the first atom at
    the origin, the second on the x axis and the third in the upper xy half-plane. Its Jacobian is that
    of the full space per unit volume of translation and per radian³ of rotation (whose volume is 8π²):
    ``Π r² · Π sin θ`` over all bonds and all angles.

    Units: bonds in the unit of x (nm), angles and torsions in radian.
    """

    def __init__(self, zmatrix: ZMatrix) -> None:
        self.zmatrix = zmatrix
        index = {
            name: torch.as_tensor(getattr(zmatrix, name)) for name in ("atom", "bond", "angle", "torsion")
        }
        self._atom, self._bond = index["atom"], index["bond"]
        self._angle, self._torsion = index["angle"], index["torsion"]
        self._levels = [torch.as_tensor(rows) for rows in zmatrix.levels()]

    @property
    def n_atoms(self) -> int:
        return self.zmatrix.n_atoms

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``(B, N, 3)`` → bonds ``(B, N-1)``, angles ``(B, N-2)``, torsions ``(B, N-3)``."""
        bond_vector = x[:, self._atom[1:]] - x[:, self._bond[1:]]
        bonds = bond_vector.norm(dim=-1)
        rows = slice(2, None)
        towards = x[:, self._angle[rows]] - x[:, self._bond[rows]]
        arm = bond_vector[:, 1:]
        angles = torch.atan2(torch.linalg.cross(arm, towards).norm(dim=-1), (arm * towards).sum(-1))
        rows = slice(3, None)
        _, e2, e3 = _frame(x[:, self._bond[rows]], x[:, self._angle[rows]], x[:, self._torsion[rows]])
        arm = bond_vector[:, 2:]
        torsions = torch.atan2((arm * e3).sum(-1), (arm * e2).sum(-1))
        return bonds, angles, torsions

    def to_cartesian(self, bonds: Tensor, angles: Tensor, torsions: Tensor) -> Tensor:
        """The inverse of :meth:`to_internal`, up to a rigid motion."""
        batch = bonds.shape[0]
        zero = torch.zeros(batch, dtype=bonds.dtype, device=bonds.device)
        placed: list[Tensor | None] = [None] * self.n_atoms
        atom = self.zmatrix.atom
        placed[atom[0]] = torch.stack([zero, zero, zero], -1)
        placed[atom[1]] = torch.stack([bonds[:, 0], zero, zero], -1)
        # the third atom's parent is the root at the origin, and its angle is measured from the x axis
        placed[atom[2]] = torch.stack(
            [bonds[:, 1] * torch.cos(angles[:, 0]), bonds[:, 1] * torch.sin(angles[:, 0]), zero], -1
        )
        z = self.zmatrix
        for rows in self._levels:
            index = rows.tolist()
            p, g, t = (
                torch.stack([placed[int(column[k])] for k in index], 1)  # type: ignore[misc]
                for column in (z.bond, z.angle, z.torsion)
            )
            e1, e2, e3 = _frame(p, g, t)
            r, theta, tau = bonds[:, rows - 1, None], angles[:, rows - 2, None], torsions[:, rows - 3, None]
            position = p + r * (
                torch.cos(theta) * e1 + torch.sin(theta) * (torch.cos(tau) * e2 + torch.sin(tau) * e3)
            )
            for column, k in enumerate(index):
                placed[atom[k]] = position[:, column]
        return torch.stack(placed, 1)  # type: ignore[arg-type]

    @staticmethod
    def log_det(bonds: Tensor, angles: Tensor) -> Tensor:
        """log|det dx/d(bonds, angles, torsions)| ``(B,)``; -inf where a bond or an angle is impossible."""
        possible = (bonds > 0).all(-1) & (angles > 0).all(-1) & (angles < math.pi).all(-1)
        safe_bonds = torch.where(bonds > 0, bonds, 1.0)
        sine = torch.where((angles > 0) & (angles < math.pi), torch.sin(angles), 1.0)
        value = 2 * torch.log(safe_bonds).sum(-1) + torch.log(sine).sum(-1)
        return torch.where(possible, value, -torch.inf)


class InternalCoordinates:
    """z = whitened bonds, angles and stiff torsions, followed by the rotatable torsions as angles.

    A torsion whose data fill less than half of the circle is unwrapped around its circular mean and
    treated as a real axis; the others stay periodic. Real axes are whitened together.
    """

    kind = "internal"

    def __init__(
        self, zmatrix: ZMatrix, whitening: Whitening, rotatable: Tensor, torsion_mean: Tensor
    ) -> None:
        self.map = ZMatrixMap(zmatrix)
        self.whitening = whitening
        self.rotatable = rotatable
        """bool ``(N-3,)``: which torsions are periodic axes"""
        self.torsion_mean = torsion_mean
        """``(N-3,)`` circular means in radian"""
        n = zmatrix.n_atoms
        self._n_real = (n - 1) + (n - 2) + int((~rotatable).sum())
        self._stiff = torch.nonzero(~rotatable)[:, 0]
        self._free = torch.nonzero(rotatable)[:, 0]
        self._log_det = whitening.log_det

    @classmethod
    def fit(cls, zmatrix: ZMatrix, x: Tensor, *, frames_per_axis: int = 10) -> "InternalCoordinates":
        """Choose the periodic axes and the whitening from data x ``(n, N, 3)``.

        Raises:
            DataError: too few frames, or a coordinate that does not vary.
        """
        bonds, angles, torsions = ZMatrixMap(zmatrix).to_internal(x.to(torch.float64))
        if x.shape[0] < frames_per_axis * (3 * x.shape[1] - 6):
            raise DataError(
                f"the data set has {x.shape[0]} frames, too few to whiten {3 * x.shape[1] - 6} "
                f"coordinates: at least {frames_per_axis * (3 * x.shape[1] - 6)} are needed"
            )
        mean = torch.atan2(torch.sin(torsions).mean(0), torch.cos(torsions).mean(0))
        rotatable = _widest_gap(torsions) < math.pi
        stiff = wrap(torsions - mean)[:, ~rotatable]
        whitening = Whitening.fit(
            torch.cat([bonds, angles, stiff], -1),
            frames_per_axis=frames_per_axis,
            names=_names(zmatrix, rotatable),
        )
        return cls(zmatrix, whitening, rotatable, mean)

    @property
    def dim(self) -> int:
        return self._n_real + len(self._free)

    @property
    def periodic(self) -> Tensor:
        return torch.arange(self.dim, device=self.torsion_mean.device) >= self._n_real

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, d)`` → x ``(B, N, 3)``, log|det dx/dz| ``(B,)``; -inf for an impossible geometry."""
        n = self.map.n_atoms
        y = self.whitening.to_y(z[:, : self._n_real])
        bonds, angles, stiff = y.split([n - 1, n - 2, len(self._stiff)], -1)
        torsions = z.new_zeros(z.shape[0], n - 3)
        torsions = torsions.index_copy(1, self._stiff, stiff)
        torsions = torsions.index_copy(1, self._free, z[:, self._n_real :]) + self.torsion_mean
        log_det = self.map.log_det(bonds, angles) + self._log_det
        # A stiff torsion beyond half a turn would describe, a second time, a point described elsewhere.
        unique = (stiff.abs() < math.pi).all(-1)
        return self.map.to_cartesian(bonds, angles, torsions), torch.where(unique, log_det, -torch.inf)

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x ``(B, N, 3)`` → z ``(B, d)``, log|det dz/dx| ``(B,)``."""
        bonds, angles, torsions = self.map.to_internal(x)
        centred = wrap(torsions - self.torsion_mean)
        real = self.whitening.to_z(torch.cat([bonds, angles, centred[:, self._stiff]], -1))
        z = torch.cat([real, centred[:, self._free]], -1)
        return z, -self.map.log_det(bonds, angles) - self._log_det

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        z = self.map.zmatrix
        tensors = {
            "mean": self.whitening.mean,
            "scale": self.whitening.scale,
            "inverse": self.whitening.inverse,
            "rotatable": self.rotatable,
            "torsion_mean": self.torsion_mean,
        }
        names = ("atom", "bond", "angle", "torsion", "improper")
        return tensors, {"kind": self.kind, "zmatrix": {name: getattr(z, name).tolist() for name in names}}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "InternalCoordinates":
        """Rebuild what :meth:`state` described."""
        import numpy as np

        zmatrix = ZMatrix(**{name: np.array(column) for name, column in metadata["zmatrix"].items()})
        whitening = Whitening(tensors["mean"], tensors["scale"], tensors["inverse"])
        return cls(zmatrix, whitening, tensors["rotatable"].bool(), tensors["torsion_mean"])


def _frame(p: Tensor, g: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Axes at p: e1 towards g, e2 in the plane of t on its side, e3 such that dihedrals follow IUPAC."""
    e1 = torch.nn.functional.normalize(g - p, dim=-1)
    aside = t - g
    e2 = torch.nn.functional.normalize(aside - (aside * e1).sum(-1, keepdim=True) * e1, dim=-1)
    return e1, e2, torch.linalg.cross(e2, e1)


def _widest_gap(angles: Tensor) -> Tensor:
    """Widest arc of the circle without data, for each column of angles ``(n, m)`` in radian."""
    ordered = angles.sort(0).values
    around = torch.cat([ordered, ordered[:1] + TWO_PI])
    return around.diff(dim=0).max(0).values


def _names(zmatrix: ZMatrix, rotatable: Tensor) -> list[str]:
    rows = list(zip(zmatrix.atom, zmatrix.bond, zmatrix.angle, zmatrix.torsion, strict=True))
    names = [f"bond {a}-{b}" for a, b, _, _ in rows[1:]]
    names += [f"angle {a}-{b}-{c}" for a, b, c, _ in rows[2:]]
    names += [
        f"torsion {a}-{b}-{c}-{d}" for (a, b, c, d), free in zip(rows[3:], rotatable, strict=True) if not free
    ]
    return names
