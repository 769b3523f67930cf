"""Compositions: what they are at rung 0, their scores, how they nest and are stored, what is refused."""

import math
from pathlib import Path

import pytest
import torch
from checks import level, seeded
from compositions import exact_product, first, planar, quadrature, rung, second
from ladders import torus_and_plane
from test_models import points, trained
from torch import Tensor

import bgdiff
from bgdiff.config import make_config
from bgdiff.coordinates import WhitenedCoordinates, change_latents
from bgdiff.errors import ConfigError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import load_tensors, save_tensors
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder
from bgdiff.models import (
    ChangedLatents,
    Composition,
    EnergyModel,
    GaussianModel,
    Mixture,
    ParticleNetwork,
    ParticleShape,
    Potential,
    Product,
    RungTarget,
    is_particle_model,
    log_density_and_score,
    mixture,
    negated,
    network_from_description,
    product,
    tempered,
)
from bgdiff.models.composition_parts import Normaliser

REAL = torch.zeros(2, dtype=torch.bool)
PLANE = 1.5 * torch.randn(40, 2, generator=seeded(1), dtype=torch.float64)


def clean(model: EnergyModel, z: Tensor = PLANE) -> Tensor:
    return model.log_density(z, level(0.0))


def test_products_are_what_they_say() -> None:
    one, two = first(), second()
    exact, log_z = exact_product(one, two)
    assert torch.allclose(clean(product(one, two)), log_z + clean(exact), atol=1e-10)
    assert torch.allclose(clean(tempered(one, 2.5)), 2.5 * clean(one))
    assert torch.allclose(clean(negated(one, two, 0.3)), clean(one) - 0.3 * clean(two))
    squared, log_z = exact_product(one, one)
    assert torch.allclose(clean(tempered(one, 2)), log_z + clean(squared), atol=1e-10)


def test_mixtures_are_what_they_say() -> None:
    """Of normalised parts, at every noise level; the parts' constants go by way of the normalisers."""
    one, two = first(), second()
    means, covariances = torch.cat([one.means, two.means]), torch.cat([one.covariances, two.covariances])
    whole = planar([0.1, 0.1, 0.4, 0.4], means.tolist(), covariances.tolist())
    levels = torch.tensor([0.0, 0.1, 0.4, 1.6], dtype=torch.float64)
    parts = torus_and_plane().parts

    class Shifted:
        periodic = one.periodic

        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            # linear in ln σ between levels, as tables are
            return two.log_density(z, sigma) + 2.0 * torch.log(sigma.clamp_min(0.1)) - 5.0 * (sigma == 0)

    constant = 2.0 * torch.log(levels.clamp_min(0.1)) - 5.0 * (levels == 0)
    shifted = mixture(one, Shifted(), weights=[1, 4], normalisers=[None, (levels, -constant)])
    for model in (mixture(one, two, weights=[1, 4]), shifted):
        for sigma in (0.0, 0.1, 0.25, 1.6):
            expected = whole.log_density(PLANE, level(sigma))
            assert torch.allclose(model.log_density(PLANE, level(sigma)), expected)
    z, weights = torus_and_plane().sample(30, seeded(2)), torus_and_plane().weights.tolist()
    assert torch.allclose(
        mixture(*parts, weights=weights).log_density(z, level(0.4)),
        torus_and_plane().log_density(z, level(0.4)),
    )


def test_rungs_of_normals_are_noised_exactly() -> None:
    """N(m, c/A + σ²) at every rung, up to a constant: what the ladder's noising steps make of rung 0."""
    part = GaussianModel(torch.tensor([0.3, -1.0]), torch.tensor([0.4, 0.4]))
    models = (
        tempered(part, 3.0),
        tempered(tempered(part, 2.0), 1.5),
        product(part, part, exponents=[4.0, -1.0]),
    )
    noised = GaussianModel(part.mean, part.variance / 3.0)
    for model in models:
        for sigma in (0.0, 0.5, 5.0):
            known = noised.log_density(PLANE, level(sigma))
            assert float((model.log_density(PLANE, level(sigma)) - known).std()) < 1e-9


def compositions() -> dict[str, Composition]:
    one, two = first(), second()
    restraint = Potential(lambda z: 0.5 * ((z[:, 1] - 0.4) / 0.3) ** 2, REAL, width=0.3)
    return {
        "product": product(one, two, exponents=[0.7, 1.6]),
        "negation": negated(one, two, 0.3),
        "mixture": mixture(one, two, weights=[0.3, 0.7], normalisers=[0.4, -0.2]),
        "restrained": product(one, restraint),
        "nested": product(tempered(mixture(one, two), 2.0), mixture(two, negated(one, two, 0.2))),
    }


