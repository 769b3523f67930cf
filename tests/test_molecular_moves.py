"""Torsion jumps of a real molecule: judged by energies made another way, exact, and over the barriers."""

import math
from dataclasses import dataclass, field

import mdtraj
import numpy as np
import pytest
import torch
from checks import assert_mean, seeded
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from torch import Tensor

from bgdiff.coordinates import InternalCoordinates, LatentTarget, wrap
from bgdiff.data.starts import far_side
from bgdiff.ladder.densities import Density, RungDensity, State, TargetDensity
from bgdiff.ladder.moves import RandomWalk, TorsionJump
from bgdiff.models import EnergyNetwork, NetworkShape
from bgdiff.preparation import fit_coordinates
from bgdiff.systems import System, load_system
from bgdiff.targets.openmm import OpenMMTarget

METHYLS = {"ALA-CB": (10, 8, (11, 12, 13)), "ACE-CH3": (1, 4, (0, 2, 3)), "NME-C": (18, 16, (19, 20, 21))}
"""Carbon, the heavy atom it hangs on, and its hydrogens."""
THIRD = 2 * math.pi / 3


@pytest.fixture(scope="module")
def system() -> System:
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def frames(system: System) -> Tensor:
    """Every 30th frame of the shipped data."""
    assert system.data_path is not None
    trajectory = mdtraj.load(str(system.data_path), top=system.topology, stride=30)
    return torch.from_numpy(trajectory.xyz).to(torch.float64)


@pytest.fixture(scope="module")
def coordinates(system: System, frames: Tensor) -> InternalCoordinates:
    fitted = fit_coordinates(system, frames)
    assert isinstance(fitted, InternalCoordinates)
    return fitted


@pytest.fixture(scope="module")
def target(system: System, coordinates: InternalCoordinates) -> TargetDensity:
    return TargetDensity(LatentTarget(system.target, coordinates), coordinates.periodic)


@pytest.fixture(scope="module")
def rung(coordinates: InternalCoordinates) -> RungDensity:
    """A network with wild weights in the place of a trained one, at a rung with little noise."""
    model = EnergyNetwork(coordinates.periodic, 0.02, 12.0, NetworkShape(32, 2))
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=seeded(index))
            parameter.copy_(0.7 * noise / parameter.shape[-1] ** 0.5)
    return RungDensity(model.requires_grad_(False), 1, torch.tensor(0.3, dtype=torch.float64))


def axis_of(coordinates: InternalCoordinates, atom: int, bond: int) -> int:
    """The periodic axis that turns the side of ``atom`` about the bond to ``bond``."""
    zmatrix = coordinates.map.zmatrix
    rows = torch.nonzero(coordinates.rotatable)[:, 0] + 3
    found = [i for i, row in enumerate(rows) if (zmatrix.bond[row], zmatrix.angle[row]) == (atom, bond)]
    (column,) = found
    return int((~coordinates.periodic).sum()) + column


@dataclass
class Seen:
    """A density that remembers what it was asked."""

    inner: Density
    asked: list[Tensor] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def periodic(self) -> Tensor:
        return self.inner.periodic

    def evaluate(self, z: Tensor) -> State:
        self.asked.append(z)
        return self.inner.evaluate(z)


