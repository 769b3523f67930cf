"""Every registered objective trains: on the double well, from a spoiled network, for a moment."""

import pytest
import torch

from bgdiff.config import make_config
from bgdiff.coordinates import LatentTarget, WhitenedCoordinates
from bgdiff.models import EnergyNetwork
from bgdiff.objectives import OBJECTIVES
from bgdiff.random import generator_for
from bgdiff.targets.double_well import DoubleWell
from bgdiff.training import Trainer
from bgdiff.training_data import TrainingData, label

Prepared = tuple[WhitenedCoordinates, LatentTarget, TrainingData, TrainingData]

WELL = DoubleWell(0.3, -4.0, 1.0)


@pytest.fixture(scope="module")
def data() -> Prepared:
    """Exact samples: x by inversion of its distribution on a fine grid, y normal."""
    generator = generator_for(0, "double well")
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    u = WELL.energy(torch.stack([grid, torch.zeros_like(grid)], -1)[:, None])
    rows = torch.multinomial((-u).exp(), 3000, replacement=True, generator=generator)
    jitter = (torch.rand(3000, generator=generator, dtype=torch.float64) - 0.5) * float(grid[1] - grid[0])
    y = torch.randn(3000, generator=generator, dtype=torch.float64)
    x = torch.stack([grid[rows] + jitter, y], -1)[:, None]
    coordinates = WhitenedCoordinates.fit(x)
    latent = LatentTarget(WELL, coordinates)
    parts = [label(latent, x[part], torch.zeros(3000)[part]) for part in (slice(0, 2500), slice(2500, None))]
    return coordinates, latent, parts[0], parts[1]


def trainer_on(data: Prepared, objectives: dict[str, float]) -> Trainer:
    """A small network that starts far from the data; terms that are not named are left out."""
    coordinates, latent, training, held_out = data
    config = make_config(
        "quick",
        overrides={
            "network": {"width": 24, "depth": 1},
            "ladder": {"n_training_rungs": 24, "sigma_min": 0.2, "sigma_max": 6.0},
            "training": {
                "objectives": {"mixed_score": 0, "bi_level": 0, **objectives},
                "learning_rate": 5e-3,
                "steps": 40,
                "batch_size": 128,
                "reach": 1.0,
                "warm_up": 5,
                "ema": 0.9,
                "evaluate_every": 1000,
            },
        },
    )
    trainer = Trainer(training, held_out, coordinates, config, latent)
    assert isinstance(trainer.model, EnergyNetwork)
    with torch.no_grad():
        trainer.model.leave.weight.normal_(std=0.3, generator=generator_for(1, "spoil"))
        trainer.average.load_state_dict(trainer.model.state_dict())
    return trainer


# Its generator has to learn first what the energy says.
SLOW = {"diffebm"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_trains(name: str, data: Prepared) -> None:
    """It lowers its loss on held-out data and brings the energy nearer to the truth; alone if it can."""
    entry = OBJECTIVES[name]
    trainer = trainer_on(data, {name: 1.0} if entry.trains_energy else {"mixed_score": 1.0, name: 1.0})
    before = trainer.evaluate()
    trainer.run()
    after = trainer.evaluate()
    assert after[f"held_out_{name}"] < before[f"held_out_{name}"]
    if name not in SLOW:
        assert after["held_out_energy_sd"] < 0.95 * before["held_out_energy_sd"]
    assert bool((trainer.normalisers != 0).any()) == entry.learns_normalisers