@pytest.mark.parametrize("name", list(compositions()))
@pytest.mark.parametrize("sigma", [0.05, 1.3])
def test_scores_are_gradients(name: str, sigma: float) -> None:
    model, h = compositions()[name], 1e-5
    value, score = log_density_and_score(model, PLANE, level(sigma))
    assert torch.allclose(value, model.log_density(PLANE, level(sigma)), rtol=1e-12)
    shift = h * torch.eye(2, dtype=torch.float64)
    for i in range(2):
        up, down = (model.log_density(PLANE + sign * shift[i], level(sigma)) for sign in (1, -1))
        assert torch.allclose(score[:, i], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)
    target = model.target(*[None] * len(model.parts))
    value, score = target.log_density_and_score(PLANE)
    assert torch.allclose(value, clean(model))
    assert torch.allclose(target.log_density(PLANE), value)
    assert torch.allclose(score, log_density_and_score(model, PLANE, level(0.0))[1])


def test_levels_may_differ_by_row() -> None:
    levels = torch.linspace(0.05, 3.0, len(PLANE), dtype=torch.float64)
    for model in compositions().values():
        rows = [model.log_density(PLANE[i : i + 1], levels[i : i + 1]) for i in range(0, len(PLANE), 13)]
        assert torch.allclose(model.log_density(PLANE, levels)[::13], torch.cat(rows))


def test_targets_replace_the_parts_they_stand_for() -> None:
    one, two = first(), second()
    model = product(one, two, exponents=[2.0, -0.4])
    target = model.target(RungTarget(two), None)
    assert torch.allclose(target.log_density(PLANE), 1.6 * clean(two))
    mixed = mixture(one, two).target(RungTarget(two), RungTarget(one), normalisers=[math.log(3), 0.0])
    expected = torch.logaddexp(math.log(1.5) + clean(two), math.log(0.5) + clean(one))
    assert torch.allclose(mixed.log_density(PLANE), expected)


class Walled:
    """Impossible on the left."""

    def log_density(self, z: Tensor) -> Tensor:
        return torch.where(z[:, 0] < 0, -torch.inf, 0.0).to(torch.float64)

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_density(z), torch.full_like(z, torch.nan) * (z[:, :1] < 0)


def test_what_is_impossible_stays_so() -> None:
    one, two = first(), second()
    left = PLANE[:, 0] < 0
    for exponents in ([1.0, 1.0], [2.0, -0.5]):
        value, _ = (
            product(one, two, exponents=exponents).target(Walled(), Walled()).log_density_and_score(PLANE)
        )
        assert (value[left] == -torch.inf).all()
        assert torch.isfinite(value[~left]).all()
    value, score = mixture(one, two).target(None, Walled()).log_density_and_score(PLANE)
    assert torch.allclose(value[left], math.log(0.5) + clean(one)[left])
    assert torch.isfinite(value).all()
    assert torch.allclose(score[left], log_density_and_score(one, PLANE, level(0.0))[1][left])


def test_networks_are_stored_with_their_composition(tmp_path: Path) -> None:
    one, two = trained(seed=1), trained(seed=2)
    tables: list[Normaliser] = [(torch.tensor([0.0, 0.1, 1.0]), torch.tensor([0.3, 0.2, 0.7])), -1.5]
    model = product(
        mixture(one, tempered(two, 0.5), weights=[1, 3], normalisers=tables), two, exponents=[1, -0.3]
    )
    z = points(20, 3)
    file = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_tensors(file, tensors, {"model": model.describe()})
    state, stored = load_tensors(file)
    again = network_from_description(stored["model"])
    again.load_state_dict(state)
    assert isinstance(again, Product)
    assert isinstance(again.parts[0], Mixture)
    assert again.describe() == model.describe()
    for sigma in (0.02, 0.4, 9.0):
        assert torch.equal(again.log_density(z, level(sigma)), model.log_density(z, level(sigma)))
    assert again.sigma_max == model.sigma_max == pytest.approx(12.0 / math.sqrt(0.7))
    assert again.sigma_min == pytest.approx(0.04 / math.sqrt(1.4))


def test_a_generator_of_a_composition_survives_saving(tmp_path: Path) -> None:
    """Even with one network in two places."""
    system, network = bgdiff.load_system("double_well"), trained(REAL)
    model = mixture(tempered(network, 0.5), network, weights=[1, 2])
    sigma = noise_levels(3, 0.1, 8.0)
    ladder = Ladder(model, sigma, torch.ones(3, 2, dtype=torch.float64))
    coordinates = WhitenedCoordinates.fit(torch.randn(50, 1, 2, generator=seeded(6), dtype=torch.float64))
    config = make_config("quick", seed=0)
    generator = BoltzmannGenerator(system, coordinates, ladder, torch.zeros(4), sigma.clone(), config)
    generator.save(tmp_path / "generator.safetensors")
    again = BoltzmannGenerator.load(tmp_path / "generator.safetensors", system).ladder.model
    assert torch.equal(again.log_density(PLANE, level(0.5)), model.log_density(PLANE, level(0.5)))


def test_networks_can_be_trained_together() -> None:
    one, two = trained(seed=1), trained(seed=2)
    model = mixture(product(one, two), two)
    value, score = log_density_and_score(model, points(6, 4), level(0.3), create_graph=True)
    (value.sum() + score.square().sum()).backward()
    assert all(part.leave.weight.grad is not None for part in (one, two))
    value, score = log_density_and_score(model, points(6, 4), level(0.3))
    assert not value.requires_grad
    assert not score.requires_grad


