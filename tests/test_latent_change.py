"""Changing latents: conformations stay as they are, noised latents come back, the Jacobian is constant."""

import math

import pytest
import torch
from checks import GRAPHS, geometry, rigid_deviation, seeded
from torch import Tensor
from torch.autograd.functional import jacobian

from bgdiff.coordinates import (
    Coordinates,
    InternalCoordinates,
    MeanFreeCoordinates,
    WhitenedCoordinates,
    ZMatrix,
    ZMatrixMap,
    wrap,
)
from bgdiff.coordinates.change import change_latents
from bgdiff.errors import ConfigError


def molecules(seed: int, *, width: float, lean: float = 0.0, locked: int = 0) -> tuple[ZMatrix, Tensor]:
    """Ethanol whose bonds, angles and stiff torsions scatter by ``width`` about places shifted by ``lean``.

    Proper torsions turn freely, but for the first ``locked`` of them.
    """
    n_atoms, bonds, heavy = GRAPHS["ethanol"]
    zmatrix = ZMatrix.from_bonds(n_atoms, bonds, heavy)
    generator, n = seeded(seed), 600
    parts = []
    for k, centre in enumerate(geometry(n_atoms, 1, 3)):
        noise = torch.randn(n, centre.shape[1], generator=generator, dtype=torch.float64)
        parts.append(centre + (0.1 if k == 0 else 1.0) * (lean + width * noise))
    turn = 2 * math.pi * torch.rand(n, n_atoms - 3, generator=generator, dtype=torch.float64)
    free = torch.from_numpy(~zmatrix.improper[3:])
    free[torch.nonzero(free)[:locked, 0]] = False
    return zmatrix, ZMatrixMap(zmatrix).to_cartesian(parts[0], parts[1], torch.where(free, turn, parts[2]))


def internal() -> tuple[Coordinates, Coordinates, Tensor]:
    zmatrix, x = molecules(0, width=0.03)
    _, other = molecules(1, width=0.05, lean=0.04)
    return InternalCoordinates.fit(zmatrix, x), InternalCoordinates.fit(zmatrix, other), x


def points(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = seeded(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    scatter = torch.randn(500, n * d, generator=generator, dtype=torch.float64)
    return 0.4 + scale * (scatter.reshape(500, n, d) @ mixing)


def whitened() -> tuple[Coordinates, Coordinates, Tensor]:
    x = points(2, 3, seed=2)
    return WhitenedCoordinates.fit(x), WhitenedCoordinates.fit(points(2, 3, seed=3, scale=2.0)), x


def mean_free() -> tuple[Coordinates, Coordinates, Tensor]:
    x = points(4, 2, seed=4)
    return MeanFreeCoordinates.fit(x), MeanFreeCoordinates.fit(points(4, 2, seed=5, scale=3.0)), x


CASES = {"internal": internal, "whitened": whitened, "mean-free": mean_free}


@pytest.mark.parametrize("case", CASES)
def test_conformations_stay_what_they_are(case: str) -> None:
    first, second, x = CASES[case]()
    z = first.to_z(x)[0]
    change = change_latents(first, second)
    before, volume = first.to_x(z)
    after, volume_after = second.to_x(change(z))
    if case == "internal":
        assert rigid_deviation(before, after) < 1e-9
    else:
        torch.testing.assert_close(before, after, rtol=0, atol=1e-9)
    torch.testing.assert_close(volume - volume_after, torch.full_like(volume, change.log_det))
    assert abs(change.log_det) > 0.1


@pytest.mark.parametrize("case", CASES)
def test_any_latent_comes_back_and_the_jacobian_is_constant(case: str) -> None:
    """Noise takes latents far outside of the molecule's possible geometries; the map does not mind."""
    first, second, x = CASES[case]()
    z = first.to_z(x)[0][:20]
    z = z + 5 * torch.randn(z.shape, generator=seeded(6), dtype=torch.float64)
    z = torch.where(first.periodic, wrap(z), z)
    there, back = change_latents(first, second), change_latents(second, first)
    again = back(there(z)) - z
    assert float(torch.where(first.periodic, wrap(again), again).abs().max()) < 1e-9
    assert there.log_det == pytest.approx(-back.log_det, abs=1e-9)
    for point in z[:3]:
        slope = jacobian(lambda p: there(p[None])[0], point)
        assert float(torch.linalg.slogdet(slope).logabsdet) == pytest.approx(there.log_det, abs=1e-9)


def test_maps_of_other_molecules_or_other_periodic_axes_are_refused() -> None:
    zmatrix, x = molecules(0, width=0.03)
    free = InternalCoordinates.fit(zmatrix, x)
    locked = InternalCoordinates.fit(zmatrix, molecules(1, width=0.03, locked=1)[1])
    row = 3 + int(torch.nonzero(free.rotatable & ~locked.rotatable)[0, 0])
    name = "-".join(str(getattr(zmatrix, column)[row]) for column in ("atom", "bond", "angle", "torsion"))
    with pytest.raises(ConfigError, match=f"turn freely in one data set only: {name} "):
        change_latents(free, locked)
    n_atoms, bonds, heavy = GRAPHS["chain"]
    chain = ZMatrix.from_bonds(n_atoms, bonds, heavy or [True] * n_atoms)
    generator = seeded(7)
    parts = [
        part + 0.03 * torch.randn(500, part.shape[1], generator=generator, dtype=torch.float64)
        for part in geometry(n_atoms, 1, 7)
    ]
    with pytest.raises(ConfigError, match="same atoms and bonds"):
        change_latents(free, InternalCoordinates.fit(chain, ZMatrixMap(chain).to_cartesian(*parts)))
    with pytest.raises(ConfigError, match="whitened coordinates of 2 particles in 3-D"):
        change_latents(free, whitened()[0])
    with pytest.raises(ConfigError, match="of 4 particles in 2-D"):
        change_latents(mean_free()[0], MeanFreeCoordinates(5, 2, 1.0))
