"""Jarzynski weights are exact at any step size; the likelihood's gradient from them is the true one."""

import math
from collections.abc import Sequence

import pytest
import torch
from checks import seeded, z_scores
from objective_families import Gaussian, problem, setup
from torch import Tensor

from bgdiff.errors import ConfigError, DataError
from bgdiff.ladder.densities import State
from bgdiff.ladder.resampling import effective_size, log_mean_weight
from bgdiff.models import GaussianModel
from bgdiff.objectives.jarzynski import Jarzynski, Walkers, arrive, depart, resample
from bgdiff.objectives.langevin import RungsDensity
from bgdiff.objectives.registry import check_options, make_objective

REAL = torch.zeros(1, dtype=torch.bool)
STEPS = [0.01, 0.05, 0.1, 0.2]


class Spring:
    """U = ½ k x²."""

    periodic = REAL

    def __init__(self, k: float) -> None:
        self.k = k

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return -0.5 * self.k * z[:, 0] ** 2


class Rotor:
    """U = -k cos(φ - a) on the circle; Z = 2π I_0(k)."""

    periodic = torch.ones(1, dtype=torch.bool)

    def __init__(self, k: float) -> None:
        self.k = k

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.k * torch.cos(z[:, 0] - 1.0)


def protocol(
    models: Sequence[Spring | Rotor], z: Tensor, h: float, seed: int, *, adjust: bool = False, groups: int = 0
) -> tuple[State, Tensor, Tensor]:
    """Drive walkers ``(n, 1)`` from the first energy to the last: final state, A, and the naive work.

    ``groups`` > 0 resamples that many populations of equal size when their effective size falls below 0.95.
    """
    generator, sigma = seeded(seed), torch.ones(len(z), dtype=torch.float64)
    length = torch.full_like(z, math.sqrt(2 * h))
    density = RungsDensity(models[0], sigma)
    state, log_weight, naive = density.evaluate(z), torch.zeros_like(z[:, 0]), torch.zeros_like(z[:, 0])
    for model in models[1:]:
        old, density = density, RungsDensity(model, sigma)
        walkers = depart(state, log_weight, length, old, generator, adjust=adjust)
        before = old.evaluate(walkers.z).log_density
        state = density.evaluate(walkers.z)
        log_weight = arrive(walkers, state, model.periodic)
        naive = naive + state.log_density - before
        if groups:
            rows, kept = resample(log_weight.reshape(groups, -1), 0.95, generator)
            m = rows.shape[1]
            state = state.take((rows + m * torch.arange(groups)[:, None]).flatten())
            log_weight = kept.flatten()
    return state, log_weight, naive


def springs(n: int) -> list[Spring]:
    return [Spring(1 + 3 * i / n) for i in range(n + 1)]


@pytest.mark.parametrize("h", STEPS)
def test_normaliser_of_a_stiffening_spring(h: float) -> None:
    """U = ½ k x², k: 1 → 4: log Z_k/Z_0 = -log 2, and averages under the last energy, at every step size."""
    z = torch.randn(20_000, 1, generator=seeded(1), dtype=torch.float64)
    state, log_weight, naive = protocol(springs(40), z, h, 2)
    weight = log_weight.exp()
    error = weight.std() / (weight.mean() * math.sqrt(len(weight)))
    assert float(error) < 0.02
    assert abs(float((weight.mean().log() + math.log(2)) / error)) < 4
    # E[x² e^A] = Z_k/Z_0 · 1/k
    assert abs(float(z_scores(weight * state.z[:, 0] ** 2, 0.5 * 0.25))) < 4
    # work of continuous time, as if the step left the density invariant
    bias = abs(float(z_scores(naive.exp(), 0.5)))
    assert bias > 8 if h >= 0.1 else math.isfinite(bias)