def test_acceptance_is_that_of_energies_computed_directly(
    system: System, coordinates: InternalCoordinates, frames: Tensor, target: TargetDensity
) -> None:
    """The atoms beyond the bond turned by another program's rotation, their energy by OpenMM; the Jacobian
    does not change. So p(z) P(z → z') = p(z') P(z' → z) holds for the symmetric proposals made."""
    openmm_target = OpenMMTarget(system.openmm_system, system.temperature)
    topology, zmatrix = system.topology, coordinates.map.zmatrix
    assert topology is not None
    bonds = [(first.index, second.index) for first, second in topology.bonds]
    z = coordinates.to_z(frames[:300])[0]
    x = coordinates.to_x(z)[0]
    seen = Seen(target)
    move = TorsionJump(torch.nonzero(coordinates.periodic)[:, 0])
    start = target.evaluate(z)
    state, probability = move(start, seen, seeded(1))
    (proposed,) = seen.asked
    turn = wrap(proposed - z)
    changed = turn.abs() > 1e-9
    assert (changed.sum(1) == 1).all()
    assert (changed.sum(0)[coordinates.periodic] > 30).all(), "every torsion has its turn"
    rows = torch.nonzero(coordinates.rotatable)[:, 0] + 3
    turned = x.numpy().copy()
    for row, column in torch.nonzero(changed).tolist():
        entry = int(rows[column - int((~coordinates.periodic).sum())])
        near, far = int(zmatrix.angle[entry]), int(zmatrix.bond[entry])
        moving = far_side(22, bonds, near, far)
        direction = turned[row, far] - turned[row, near]
        rotation = Rotation.from_rotvec(float(turn[row, column]) * direction / np.linalg.norm(direction))
        turned[row, moving] = rotation.apply(turned[row, moving] - turned[row, far]) + turned[row, far]
    change = openmm_target.energy(torch.from_numpy(turned)) - openmm_target.energy(x)
    expected = torch.exp(-change.clamp(min=0))
    assert 0.05 < float(probability.mean()) < 0.8
    assert torch.allclose(probability, expected, rtol=1e-5, atol=1e-12)
    accepted = (state.z == proposed).all(1)
    assert torch.equal(state.z[~accepted], z[~accepted])
    assert_mean(accepted.double() - expected, 0.0)


@pytest.mark.parametrize("name", METHYLS)
def test_a_third_of_a_turn_of_a_methyl_group_changes_nothing(
    name: str, coordinates: InternalCoordinates, frames: Tensor, target: TargetDensity
) -> None:
    """The force field cannot tell the hydrogens apart: with the group made threefold, the energy is the same
    to rounding and the jump always accepted; half-way, and as the group came, it is not the same."""
    carbon, heavy, hydrogens = METHYLS[name]
    x = frames[:100].clone()
    as_it_came = coordinates.to_z(x)[0]
    direction = x[:, carbon] - x[:, heavy]
    direction = direction / direction.norm(dim=1, keepdim=True)
    for count, hydrogen in enumerate(hydrogens[1:], 1):
        rotation = Rotation.from_rotvec(count * THIRD * direction.numpy())
        arm = (x[:, hydrogens[0]] - x[:, carbon]).numpy()
        x[:, hydrogen] = x[:, carbon] + torch.from_numpy(rotation.apply(arm))
    z = coordinates.to_z(x)[0]
    axis = axis_of(coordinates, carbon, heavy)

    def turned(z: Tensor, angle: float) -> Tensor:
        shift = torch.zeros_like(z)
        shift[:, axis] = angle
        return target.evaluate(torch.where(target.periodic, wrap(z + shift), z)).log_density

    before = target.evaluate(z).log_density
    for angle in (THIRD, -THIRD):
        assert torch.allclose(turned(z, angle), before, rtol=0, atol=1e-7)
    assert float((turned(z, THIRD / 2) - before).abs().median()) > 0.1
    apart = (turned(as_it_came, THIRD) - target.evaluate(as_it_came).log_density).abs()
    assert float(apart.median()) > 0.01
    jump = TorsionJump(torch.tensor([axis]), (THIRD,), 0.0)
    state, probability = jump(target.evaluate(z), target, seeded(2))
    assert (probability > 1 - 1e-6).all()
    moved = wrap(state.z - z)[:, axis]
    assert torch.allclose(moved.abs(), torch.full_like(moved, THIRD), atol=1e-9)
    assert (moved > 0).any()
    assert (moved < 0).any()


GRID = 1440


