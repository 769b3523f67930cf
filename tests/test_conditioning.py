"""Real coordinates whitened given the torsions: the mean taken off, its smoothness, maps and files."""

import math

import pytest
import torch
from checks import GRAPHS, geometry, rigid_deviation, seeded
from torch import Tensor
from torch.autograd.functional import jacobian

from bgdiff.coordinates import (
    InternalCoordinates,
    ZMatrix,
    ZMatrixMap,
    change_latents,
    coordinates_from_state,
    wrap,
)
from bgdiff.coordinates.conditioning import TorsionMean


def uniform_angles(n: int, count: int, seed: int) -> Tensor:
    return 2 * math.pi * torch.rand(n, count, generator=seeded(seed), dtype=torch.float64) - math.pi


def noise(n: int, count: int, seed: int) -> Tensor:
    return torch.randn(n, count, generator=seeded(seed), dtype=torch.float64)


def shift(angles: Tensor) -> Tensor:
    """Means of two coordinates that turn with two torsions."""
    first, second = angles[:, 0], angles[:, 1]
    return torch.stack([torch.cos(first) - 0.5 * torch.sin(2 * second), 2 * torch.sin(first)], -1)


def test_the_mean_is_found() -> None:
    """Within the sampling error of its coefficients, √(features/n)."""
    n = 4000
    angles = uniform_angles(n, 2, 0)
    y = 3.0 + shift(angles) + 0.3 * noise(n, 2, 1)
    mean = TorsionMean.fit(angles, y)
    assert mean is not None
    assert mean.harmonics >= 2, "one harmonic misses sin 2θ"
    there = uniform_angles(200, 2, 2)
    error = mean(there) - shift(there)
    assert float((error - error.mean(0)).square().mean().sqrt()) < 4 * 0.3 * math.sqrt(12 / n)
    residual = y - mean(angles)
    torch.testing.assert_close(residual.mean(0), y.mean(0))
    assert float(residual.std()) < 0.31