def test_metropolised_and_periodic_walkers() -> None:
    """Moves that leave the old density invariant; and unadjusted steps on the circle."""
    z = torch.randn(20_000, 1, generator=seeded(3), dtype=torch.float64)
    state, log_weight, naive = protocol(springs(40), z, 0.2, 4, adjust=True)
    assert torch.equal(log_weight, naive)  # here the naive work is right
    assert abs(float(z_scores(log_weight.exp(), 0.5))) < 4
    assert abs(float(z_scores(log_weight.exp() * state.z[:, 0] ** 2, 0.125))) < 4

    angle = (2 * torch.rand(20_000, 1, generator=seeded(5), dtype=torch.float64) - 1) * math.pi
    k = torch.tensor(2.0, dtype=torch.float64)
    rotors = [Rotor(2 * i / 20) for i in range(21)]
    state, log_weight, naive = protocol(rotors, angle, 0.3, 6)
    assert abs(float(z_scores(log_weight.exp(), torch.special.i0(k)))) < 4
    aligned = log_weight.exp() * torch.cos(state.z[:, 0] - 1.0)
    assert abs(float(z_scores(aligned, torch.special.i1(k)))) < 4
    assert abs(float(z_scores(naive.exp(), torch.special.i0(k)))) > 8


def test_resampling_keeps_normalisers_unbiased() -> None:
    populations, m = 200, 64
    z = torch.randn(populations * m, 1, generator=seeded(7), dtype=torch.float64)
    state, log_weight, _ = protocol(springs(20), z, 0.1, 8, groups=populations)
    weight = log_weight.exp().reshape(populations, m)
    assert abs(float(z_scores(weight.mean(1), 0.5))) < 4
    moment = (log_weight.exp() * state.z[:, 0] ** 2).reshape(populations, m).mean(1)
    assert abs(float(z_scores(moment, 0.125))) < 4
    without = protocol(springs(20), z, 0.1, 8)[1].reshape(populations, m)
    sizes = [sum(map(effective_size, a)) / (populations * m) for a in (weight.log(), without)]
    assert sizes[0] > 0.92 > 0.88 > sizes[1]


def test_resample_by_threshold() -> None:
    log_weight = torch.log(torch.tensor([[1.0, 1.0, 1.1, 0.9], [1e-3, 1e-3, 4.0, 1e-3]], dtype=torch.float64))
    rows, kept = resample(log_weight, 0.5, seeded(9))
    assert torch.equal(rows[0], torch.arange(4))
    assert torch.equal(kept[0], log_weight[0])
    assert int((rows[1] == 2).sum()) >= 3
    assert torch.allclose(kept[1], log_mean_weight(log_weight[1]).expand(4))