def conditional(density: Density, z: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Angles on a grid, and the density of one axis there, all else held as in ``z`` ``(d,)``; Σ p = 1."""
    angle = -math.pi + 2 * math.pi * (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    rows = z.repeat(GRID, 1)
    rows[:, axis] = angle
    return angle, density.evaluate(rows).log_density.softmax(0)


def beyond_barriers(p: Tensor, here: int) -> Tensor:
    """Places on the circle, bool ``(GRID,)``, that are cut off from ``here`` by p below 1e-3 of its peak."""
    low = torch.nonzero(p < 1e-3 * p.max())[:, 0]
    if len(low) == 0:
        return torch.zeros(GRID, dtype=torch.bool)
    place = (torch.arange(GRID) - here) % GRID
    distance = (low - here) % GRID
    return (place > distance.min()) & (place < distance.max())


def two_wells(density: Density, candidates: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The candidate with the best balance between its own well and those beyond barriers; and those wells."""
    found = []
    for z in candidates:
        angle, p = conditional(density, z, axis)
        away = beyond_barriers(p, int(wrap(angle - z[axis]).abs().argmin()))
        found.append((abs(float(p[away].sum()) - 0.5), z, away))
    _, z, away = min(found, key=lambda one: one[0])
    return z, away


@pytest.mark.parametrize("which", ["target", "rung"])
@pytest.mark.parametrize("torsion", ["phi", "methyl"])
def test_jumps_sample_a_torsion_and_cross_its_barriers(
    which: str,
    torsion: str,
    coordinates: InternalCoordinates,
    frames: Tensor,
    target: TargetDensity,
    rung: RungDensity,
) -> None:
    """One torsion with all else held is a density on a circle, known by quadrature: exact samples stay such,
    and chains that all start in one well reach it; over the methyl's barriers small steps do not go."""
    density: Density = target if which == "target" else rung
    axis = axis_of(coordinates, *{"phi": (6, 8), "methyl": (10, 8)}[torsion])
    z, away = two_wells(target, coordinates.to_z(frames[8::40])[0], axis)
    angle, p = conditional(density, z, axis)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), p.cumsum(0)])
    edges = np.linspace(-math.pi, math.pi, GRID + 1)
    share = float(p[away].sum())
    assert 0.03 < share < 0.97

    def is_away(drawn: Tensor) -> Tensor:
        return away[((drawn + math.pi) / (2 * math.pi) * GRID).long().clamp(0, GRID - 1)]

    def check(drawn: Tensor) -> None:
        for m in (1, 2, 3):
            for wave in (torch.cos, torch.sin):
                assert_mean(wave(m * drawn), float(p @ wave(m * angle)))
        assert kstest(drawn.numpy(), lambda a: np.interp(a, edges, cumulative.numpy())).pvalue > 1e-4
        assert_mean(is_away(drawn).double(), share)

    n, generator = 600, seeded(3)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    exact = torch.from_numpy(np.interp(uniform.numpy(), cumulative.numpy(), edges))
    jump, start = TorsionJump(torch.tensor([axis])), z.repeat(n, 1)
    start[:, axis] = exact
    state = density.evaluate(start)
    for _ in range(6):
        state, _ = jump(state, density, generator)
    assert float((state.z[:, axis] != exact).double().mean()) > 0.1
    check(state.z[:, axis])
    assert torch.equal(state.z[:, :axis], start[:, :axis]), "nothing else has moved"

    state = density.evaluate(z.repeat(n, 1))
    assert not is_away(state.z[:, axis]).any()
    for _ in range(200 if torsion == "phi" else 60):
        state, _ = jump(state, density, generator)
    check(state.z[:, axis])

    if (which, torsion) == ("target", "methyl"):
        scale = torch.zeros(len(z), dtype=torch.float64)
        scale[axis] = 1.0
        state = density.evaluate(z.repeat(n // 5, 1))
        for _ in range(60):
            state, _ = RandomWalk(scale, 0.1)(state, density, generator)
        assert float(is_away(state.z[:, axis]).double().mean()) < 0.1 * share
