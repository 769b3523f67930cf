"""The objectives made for one density, on the program's own networks, in float32 and in the trainer."""

from pathlib import Path

import pytest
import torch
from checks import seeded
from objective_families import problem
from test_training import make_trainer, small
from test_training_terms import assert_same_training

from bgdiff.ladder.levels import noise_levels
from bgdiff.models import EnergyNetwork, NetworkShape, ParticleNetwork, ParticleShape
from bgdiff.models.base import Network
from bgdiff.objectives.base import Setup
from bgdiff.objectives.registry import make_objective

OPTIONS: dict[str, dict[str, object]] = {
    "sliced_score": {},
    "deen": {},
    "energy_discrepancy": {},
    "contrastive_divergence": {"chains": 8},
    "jarzynski": {"walkers": 8, "rungs": 4},
    "diffebm": {"steps": 4, "paths": 16, "width": 16, "depth": 1},
}
SIGMA = noise_levels(6, 0.1, 4.0)


def torsions() -> Network:
    return EnergyNetwork(torch.tensor([False, False, True]), 0.1, 4.0, NetworkShape(16, 1, 2))


def particles() -> Network:
    shape = ParticleShape(8, 5.5, 8, 4, 2, 4, 16, 1, 16)
    return ParticleNetwork((4, 2), torch.zeros(4, dtype=torch.int64), 1.0, 0.1, 4.0, shape)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("make", [torsions, particles])
def test_gradients_on_networks(make: type[Network], name: str) -> None:
    """Finite, felt by the network and by the objective's own parameters; none where none is asked for."""
    torch.manual_seed(3)
    model = make()
    with torch.no_grad():  # past the zeros that networks start from
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    d = len(model.periodic)
    data = torch.randn(64, d, generator=seeded(1))
    setup = Setup(model, SIGMA, torch.full((d,), 0.8), data, None, 64, seeded(2))
    objective = make_objective(name, setup, OPTIONS[name])
    for seed in range(2):
        loss = objective.loss(problem(model, data, SIGMA, seed))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert sum(float(g.abs().max()) > 0 for g in gradients) > len(gradients) / 2
    own = [p.grad for p in objective.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in own)
    objective.eval()
    looked = objective.loss(problem(model, data, SIGMA, 7, create_graph=False))
    assert not looked.requires_grad
    assert torch.allclose(looked, objective.loss(problem(model, data, SIGMA, 7)), rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_ends_the_same(tmp_path: Path) -> None:
    """All of them at once: chains, walkers with their weights, and the generator are taken up."""
    terms = dict.fromkeys(OPTIONS, 0.1) | {"mixed_score": 1.0}
    config = small(
        6, evaluate_every=6, log_every=3, batch_size=64, objectives=terms, objective_options=OPTIONS
    )
    whole = make_trainer(config)
    whole.run()
    first = make_trainer(config)
    for _ in range(4):
        first.step()
    first.save(tmp_path / "checkpoint.safetensors")
    second = make_trainer(config)
    second.load(tmp_path / "checkpoint.safetensors")
    second.run()
    assert_same_training(whole, second)
    for name in OPTIONS:
        ours, theirs = (t.objectives[name].state_dict() for t in (whole, second))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert all(f"held_out_{name}" in whole.history[-1] for name in OPTIONS)
