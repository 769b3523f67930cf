"""The batched engine's moves against OpenMM's dynamics: energies, bonds, angles, kinetic temperature."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded
from torch import Tensor

from bgdiff.data.simulator import Simulator, simulator_of
from bgdiff.sampling import Walkers, kinetic_temperature
from bgdiff.systems import load_system

BONDS = [(4, 5), (6, 7), (8, 14), (1, 2)]
ANGLES = [(4, 6, 8), (6, 8, 14), (1, 4, 5), (0, 1, 2)]
BURN_IN, LENGTH, SPACING = 3.0, 6.0, 0.05  # ps
FRICTION = 10.0  # 1/ps: energies forget within a fraction of a ps


def simulator(name: str, engine: str) -> Simulator:
    """Without torsion jumps, so that every walker stays in the basin it starts in."""
    found = simulator_of(load_system(name), [{"phi": -80, "psi": 75}], 1.0, FRICTION, engine)
    return replace(found, molecule=replace(found.molecule, rotors=()))


def observables(target, x: Tensor) -> Tensor:
    """Energy (kT), bonds (nm) and angles (rad), less about their means, and their squares: ``(B, 18)``."""
    bonds = torch.stack([(x[:, i] - x[:, j]).norm(dim=1) for i, j in BONDS], 1)
    cosines = [
        torch.nn.functional.cosine_similarity(x[:, i] - x[:, j], x[:, k] - x[:, j]) for i, j, k in ANGLES
    ]
    values = torch.cat([target.energy(x).double()[:, None], bonds, torch.stack(cosines, 1).arccos()], 1)
    centred = values - values.new_tensor([-20.0, *[0.12] * 4, *[2.0] * 4])
    return torch.cat([centred, centred.square()], 1)


@cache
def averages(name: str, engine: str, move: str, walkers: int) -> tuple[Tensor, Tensor]:
    """Time averages of each walker's observables ``(B, 18)`` and of its kinetic temperature ``(B,)``."""
    simulation = simulator(name, engine)
    x = torch.from_numpy(simulation.molecule.start(0)).repeat(walkers, 1, 1)
    state = Walkers.at(simulation.target, x, simulation.start_velocities(x, 1, "start"))
    make = simulation.langevin if move == "langevin" else simulation.tempering_move
    step, generator = make(simulation.steps(SPACING), 1), seeded(1)
    rounds, kinetic = round(LENGTH / SPACING), torch.zeros(walkers, dtype=torch.float64)
    total = torch.zeros(walkers, 18, dtype=torch.float64)
    for _ in range(round(BURN_IN / SPACING)):
        step(state, generator)
    for _ in range(rounds):
        step(state, generator)
        total += observables(simulation.target, state.x) / rounds
        kinetic += kinetic_temperature(state, simulation.speed) / rounds
    return total, kinetic


@pytest.mark.parametrize(
    ("name", "copies"),
    [("alanine_dipeptide_vacuum", 14), pytest.param("alanine_dipeptide_obc1", 8, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("move", ["langevin", "hmc"])
def test_fast_observables_are_those_of_openmm(name, copies, move):
    expected, _ = averages(name, "openmm", "langevin", copies)
    found, kinetic = averages(name, "auto", move, 256)
    gap = found.mean(0) - expected.mean(0)
    error = (found.var(0) / len(found) + expected.var(0) / len(expected)).sqrt()
    assert (gap / error).abs().max() < 4.5  # 18 numbers at a time, few chains
    assert error[0] < 0.5
    assert (error[1:5] < 2e-4).all()
    assert (error[5:9] < 0.01).all()
    assert_mean(kinetic, 1.0)