def test_the_mean_is_smooth_around_the_circle() -> None:
    mean = TorsionMean(noise(12, 3, 3), noise(1, 12, 4)[0], 3)
    angles = uniform_angles(20, 2, 5)
    torch.testing.assert_close(mean(angles + 2 * math.pi), mean(angles))
    cut = torch.tensor([[math.pi, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(mean(cut), mean(-cut * torch.tensor([1.0, -1.0])))


def test_frames_that_say_nothing_about_torsions() -> None:
    """Independent coordinates, few frames, correlated ones, or no torsions at all: nothing is taken off."""
    angles, y = uniform_angles(600, 3, 6), noise(600, 5, 7)
    assert TorsionMean.fit(angles, y) is None
    assert TorsionMean.fit(angles[:, :0], y) is None
    assert TorsionMean.fit(angles[:20], y[:20]) is None
    slow = torch.repeat_interleave(uniform_angles(12, 3, 8), 50, 0)
    assert TorsionMean.fit(slow, torch.repeat_interleave(noise(12, 5, 9), 50, 0) + 0.1 * y) is None


def test_a_torsion_that_hardly_turns() -> None:
    """Its harmonics are constants; the regression stays finite, and small where it has seen nothing."""
    n = 2000
    angles = uniform_angles(n, 2, 10)
    still = torch.cat([angles, 1e-4 * noise(n, 1, 11)], -1)
    y = shift(angles) + 0.3 * noise(n, 2, 12)
    mean = TorsionMean.fit(still, y)
    assert mean is not None
    far = still.clone()
    far[:, 2] = math.pi / 2
    assert float((mean(far) - mean(still)).abs().max()) < 0.1


@pytest.fixture(scope="module")
def ethanol() -> tuple[ZMatrix, Tensor]:
    """Ethanol whose bonds, angles and stiff torsions follow its two rotors."""
    n_atoms, bonds, heavy = GRAPHS["ethanol"]
    zmatrix, n = ZMatrix.from_bonds(n_atoms, bonds, heavy), 1500
    proper = torch.from_numpy(~zmatrix.improper[3:])
    turn = uniform_angles(n, n_atoms - 3, 13)
    follow = torch.cat([turn[:, proper].cos(), turn[:, proper].sin()], -1)
    parts = []
    for k, centre in enumerate(geometry(n_atoms, 1, 3)):
        width = 0.003 if k == 0 else 0.03
        mixing = noise(follow.shape[1], centre.shape[1], 20 + k)
        parts.append(centre + width * (noise(n, centre.shape[1], 14 + k) + follow @ mixing))
    return zmatrix, ZMatrixMap(zmatrix).to_cartesian(parts[0], parts[1], torch.where(proper, turn, parts[2]))


@pytest.fixture(scope="module")
def coordinates(ethanol: tuple[ZMatrix, Tensor]) -> InternalCoordinates:
    fitted = InternalCoordinates.fit(*ethanol, conditional=True)
    assert fitted.conditional is not None
    assert int(fitted.periodic.sum()) == 2
    return fitted


def test_latents_are_white_and_know_nothing_of_the_torsions(
    ethanol: tuple[ZMatrix, Tensor], coordinates: InternalCoordinates
) -> None:
    z = coordinates.to_z(ethanol[1])[0]
    real, angle = z[:, ~coordinates.periodic], z[:, coordinates.periodic]
    torch.testing.assert_close(torch.cov(real.T), torch.eye(real.shape[1], dtype=torch.float64))
    for wave in (torch.cos(angle), torch.sin(angle)):
        assert float((wave.T @ real / len(real)).abs().max()) < 0.01
    plain = InternalCoordinates.fit(*ethanol).to_z(ethanol[1])[0]
    assert float((torch.cos(angle).T @ plain[:, ~coordinates.periodic] / len(real)).abs().max()) > 0.2


def test_round_trip_and_jacobian(ethanol: tuple[ZMatrix, Tensor], coordinates: InternalCoordinates) -> None:
    z, inverse = coordinates.to_z(ethanol[1])
    x, log_det = coordinates.to_x(z)
    assert rigid_deviation(x, ethanol[1]) < 1e-9
    assert torch.allclose(log_det, -inverse, atol=1e-9)
    atom = coordinates.map.zmatrix.atom
    fixed = {(atom[0], 0), (atom[0], 1), (atom[0], 2), (atom[1], 1), (atom[1], 2), (atom[2], 2)}
    free = [i for i in range(27) if (i // 3, i % 3) not in fixed]
    point = z[0]
    slope = jacobian(lambda p: coordinates.to_x(p[None])[0].flatten()[free], point)
    value = torch.linalg.slogdet(slope).logabsdet
    value = value + 2 * torch.log(x[0, atom[1], 0]) + torch.log(x[0, atom[2], 1])
    assert float(log_det[0]) == pytest.approx(float(value), abs=1e-9)


def test_state(ethanol: tuple[ZMatrix, Tensor], coordinates: InternalCoordinates) -> None:
    x = ethanol[1][:50]
    again = coordinates_from_state(*coordinates.state())
    assert torch.equal(again.to_z(x)[0], coordinates.to_z(x)[0])
    tensors, metadata = InternalCoordinates.fit(*ethanol).state()
    assert "conditional" not in metadata, "as generators of earlier versions were written"
    assert not any(name.startswith("conditional") for name in tensors)


@pytest.mark.parametrize("pair", ["plain to conditional", "conditional to plain", "two conditional ones"])
def test_latents_of_one_map_become_those_of_another(
    ethanol: tuple[ZMatrix, Tensor], coordinates: InternalCoordinates, pair: str
) -> None:
    zmatrix, x = ethanol
    plain = InternalCoordinates.fit(zmatrix, x)
    first, second = {
        "plain to conditional": (plain, coordinates),
        "conditional to plain": (coordinates, plain),
        "two conditional ones": (coordinates, InternalCoordinates.fit(zmatrix, x[:700], conditional=True)),
    }[pair]
    change, back = change_latents(first, second), change_latents(second, first)
    z, log_det = first.to_z(x)
    expected, expected_log_det = second.to_z(x)
    difference = change(z) - expected
    assert float(torch.where(first.periodic, wrap(difference), difference).abs().max()) < 1e-8
    torch.testing.assert_close(expected_log_det - log_det, torch.full_like(log_det, change.log_det))
    noised = z + 5 * noise(*z.shape, 30)
    again = back(change(noised)) - noised
    assert float(torch.where(first.periodic, wrap(again), again).abs().max()) < 1e-9
