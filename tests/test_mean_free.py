"""Mean-free coordinates: the centroid left out and nothing else, with the volume that goes with it."""

import math
from pathlib import Path

import mdtraj
import openmm
import pytest
import torch
from checks import seeded
from hypothesis import given
from hypothesis import strategies as st
from ladders import SpringNetwork
from openmm import app
from test_run import SMALL
from torch import Tensor
from torch.autograd.functional import jacobian

from bgdiff.analysis.results import read_results
from bgdiff.coordinates import Coordinates, LatentTarget, MeanFreeCoordinates, coordinates_from_state
from bgdiff.coordinates.mean_free import helmert
from bgdiff.errors import ConfigError, DataError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.preparation import fit_coordinates
from bgdiff.run import run_all, start_run
from bgdiff.systems import System
from bgdiff.targets.openmm import GAS_CONSTANT

SHAPES = [(2, 1), (3, 2), (4, 3), (13, 3)]


def conformations(n: int, shape: tuple[int, int], seed: int = 0) -> Tensor:
    return 0.4 + 1.7 * torch.randn(n, *shape, generator=seeded(seed), dtype=torch.float64)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


@given(st.integers(2, 60))
def test_the_basis_is_orthonormal_and_has_no_mean(n: int) -> None:
    basis = helmert(n)
    assert basis.shape == (n - 1, n)
    assert torch.allclose(basis @ basis.T, torch.eye(n - 1, dtype=torch.float64), atol=1e-13)
    assert float(basis.sum(1).abs().max()) < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trips(shape: tuple[int, int]) -> None:
    coordinates = MeanFreeCoordinates(*shape, scale=0.37)
    assert isinstance(coordinates, Coordinates)
    x = conformations(20, shape)
    z, inverse = coordinates.to_z(x)
    back, log_det = coordinates.to_x(z)
    assert z.shape == (20, coordinates.dim) == (20, (shape[0] - 1) * shape[1])
    assert torch.allclose(back, centred(x), atol=1e-13)
    assert torch.allclose(coordinates.to_z(back)[0], z, atol=1e-13)
    assert torch.equal(log_det, -inverse)
    assert log_det.dtype == torch.float64
    assert log_det.shape == (20,)
    assert not coordinates.periodic.any()
    assert len(coordinates.periodic) == coordinates.dim
    single, _ = coordinates.to_x(z.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), back, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_of_the_subspace_and_of_the_full_space(shape: tuple[int, int]) -> None:
    """By autograd: √det JᵀJ of z → x; with the centroid added, the square determinant is N^(D/2) times it."""
    coordinates = MeanFreeCoordinates(*shape, scale=0.37)
    n, d = shape
    z = torch.randn(coordinates.dim, generator=seeded(1), dtype=torch.float64)
    log_det = float(coordinates.to_x(z[None])[1])
    embedding = jacobian(lambda z: coordinates.to_x(z[None])[0].flatten(), z)
    assert log_det == pytest.approx(0.5 * float(torch.logdet(embedding.T @ embedding)), abs=1e-10)

    def full(q: Tensor) -> Tensor:
        return (coordinates.to_x(q[None, d:])[0][0] + q[:d]).flatten()

    square = jacobian(full, torch.cat([torch.zeros(d, dtype=torch.float64), z]))
    assert square.shape == (n * d, n * d)
    logabsdet = float(torch.linalg.slogdet(square).logabsdet)
    assert logabsdet == pytest.approx(log_det + 0.5 * d * math.log(n), abs=1e-10)
    projection = jacobian(lambda x: coordinates.to_z(x[None])[0][0], coordinates.to_x(z[None])[0][0])
    projection = projection.flatten(1)
    inverse = float(coordinates.to_z(coordinates.to_x(z[None])[0])[1])
    assert inverse == pytest.approx(0.5 * float(torch.logdet(projection @ projection.T)), abs=1e-10)


def test_symmetries_of_a_cluster_are_isometries() -> None:
    """Shifts change nothing; rotations, reflections and permutations keep all distances and norms in z."""
    coordinates = MeanFreeCoordinates(5, 3, 0.8)
    x = conformations(6, (5, 3))
    z = coordinates.to_z(x)[0]
    assert torch.allclose(coordinates.to_z(x + torch.tensor([3.0, -20.0, 7.0]))[0], z, atol=1e-12)
    orthogonal = torch.linalg.qr(torch.randn(3, 3, generator=seeded(2), dtype=torch.float64)).Q
    for changed in (x @ orthogonal, x[:, [3, 0, 4, 1, 2]], -x):
        other = coordinates.to_z(changed)[0]
        assert not torch.allclose(other, z, atol=0.1)
        assert torch.allclose(other @ other.T, z @ z.T, atol=1e-11)


def test_the_scale_is_the_width_of_the_data() -> None:
    x = conformations(20_000, (4, 2))
    coordinates = MeanFreeCoordinates.fit(x + 100 * torch.randn(20_000, 1, 2, generator=seeded(3)))
    assert coordinates.scale == pytest.approx(1.7, rel=0.01)
    assert float(coordinates.to_z(x)[0].square().mean()) == pytest.approx(1.0, rel=1e-2)
    assert coordinates.event_shape == (4, 2)


