"""The target in latent coordinates: finite differences, the virial identity, impossible geometries."""

import math

import mdtraj
import pytest
import torch
from checks import assert_standard, seeded
from torch import Tensor

from bgdiff.coordinates import LatentTarget, WhitenedCoordinates
from bgdiff.preparation import fit_coordinates
from bgdiff.systems import System, load_system
from bgdiff.targets.double_well import DoubleWell

NAMES = ["alanine_dipeptide_obc1", "alanine_dipeptide_vacuum", "double_well"]


@pytest.fixture(scope="module")
def molecule() -> System:
    return load_system(NAMES[0])


@pytest.fixture(scope="module")
def frames(molecule: System) -> Tensor:
    """Every second frame of the shipped data, in order of time."""
    assert molecule.data_path is not None
    trajectory = mdtraj.load(str(molecule.data_path), top=molecule.topology, stride=2)
    return torch.from_numpy(trajectory.xyz).to(torch.float64)


@pytest.fixture(scope="module")
def latent(molecule: System, frames: Tensor) -> LatentTarget:
    return LatentTarget(molecule.target, fit_coordinates(molecule, frames[::5]))


def finite_differences(latent: LatentTarget, z: Tensor, step: float) -> Tensor:
    """Fourth-order central differences of the log density, row by row."""
    gradient = torch.zeros_like(z)
    d = z.shape[1]
    shifts = step * torch.eye(d, dtype=torch.float64)
    for row in range(len(z)):
        value = {m: latent.log_density(z[row] + m * shifts) for m in (-2, -1, 1, 2)}
        gradient[row] = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * step)
    return gradient


def test_gradient_of_the_molecule(latent: LatentTarget, frames: Tensor) -> None:
    """All 60 axes, periodic ones included, at data and between them."""
    z = latent.coordinates.to_z(frames[::3000])[0]
    z[::2, :55] += 0.3 * torch.randn(z[::2, :55].shape, generator=seeded(0), dtype=torch.float64)
    value, score = latent.log_density_and_score(z)
    assert torch.allclose(value, latent.log_density(z), rtol=1e-12)
    numerical = finite_differences(latent, z, 1e-3)
    assert torch.allclose(score, numerical, rtol=1e-5, atol=1e-4)


def test_energy_of_the_molecule(molecule: System, latent: LatentTarget, frames: Tensor) -> None:
    """Up to the Jacobian, the latent density is minus the energy of the frames themselves."""
    x = frames[:50]
    z, log_det = latent.coordinates.to_z(x)
    value, rebuilt = latent.log_density_and_x(z)
    assert torch.allclose(value, -molecule.target.energy(x) - log_det, atol=1e-6)
    assert rebuilt.shape == x.shape


def test_gradient_of_the_double_well() -> None:
    x = torch.randn(200, 1, 2, generator=seeded(1), dtype=torch.float64)
    latent = LatentTarget(DoubleWell(0.7, -3.0, 1.0), WhitenedCoordinates.fit(x))
    z = torch.randn(10, 2, generator=seeded(2), dtype=torch.float64)
    score = latent.log_density_and_score(z)[1]
    assert torch.allclose(score, finite_differences(latent, z, 1e-3), rtol=1e-8, atol=1e-8)