def test_symmetry_is_kept() -> None:
    """A composition of networks of the same particles is one of these particles."""
    shape = ParticleShape(
        radial=4, scalars=2, vectors=2, tensors=1, messages=1, width=8, depth=1, embedding=4
    )
    types = torch.tensor([0, 0, 1])
    one, two, other = (
        ParticleNetwork((3, 2), kinds, 1.0, 0.1, 5.0, shape) for kinds in (types, types, types * 0)
    )
    same = product(one, tempered(two, 0.5))
    assert is_particle_model(same)
    assert same.event_shape == (3, 2)
    assert torch.equal(same.types, types)
    assert not is_particle_model(product(one, other))
    assert not is_particle_model(product(one, GaussianModel(torch.zeros(4), torch.ones(4))))


def test_models_on_other_latents() -> None:
    """Two whitenings of the same plane: the same density of conformations."""
    x = torch.randn(300, 1, 2, generator=seeded(5), dtype=torch.float64)
    ours, theirs = WhitenedCoordinates.fit(x), WhitenedCoordinates.fit(1.2 * x + 0.2 * x.flip(2) - 0.3)
    model = ChangedLatents(second(), change_latents(ours, theirs))
    x, log_det = ours.to_x(PLANE)
    there, back = theirs.to_z(x)
    expected = second().log_density(there, level(0.2)) + back + log_det
    assert torch.allclose(model.log_density(PLANE, level(0.2)), expected)
    log_z, _ = quadrature(rung(model, 0.2))
    assert log_z == pytest.approx(0.0, abs=1e-6)


def test_a_potential_fades() -> None:
    restraint = Potential(lambda z: z[:, 0] ** 2, REAL, width=0.5)
    assert torch.allclose(clean(restraint), -(PLANE[:, 0] ** 2))
    assert torch.allclose(restraint.log_density(PLANE, level(0.5)), -(PLANE[:, 0] ** 2) / 4)
    top = product(first(), restraint).log_density(PLANE, level(20.0)) - first().log_density(
        PLANE, level(20.0)
    )
    assert float(top.abs().max()) < 1e-4
    with pytest.raises(ConfigError, match="width of a potential"):
        Potential(lambda z: z[:, 0], REAL, width=0.0)


def test_what_cannot_be_composed_is_refused() -> None:
    one, torus, network = first(), torus_and_plane(), trained()
    angle = GaussianModel(torch.zeros(1), torch.ones(1), torch.tensor([True]))
    restraint = Potential(lambda z: z[:, 0] ** 2, REAL)
    with pytest.raises(ConfigError, match="same axes: part 0 has 2, 0 of them periodic; part 1 has 4, 2 of"):
        product(one, torus)
    with pytest.raises(ConfigError, match=r"exponents of a product sum to -0\.2"):
        negated(one, one, 1.2)
    with pytest.raises(ConfigError, match="sum to 0 "):
        product(restraint)
    assert negated(angle, angle, 3.0).noise_scale == 1.0  # angles need no tails
    with pytest.raises(ConfigError, match="exponent of a product is 0"):
        product(one, one, exponents=[1, 0])
    with pytest.raises(ConfigError, match="3 exponents do not belong to 2 parts"):
        product(one, one, exponents=[1, 1, 1])
    with pytest.raises(ConfigError, match="beta must be positive"):
        tempered(one, -1.0)
    with pytest.raises(ConfigError, match="gamma must be positive"):
        negated(one, one, -0.5)
    with pytest.raises(ConfigError, match="weights of a mixture must be positive"):
        mixture(one, one, weights=[1, 0])
    with pytest.raises(ConfigError, match="part 1 of a mixture is a potential"):
        mixture(one, restraint)
    with pytest.raises(ConfigError, match="mixture of 2 parts has 1 normalisers"):
        mixture(one, one, normalisers=[0.0])
    zeros, nan = torch.zeros(2), torch.tensor([0.0, math.nan])
    for table in ((zeros, zeros), (torch.tensor([0.1, 0.2]), nan), (torch.ones(2), torch.ones(3))):
        with pytest.raises(ConfigError, match="normalisers"):
            mixture(one, one, normalisers=[table, None])
    with pytest.raises(ConfigError, match=r"no noise level in common: 0\.02 to 12; 0\.0002 to 0\.012"):
        product(network, _Narrow(network))
    with pytest.raises(
        ConfigError, match="part 1 of a product is a GaussianMixtureModel, which cannot be st"
    ):
        product(tempered(one, 2.0), one).describe()
    with pytest.raises(ConfigError, match=r"part 0 \(EnergyNetwork\) is not known without noise"):
        product(network, network).target(None, None)
    with pytest.raises(ConfigError, match="1 targets do not belong to the 2 parts"):
        product(one, one).target(None)
    with pytest.raises(ConfigError, match="a product needs at least one part"):
        product()


class _Narrow:
    def __init__(self, model: EnergyModel) -> None:
        self.periodic, self.sigma_min, self.sigma_max = model.periodic, 2e-4, 0.012

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return -sigma * z.square().sum(1)