def test_state_round_trip() -> None:
    coordinates = MeanFreeCoordinates(4, 3, 0.1 + 0.2)
    again = coordinates_from_state(*coordinates.state())
    assert isinstance(again, MeanFreeCoordinates)
    z = torch.randn(3, 9, generator=seeded(4), dtype=torch.float64)
    for ours, theirs in zip(coordinates.to_x(z), again.to_x(z), strict=True):
        assert torch.equal(ours, theirs)


def test_what_makes_no_sense_is_refused() -> None:
    for settings in ((1, 3, 1.0), (3, 0, 1.0), (3, 3, 0.0), (3, 3, math.inf), (3, 3, math.nan)):
        with pytest.raises(ConfigError, match="mean-free coordinates"):
            MeanFreeCoordinates(*settings)
    one_place = torch.ones(10, 3, 2, dtype=torch.float64)
    for x in (one_place, one_place * math.nan, one_place[:0], one_place[:, :1], one_place[0]):
        with pytest.raises(DataError, match="mean-free coordinates"):
            MeanFreeCoordinates.fit(x)


def test_density_and_score_of_a_cluster() -> None:
    """The latent density is -u plus the constant, its score the projected force, against autograd in z."""
    network = SpringNetwork(torch.tensor([[0.0, 2.0, 0.5], [2.0, 0.0, 1.0], [0.5, 1.0, 0.0]]), 2)
    coordinates = MeanFreeCoordinates(3, 2, 0.6)
    latent = LatentTarget(network, coordinates)
    z = torch.randn(7, 4, generator=seeded(5), dtype=torch.float64, requires_grad=True)
    direct = 4 * math.log(0.6) - network.energy(coordinates.to_x(z)[0])
    (gradient,) = torch.autograd.grad(direct.sum(), z)
    value, score = latent.log_density_and_score(z.detach())
    assert torch.allclose(value, direct.detach(), atol=1e-12)
    assert torch.allclose(score, gradient, atol=1e-12)
    # the normaliser of that Gaussian in z is the one of the matrix-tree theorem in x
    precision = torch.autograd.functional.hessian(
        lambda z: network.energy(coordinates.to_x(z[None])[0]).sum(), torch.zeros(4, dtype=torch.float64)
    )
    by_hessian = 2 * math.log(2 * math.pi) - 0.5 * float(torch.logdet(precision)) + 4 * math.log(0.6)
    assert network.log_z == pytest.approx(by_hessian, abs=1e-10)


STIFFNESS = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> System:
    """``coordinates: mean_free`` in system.yaml: four atoms on springs, whose log Z is known."""
    folder, kT = tmp_path_factory.mktemp("springs"), GAS_CONSTANT * 120.0
    system = openmm.System()
    springs = openmm.HarmonicBondForce()
    topology = app.Topology()
    residue = topology.addResidue("CLU", topology.addChain())
    for i in range(4):
        system.addParticle(39.95)
        topology.addAtom(f"A{i}", app.Element.getBySymbol("Ar"), residue)
        for j in range(i):
            springs.addBond(j, i, 0.0, STIFFNESS * kT)
    system.addForce(springs)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with (folder / "topology.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, 10 * conformations(1, (4, 3))[0].numpy(), file)
    (folder / "system.yaml").write_text(
        "name: springs\ntitle: four atoms on springs\nkind: openmm\ntemperature: 120.0\n"
        "system: system.xml\ntopology: topology.pdb\ncoordinates: mean_free\n"
        "observables:\n  d: {distance: [0, 1]}\n"
    )
    return System(folder)


NETWORK = SpringNetwork(STIFFNESS * (1 - torch.eye(4)), 3)


def test_a_cluster_is_a_system(cluster: System) -> None:
    x = NETWORK.sample(500, seeded(6))
    coordinates = fit_coordinates(cluster, x + 5.0)
    assert isinstance(coordinates, MeanFreeCoordinates)
    z, _ = coordinates.to_z(x)
    # for equal springs the latent density is an isotropic Gaussian: every sample gives log Z
    precision = 4 * STIFFNESS * coordinates.scale**2
    gaussian = 4.5 * math.log(precision / (2 * math.pi)) - 0.5 * precision * z.square().sum(1)
    log_weight = LatentTarget(cluster.target, coordinates).log_density(z) - gaussian
    assert torch.allclose(log_weight, torch.tensor(NETWORK.log_z, dtype=torch.float64), atol=1e-6)


def test_a_cluster_from_data_to_results(cluster: System, tmp_path: Path) -> None:
    """A whole run on trajectories that drift: log Z leaves out the centroid, samples have it at 0."""
    x = NETWORK.sample(2000, seeded(7)) + torch.linspace(0, 3, 2000, dtype=torch.float64)[:, None, None]
    mdtraj.Trajectory(x.numpy(), cluster.topology).save_dcd(str(tmp_path / "md.dcd"))
    path = start_run(cluster, tmp_path / "run", seed=1, overrides=SMALL, data=tmp_path / "md.dcd")
    run_all(path)
    results = read_results(path / "results.json")
    assert results.log_z.value == pytest.approx(NETWORK.log_z, abs=4 * results.log_z.std_error)
    assert results.ess_kish > 0.5
    samples = mdtraj.load_dcd(str(path / "samples.dcd"), top=cluster.topology)
    assert abs(samples.xyz.mean(1)).max() < 1e-5
    loaded = BoltzmannGenerator.load(path / "train" / "generator.safetensors", cluster)
    assert isinstance(loaded.coordinates, MeanFreeCoordinates)
