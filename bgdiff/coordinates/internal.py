"""Whitened internal coordinates of one connected molecule."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates.conditioning import TorsionMean
from bgdiff.coordinates.whitening import TWO_PI, Whitening, wrap
from bgdiff.coordinates.zmatrix import ZMatrix
from bgdiff.errors import DataError

__all__ = ["InternalCoordinates", "ZMatrixMap"]


_STRAIGHT = math.radians(175.0)
_STRAIGHT_SHARE = 0.01
"""Of the frames. Ordinary angles never come near; a nitrile's is there most of the time."""


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
        self,
        zmatrix: ZMatrix,
        whitening: Whitening,
        rotatable: Tensor,
        torsion_mean: Tensor,
        conditional: TorsionMean | None = None,
    ) -> None:
        self.map = ZMatrixMap(zmatrix)
        self.whitening = whitening
        self.conditional = conditional
        """mean of the real coordinates given the periodic torsions, subtracted before they are whitened"""
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
    def fit(
        cls,
        zmatrix: ZMatrix,
        x: Tensor,
        *,
        frames_per_axis: int = 10,
        conditional: bool = False,
        names: Sequence[str] | None = None,
    ) -> "InternalCoordinates":
        """Choose the periodic axes and the whitening from data x ``(n, N, 3)``.

        Args:
            conditional: whiten what the torsions leave over of the real coordinates, instead of these.
            names: of the atoms, for messages; by default their numbers, counted from 0.

        Raises:
            DataError: too few frames, a coordinate that does not vary, or an angle that is straight.
        """
        bonds, angles, torsions = ZMatrixMap(zmatrix).to_internal(x.to(torch.float64))
        if x.shape[0] < frames_per_axis * (3 * x.shape[1] - 6):
            raise DataError(
                f"the data set has {x.shape[0]} frames, too few to whiten {3 * x.shape[1] - 6} "
                f"coordinates: at least {frames_per_axis * (3 * x.shape[1] - 6)} are needed"
            )
        _refuse_straight(zmatrix, angles, names)
        mean = torch.atan2(torch.sin(torsions).mean(0), torch.cos(torsions).mean(0))
        rotatable = _widest_gap(torsions) < math.pi
        centred = wrap(torsions - mean)
        y, free = torch.cat([bonds, angles, centred[:, ~rotatable]], -1), centred[:, rotatable]
        drift = TorsionMean.fit(free, y) if conditional else None
        whitening = Whitening.fit(
            y if drift is None else y - drift(free),
            frames_per_axis=frames_per_axis,
            names=_names(zmatrix, rotatable, names),
        )
        return cls(zmatrix, whitening, rotatable, mean, drift)

    @property
    def dim(self) -> int:
        return self._n_real + len(self._free)

    @property
    def periodic(self) -> Tensor:
        return torch.arange(self.dim, device=self.torsion_mean.device) >= self._n_real

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, d)`` → x ``(B, N, 3)``, log|det dx/dz| ``(B,)``; -inf for an impossible geometry."""
        n = self.map.n_atoms
        y = self.real(z)
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
        z = self.latent(torch.cat([bonds, angles, centred[:, self._stiff]], -1), centred[:, self._free])
        return z, -self.map.log_det(bonds, angles) - self._log_det

    def real(self, z: Tensor) -> Tensor:
        """z ``(B, d)`` → bonds, angles and stiff torsions about their means ``(B, r)``, possible or not."""
        y = self.whitening.to_y(z[:, : self._n_real])
        return y if self.conditional is None else y + self.conditional(z[:, self._n_real :])

    def latent(self, y: Tensor, free: Tensor) -> Tensor:
        """The inverse of :meth:`real`, given the free torsions about their means ``(B, P)``: z ``(B, d)``."""
        residual = y if self.conditional is None else y - self.conditional(free)
        return torch.cat([self.whitening.to_z(residual), free], -1)

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
        metadata: dict[str, Any] = {
            "kind": self.kind,
            "zmatrix": {name: getattr(z, name).tolist() for name in names},
        }
        if self.conditional is not None:
            more, metadata["conditional"] = self.conditional.state()
            tensors |= {f"conditional.{name}": value for name, value in more.items()}
        return tensors, metadata

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "InternalCoordinates":
        """Rebuild what :meth:`state` described."""
        import numpy as np

        zmatrix = ZMatrix(**{name: np.array(column) for name, column in metadata["zmatrix"].items()})
        whitening = Whitening(tensors["mean"], tensors["scale"], tensors["inverse"])
        prefix = "conditional."
        conditional = None
        if "conditional" in metadata:  # older files have none
            parts = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            conditional = TorsionMean.from_state(parts, metadata["conditional"])
        return cls(zmatrix, whitening, tensors["rotatable"].bool(), tensors["torsion_mean"], conditional)


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


def _refuse_straight(zmatrix: ZMatrix, angles: Tensor, names: Sequence[str] | None) -> None:
    """Raise DataError if an angle is straight in more than a few frames of angles ``(n, N-2)``."""
    share = (angles > _STRAIGHT).to(torch.float64).mean(0)
    worst = int(share.argmax())
    if float(share[worst]) > _STRAIGHT_SHARE:
        name = _join(zmatrix, 2 + worst, 3, names)
        raise DataError(
            f"the angle {name} is within {180 - math.degrees(_STRAIGHT):.0f} degrees of straight in "
            f"{float(share[worst]):.0%} of the frames: torsions along a straight line mean nothing, so that "
            "molecules with linear groups (nitriles, alkynes, azides) have no internal coordinates here; "
            "set `coordinates: mean_free` in system.yaml to use Cartesian ones"
        )


def _join(zmatrix: ZMatrix, row: int, count: int, names: Sequence[str] | None) -> str:
    columns = (zmatrix.atom, zmatrix.bond, zmatrix.angle, zmatrix.torsion)[:count]
    return "-".join(str(column[row]) if names is None else names[column[row]] for column in columns)


def _names(zmatrix: ZMatrix, rotatable: Tensor, atoms: Sequence[str] | None) -> list[str]:
    rows = range(zmatrix.n_atoms)
    names = [f"bond {_join(zmatrix, row, 2, atoms)}" for row in rows[1:]]
    names += [f"angle {_join(zmatrix, row, 3, atoms)}" for row in rows[2:]]
    stiff = [row for row, free in zip(rows[3:], rotatable, strict=True) if not free]
    return names + [f"torsion {_join(zmatrix, row, 4, atoms)}" for row in stiff]
