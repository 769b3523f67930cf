"""From the latents of one coordinate map to those of another of the same conformations.

Two ladders that were trained apart have latents of their own, each whitened by its own data. Both are
nevertheless pictures of the same bonds, angles and torsions (or of the same positions), and linear but for
shifts that follow the periodic axes. One is therefore an affine map of the other, with such a shift, and
turns of the periodic axes: a bijection of all latents, noised ones included, whose Jacobian is constant. A
walk can go up one ladder and, through this map, down the other.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bgdiff.coordinates.base import Coordinates
from bgdiff.coordinates.conditioning import TorsionMean
from bgdiff.coordinates.internal import InternalCoordinates
from bgdiff.coordinates.mean_free import MeanFreeCoordinates
from bgdiff.coordinates.whitened import WhitenedCoordinates
from bgdiff.coordinates.whitening import wrap
from bgdiff.errors import ConfigError

__all__ = ["LatentChange", "change_latents"]


@dataclass(frozen=True)
class _Drift:
    """W' (μ(θ) - μ'(θ + turn)): the two maps' means given the torsions, one added, the other taken off."""

    whiten: Tensor
    """W' ``(r, r)``"""
    first: TorsionMean | None
    second: TorsionMean | None

    def __call__(self, angles: Tensor, turned: Tensor) -> Tensor:
        shift = torch.zeros(len(angles), len(self.whiten), dtype=angles.dtype, device=angles.device)
        if self.first is not None:
            shift = shift + self.first(angles)
        if self.second is not None:
            shift = shift - self.second(turned)
        return shift @ self.whiten.T.to(angles)


@dataclass(frozen=True)
class LatentChange:
    """z' = offset + matrix z + drift on the real axes, which come first; θ' = θ + turn on the periodic.

    Args:
        matrix: ``(r, r)`` for r real axes, invertible.
        offset: ``(r,)``.
        turn: ``(P,)``, radian, for P periodic axes.
        drift: from θ and θ', ``(B, P)`` each, to ``(B, r)``; None for none.
    """

    matrix: Tensor
    offset: Tensor
    turn: Tensor
    drift: _Drift | None = None

    @property
    def log_det(self) -> float:
        """log|det dz'/dz|, the same everywhere."""
        return float(torch.linalg.slogdet(self.matrix).logabsdet) if len(self.offset) else 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """z ``(B, r + P)`` of the first map → z' ``(B, r + P)`` of the second, angles in [-π, π)."""
        n = len(self.offset)
        real = self.offset.to(z) + z[:, :n] @ self.matrix.T.to(z)
        angles = z[:, n:]
        turned = wrap(angles + self.turn.to(z))
        if self.drift is not None:
            real = real + self.drift(angles, turned)
        return torch.cat([real, turned], -1)


def change_latents(first: Coordinates, second: Coordinates) -> LatentChange:
    """The map from latents of ``first`` to latents of ``second`` that keeps conformations what they are.

    Raises:
        ConfigError: the maps describe different molecules, or have different periodic axes (the torsion
            is named), so that no such bijection exists.
    """
    if isinstance(first, InternalCoordinates) and isinstance(second, InternalCoordinates):
        return _internal(first, second)
    if isinstance(first, WhitenedCoordinates) and isinstance(second, WhitenedCoordinates):
        if first.event_shape == second.event_shape:
            shift = torch.zeros_like(first.whitening.mean)
            return _affine(first, second, shift, torch.zeros(0, dtype=shift.dtype))
    elif (
        isinstance(first, MeanFreeCoordinates)
        and isinstance(second, MeanFreeCoordinates)
        and first.event_shape == second.event_shape
    ):
        scale = torch.full((first.dim,), first.scale / second.scale, dtype=torch.float64)
        return LatentChange(torch.diag(scale), torch.zeros_like(scale), torch.zeros(0, dtype=torch.float64))
    raise ConfigError(
        f"latents of {_describe(first)} cannot be turned into latents of {_describe(second)}: "
        "the two describe different conformations"
    )


def _internal(first: InternalCoordinates, second: InternalCoordinates) -> LatentChange:
    one, two = first.map.zmatrix, second.map.zmatrix
    rows = [list(zip(z.atom, z.bond, z.angle, z.torsion, strict=True)) for z in (one, two)]
    if rows[0] != rows[1]:
        raise ConfigError(
            "latents cannot be changed: the two Z-matrices place atoms from different neighbours; the "
            "topologies must have the same atoms and bonds"
        )
    differs = torch.nonzero(first.rotatable != second.rotatable)[:, 0].tolist()
    if differs:
        names = ", ".join("-".join(str(int(atom)) for atom in rows[0][3 + k]) for k in differs)
        raise ConfigError(
            f"latents cannot be changed: torsions that turn freely in one data set only: {names} "
            "(atoms, counted from 0); train both on data that agree on what is stiff"
        )
    # Stiff torsions are measured from their mean; between two means the shorter way is the same branch.
    shift = wrap(first.torsion_mean - second.torsion_mean)
    stiff, free = shift[~first.rotatable], shift[first.rotatable]
    on_y = torch.cat([stiff.new_zeros(len(first.whitening.mean) - len(stiff)), stiff])
    change = _affine(first, second, on_y, free)
    if first.conditional is None and second.conditional is None:
        return change
    drift = _Drift(second.whitening.inverse, first.conditional, second.conditional)
    return replace(change, drift=drift)


def _affine(
    first: InternalCoordinates | WhitenedCoordinates,
    second: InternalCoordinates | WhitenedCoordinates,
    shift: Tensor,
    turn: Tensor,
) -> LatentChange:
    """z' = W' (mean + S z + shift - mean')."""
    a, b = first.whitening, second.whitening
    return LatentChange(b.inverse @ a.scale, b.inverse @ (a.mean + shift - b.mean), turn)


def _describe(coordinates: Coordinates) -> str:
    shape = getattr(coordinates, "event_shape", None)
    kind = str(getattr(coordinates, "kind", type(coordinates).__name__)).replace("_", "-")
    return f"{kind} coordinates" + ("" if shape is None else f" of {shape[0]} particles in {shape[1]}-D")
