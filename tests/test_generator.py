"""The Python interface, and the exactness of what it returns."""

from pathlib import Path

import numpy as np
import pytest
import torch

import bgdiff
from bgdiff.errors import CheckpointError, ConfigError
from bgdiff.generator import BoltzmannGenerator, Proposal
from bgdiff.ladder.paths import Paths
from bgdiff.preparation import fit_coordinates


@pytest.fixture(scope="module")
def trained() -> BoltzmannGenerator:
    system = bgdiff.load_system("double_well")
    overrides = {"training": {"steps": 600, "learning_rate": 2e-3}, "network": {"width": 64, "depth": 2}}
    return bgdiff.train(system, system.load_data(), preset="quick", seed=2, overrides=overrides)


def test_double_well_is_corrected_to_the_exact_answer(trained: BoltzmannGenerator) -> None:
    """The data set's populations are wrong; ΔF and log Z are right within their own errors."""
    ensemble = trained.sample(4000, seed=9).reweight()
    assert ensemble.ess > 0.5
    difference = ensemble.free_energy_difference(trained.system.differences[0].name)
    assert abs(difference.value - 2.629382) < 4 * difference.std_error < 0.5
    log_z = ensemble.log_z
    assert abs(log_z.value - 5.951223) < 4 * log_z.std_error < 0.2


def test_samples_depend_on_the_seed_alone(trained: BoltzmannGenerator) -> None:
    first, again, other = (trained.sample(30, seed=seed).paths.z for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_survives_saving(trained: BoltzmannGenerator, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    trained.save(path)
    loaded = BoltzmannGenerator.load(path, trained.system)
    assert torch.equal(trained.sample(50, seed=3).paths.log_ratio, loaded.sample(50, seed=3).paths.log_ratio)
    assert loaded.config == trained.config


def test_a_generator_of_another_system_is_refused(trained: BoltzmannGenerator, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    trained.save(path)
    with pytest.raises(CheckpointError, match="another density \\(double_well\\)"):
        BoltzmannGenerator.load(path, bgdiff.load_system("alanine_dipeptide_vacuum"))


def test_wrong_requests_are_refused(trained: BoltzmannGenerator) -> None:
    with pytest.raises(ConfigError, match="positive"):
        trained.sample(0)
    ensemble = trained.sample(10, seed=0).reweight()
    with pytest.raises(ConfigError, match="no free-energy difference 'psi'"):
        ensemble.free_energy_difference("psi")
    with pytest.raises(ConfigError, match="neither a molecule nor a cluster"):
        ensemble.trajectory()


def test_impossible_geometries_get_weight_zero_and_are_counted() -> None:
    system = bgdiff.load_system("alanine_dipeptide_vacuum")
    data = system.load_data()
    coordinates = fit_coordinates(system, data.x)
    z, _ = coordinates.to_z(data.x[:6])
    z[1] *= 100  # negative bonds, angles beyond π
    z[3, 0] = torch.nan
    zero = torch.zeros(6, dtype=torch.float64)
    ensemble = Proposal(system, coordinates, Paths(z, zero, z, zero)).reweight()
    assert np.isneginf(ensemble.log_weight[[1, 3]]).all()
    assert np.isfinite(ensemble.log_weight[[0, 2, 4, 5]]).all()
    assert ensemble.diagnostics.n_nonfinite == 2
    assert (ensemble.weights[[1, 3]] == 0).all()
    assert np.isposinf(ensemble.energy[[1, 3]]).all()


def test_reweighting_the_target_to_itself_is_the_energy() -> None:
    """With a zero path ratio the log weight is the latent log density, and the energy is the target's."""
    system = bgdiff.load_system("alanine_dipeptide_vacuum")
    data = system.load_data()
    coordinates = fit_coordinates(system, data.x)
    z, log_det = coordinates.to_z(data.x[:5])
    zero = torch.zeros(5, dtype=torch.float64)
    ensemble = Proposal(system, coordinates, Paths(z, zero, z, zero)).reweight()
    energy = system.target.energy(data.x[:5])
    np.testing.assert_allclose(ensemble.energy, energy, atol=1e-7)
    np.testing.assert_allclose(ensemble.log_weight, -energy - log_det, atol=1e-7)