def block_scores(values: Tensor, truth: float, blocks: int) -> Tensor:
    """z-scores of means over consecutive frames, whose neighbours are correlated."""
    means = values[: len(values) // blocks * blocks].reshape(blocks, -1, *values.shape[1:]).mean(1)
    return (means.mean(0) - truth) / (means.std(0) / math.sqrt(blocks))


def test_virial_identity_on_the_molecule(latent: LatentTarget, frames: Tensor) -> None:
    """E[z_i ∂_i log p] = -1 on every real axis, over molecular dynamics that never saw these coordinates."""
    z = latent.coordinates.to_z(frames)[0]
    score = latent.log_density_and_score(z)[1]
    virial = (z * score)[:, :55]
    each = block_scores(virial, -1.0, 80)
    assert (each.abs() < 4).all(), each
    assert abs(float(block_scores(virial.sum(-1), -55.0, 80))) < 4
    # on the circle the boundary term is absent only for periodic functions: E[f' + f ∂ log p] = 0
    angle, torque = z[:, 55:], score[:, 55:]
    periodic = torch.cat([torch.cos(angle) + torch.sin(angle) * torque, torque], -1)
    assert (block_scores(periodic, 0.0, 80).abs() < 4).all()


def test_virial_identity_on_the_double_well() -> None:
    system = load_system("double_well")
    x = system.load_data().x
    latent = LatentTarget(system.target, fit_coordinates(system, x))
    z = latent.coordinates.to_z(x)[0]
    scores = block_scores(z * latent.log_density_and_score(z)[1], -1.0, 60)
    assert (scores.abs() < 4).all(), scores


class Faulty:
    """u(x) = 1 + |x|²/2, with a chosen value in the rows whose first coordinate is positive."""

    event_shape = (1, 2)

    def __init__(self, value: float) -> None:
        self.value = value
        self.rows_seen = 0

    def energy(self, x: Tensor) -> Tensor:
        self.rows_seen += len(x)
        energy = 1 + 0.5 * (x**2).sum((1, 2))
        return torch.where(x[:, 0, 0] > 0, self.value, energy)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        force = torch.where(x[:, :1, :1] > 0, self.value, -x)
        return self.energy(x), force


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_energy_that_is_not_finite_has_density_zero(value: float) -> None:
    """And leaves the other rows, and their gradients, alone."""
    data = torch.randn(200, 1, 2, generator=seeded(3), dtype=torch.float64)
    z = torch.randn(40, 2, generator=seeded(4), dtype=torch.float64)
    latent = LatentTarget(Faulty(value), WhitenedCoordinates.fit(data))
    bad = latent.coordinates.to_x(z)[0][:, 0, 0] > 0
    assert 0 < int(bad.sum()) < 40
    log_density = latent.log_density(z)
    assert (log_density[bad] == -math.inf).all()
    assert torch.isfinite(log_density[~bad]).all()
    with_score, score = latent.log_density_and_score(z)
    assert torch.equal(with_score, log_density)
    sound = LatentTarget(Faulty(1.0), latent.coordinates)
    assert torch.equal(score[~bad], sound.log_density_and_score(z[~bad])[1])


def test_impossible_geometries_have_density_zero(latent: LatentTarget, frames: Tensor) -> None:
    z = latent.coordinates.to_z(frames[:4])[0]
    z[1, :21] = -60.0  # bonds far below zero
    value = latent.log_density(z)
    with_score, score = latent.log_density_and_score(z)
    assert value[1] == -math.inf
    assert torch.isfinite(value[[0, 2, 3]]).all()
    assert torch.equal(with_score, value)
    assert torch.allclose(score[[0, 2, 3]], latent.log_density_and_score(z[[0, 2, 3]])[1], rtol=1e-12)


def test_the_target_is_asked_once_per_possible_geometry(latent: LatentTarget, frames: Tensor) -> None:
    calls = []

    class Counting:
        event_shape = (22, 3)

        def energy(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return torch.zeros(len(x), dtype=torch.float64)

        def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.energy(x), torch.zeros_like(x)

    counted = LatentTarget(Counting(), latent.coordinates)
    z = latent.coordinates.to_z(frames[:5])[0]
    counted.log_density(z)
    z[2, :21] = -60.0
    counted.log_density(z)
    z[:, :21] = -60.0
    assert (counted.log_density(z) == -math.inf).all()
    assert calls == [5, 4]


def test_single_precision_latents_are_evaluated_in_double(latent: LatentTarget, frames: Tensor) -> None:
    z = latent.coordinates.to_z(frames[:3])[0].to(torch.float32)
    value, score = latent.log_density_and_score(z)
    assert value.dtype == score.dtype == torch.float64
    assert torch.equal(value, latent.log_density(z.to(torch.float64)))


def test_z_scores_of_the_virial_are_calibrated() -> None:
    """The same statistics on exact samples of a Gaussian have z-scores of mean 0 and deviation 1."""
    z = torch.randn(400, 80, 50, generator=seeded(5), dtype=torch.float64)
    scores = torch.stack([block_scores(-(run.reshape(-1, 1) ** 2), -1.0, 80)[0] for run in z])
    assert_standard(scores)