MEAN, VARIANCE = torch.tensor([0.4, -0.2]), torch.tensor([0.6, 1.3])
SIGMA = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def truth(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of -E[log p], averaged over rungs, for data of θ = 0, of the normalised model."""
    at = theta.clone().requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for sigma in SIGMA[1:]:
        v, true = VARIANCE[0] * at[1].exp() + sigma**2, VARIANCE[0] + sigma**2
        total = total + 0.5 * ((true + at[0] ** 2) / v + v.log())
    total = total / (len(SIGMA) - 1)
    return total.detach(), torch.autograd.grad(total, at)[0]


@pytest.mark.parametrize(("kernel", "step"), [("ula", 0.9), ("mala", 0.9)])
def test_gradient_while_the_model_changes(kernel: str, step: float) -> None:
    """As in training: the parameters change between visits, the gradient stays that of the likelihood."""
    data = GaussianModel(MEAN, VARIANCE)
    options = {"walkers": 800, "kernel": kernel, "step": step, "rungs": 2}
    path = [torch.tensor([0.5 * s, 0.6 * s], dtype=torch.float64) for s in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    last, objectives, rows = path[-1], [], []
    for repeat in range(20):
        objective = make_objective("jarzynski", setup(Gaussian(MEAN, VARIANCE), SIGMA, repeat), options)
        assert isinstance(objective, Jarzynski)
        for index, theta in enumerate(path):
            at = theta.clone().requires_grad_(True)
            model = Gaussian(MEAN, VARIANCE, at)
            seed = 100 * repeat + index
            loss = objective.loss(problem(model, data.sample(400, seeded(seed)), SIGMA, seed))
        rows.append(torch.autograd.grad(loss, at)[0])
        objectives.append(objective)
    gradient = torch.stack(rows)
    _, expected = truth(last)
    assert (z_scores(gradient, expected).abs() < 4).all()
    assert float(z_scores(gradient, 0.0).abs().max()) > 8
    # the running normalisers: of the unnormalised model relative to the prior, per axis √((v+σ²)/(1+σ²))
    for k in (1, 2):
        model = Gaussian(MEAN, VARIANCE, last)
        ratio = 0.5 * torch.log((model.variance + SIGMA[k] ** 2) * 2 * math.pi).sum()
        estimates = torch.stack([objective.log_normalisers()[k] for objective in objectives]).exp()
        assert abs(float(z_scores(estimates, ratio.exp()))) < 4


def test_gradient_vanishes_at_the_truth() -> None:
    data = GaussianModel(MEAN, VARIANCE)
    rows = []
    for repeat in range(20):
        made_for = setup(Gaussian(MEAN, VARIANCE), SIGMA, repeat)
        objective = make_objective("jarzynski", made_for, {"walkers": 600})
        at = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        for index in range(2):
            points = data.sample(400, seeded(repeat))
            loss = objective.loss(problem(Gaussian(MEAN, VARIANCE, at), points, SIGMA, 50 * repeat + index))
        rows.append(torch.autograd.grad(loss, at)[0])
    assert (z_scores(torch.stack(rows), 0.0).abs() < 4).all()


def test_state_is_kept_in_training_alone_and_restored() -> None:
    """Two objectives with the same state give the same next loss; looking changes nothing."""
    data = GaussianModel(MEAN, VARIANCE)
    model = Gaussian(MEAN, VARIANCE)

    def look(objective: object, seed: int) -> float:
        seen = problem(model, data.sample(50, seeded(seed)), SIGMA, seed, create_graph=False)
        return float(objective.loss(seen))  # type: ignore[attr-defined]

    first = make_objective("jarzynski", setup(model, SIGMA, 1), {"walkers": 16})
    other = make_objective("jarzynski", setup(model, SIGMA, 2), {"walkers": 16})
    before = look(first, 3)
    stored = {name: value.clone() for name, value in first.state_dict().items()}
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in stored.items())
    other.load_state_dict(stored)
    first.eval()
    assert look(first, 4) == look(first, 4)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in stored.items())
    assert look(first, 4) == look(other, 4) != before


def test_lost_walkers_are_reported() -> None:
    model = Gaussian(MEAN, VARIANCE)
    objective = make_objective("jarzynski", setup(model, SIGMA), {"walkers": 4})
    assert isinstance(objective, Jarzynski)
    objective.log_weight[2] = -math.inf
    with pytest.raises(DataError, match="rung 2"):
        objective.loss(problem(model, torch.zeros(50, 2, dtype=torch.float64), SIGMA, 5))


@pytest.mark.parametrize("wrong", [{"walkers": 1}, {"kernel": "hmc"}, {"step": 0}, {"threshold": 2}])
def test_options_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"jarzynski.{next(iter(wrong))}"):
        check_options("jarzynski", wrong)


def test_walkers_have_their_length_back() -> None:
    """The way back is taken with the length of the way there, whatever moves come later."""
    state = RungsDensity(Spring(1.0), torch.ones(3, dtype=torch.float64)).evaluate(torch.ones(3, 1).double())
    density = RungsDensity(Spring(1.0), torch.ones(3, dtype=torch.float64))
    length = torch.full((3, 1), 0.5).double()
    walkers = depart(state, torch.zeros(3).double(), length, density, seeded(1), adjust=False)
    assert isinstance(walkers, Walkers)
    after = density.evaluate(walkers.z)
    # p(x) q(x → y) e^A = p(y) q(y → x), here both kernels with ℓ = ½
    there, back = walkers.z - state.z * (1 - 0.125), state.z - walkers.z * (1 - 0.125)
    expected = after.log_density - state.log_density + 0.5 * (there**2 - back**2)[:, 0] / 0.25
    assert torch.allclose(arrive(walkers, after, REAL), expected)
