"""Internal coordinates: exact Jacobians, round trips, chirality, the chart's edges, bad data."""

import math

import mdtraj
import numpy as np
import pytest
import torch
from checks import GRAPHS, WATER, geometry, rigid_deviation, seeded
from torch import Tensor
from torch.autograd.functional import jacobian as jacobian_of

from bgdiff.coordinates import (
    Coordinates,
    InternalCoordinates,
    LatentTarget,
    ZMatrix,
    ZMatrixMap,
    coordinates_from_state,
    wrap,
)
from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.preparation import fit_coordinates
from bgdiff.systems import System, load_system

ALANINE = "alanine_dipeptide_vacuum"
CA_NEIGHBOURS = (8, 6, 14, 10)  # CA, N, C, CB


@pytest.fixture(scope="module")
def system() -> System:
    return load_system(ALANINE)


@pytest.fixture(scope="module")
def data(system: System) -> Tensor:
    """Every 13th frame of the shipped data, ``(4000, 22, 3)``."""
    assert system.data_path is not None
    trajectory = mdtraj.load(str(system.data_path), top=system.topology, stride=13)
    return torch.from_numpy(trajectory.xyz).to(torch.float64)


@pytest.fixture(scope="module")
def alanine(system: System, data: Tensor) -> InternalCoordinates:
    coordinates = fit_coordinates(system, data)
    assert isinstance(coordinates, InternalCoordinates)
    return coordinates


def internals(graph: str, n: int, seed: int) -> tuple[ZMatrix, Tensor]:
    """Conformations of a made-up molecule whose proper torsions turn freely and whose others are stiff."""
    n_atoms, bonds, heavy = GRAPHS[graph]
    zmatrix = ZMatrix.from_bonds(n_atoms, bonds, heavy)
    generator = seeded(seed)
    centre = geometry(n_atoms, 1, seed)
    noise = [
        0.03 * torch.randn(n, part.shape[1], generator=generator, dtype=torch.float64) for part in centre
    ]
    r, theta, tau = (part + scatter for part, scatter in zip(centre, noise, strict=True))
    r = centre[0] + 0.1 * noise[0]
    turn = 2 * math.pi * torch.rand(n, n_atoms - 3, generator=generator, dtype=torch.float64)
    tau = torch.where(torch.from_numpy(~zmatrix.improper[3:]), turn, tau)
    return zmatrix, ZMatrixMap(zmatrix).to_cartesian(r, theta, tau)


def chirality(x: Tensor) -> Tensor:
    """Sign of the triple product of three bonds at CA, ``(B,)``."""
    ca, n, c, cb = (x[:, atom] for atom in CA_NEIGHBOURS)
    return torch.sign((torch.linalg.cross(n - ca, c - ca) * (cb - ca)).sum(-1))


def euler(angles: Tensor) -> Tensor:
    """Rotation matrix of z-y-z Euler angles; the invariant measure is sin β dα dβ dγ, 8π² in total."""
    zero, one = torch.zeros_like(angles[0]), torch.ones_like(angles[0])

    def about_z(a: Tensor) -> Tensor:
        return torch.stack([a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero, zero, zero, one]).reshape(3, 3)

    c, s = angles[1].cos(), angles[1].sin()
    about_y = torch.stack([c, zero, s, zero, one, zero, -s, zero, c]).reshape(3, 3)
    return about_z(angles[0]) @ about_y @ about_z(angles[2])


@pytest.mark.parametrize("graph", GRAPHS)
def test_jacobian_of_the_full_space(graph: str) -> None:
    """The 3N x 3N determinant with translation and rotation included is sin β times ours."""
    n_atoms, bonds, heavy = GRAPHS[graph]
    map_ = ZMatrixMap(ZMatrix.from_bonds(n_atoms, bonds, heavy))
    parts = geometry(n_atoms, 1, seed=5)
    split = [n_atoms - 1, n_atoms - 2, n_atoms - 3]

    def place(q: Tensor) -> Tensor:
        r, theta, tau = (part[None] for part in q[6:].split(split))
        return (map_.to_cartesian(r, theta, tau)[0] @ euler(q[3:6]).T + q[:3]).flatten()

    rigid = torch.tensor([0.3, -0.2, 0.5, 1.1, 0.8, -2.0], dtype=torch.float64)
    q = torch.cat([rigid, *(part[0] for part in parts)])
    expected = torch.linalg.slogdet(jacobian_of(place, q)).logabsdet - torch.log(torch.sin(rigid[4]))
    assert float(map_.log_det(*parts[:2])) == pytest.approx(float(expected), abs=1e-9)


def test_jacobian_of_alanine_dipeptide(alanine: InternalCoordinates, data: Tensor) -> None:
    """The determinant over the 3N - 6 Cartesians that are not fixed, times r₁² y₃, is that of to_x."""
    atom = alanine.map.zmatrix.atom
    fixed = [(atom[0], 0), (atom[0], 1), (atom[0], 2), (atom[1], 1), (atom[1], 2), (atom[2], 2)]
    free = [i for i in range(66) if (i // 3, i % 3) not in fixed]
    z = alanine.to_z(data[::1000])[0]
    z[0, :55] *= 2.0  # away from the data, too
    for row in z:
        x, log_det = alanine.to_x(row[None])
        jacobian = jacobian_of(lambda z: alanine.to_x(z[None])[0].flatten()[free], row)
        value = torch.linalg.slogdet(jacobian).logabsdet
        value = value + 2 * torch.log(x[0, atom[1], 0]) + torch.log(x[0, atom[2], 1])
        assert float(log_det) == pytest.approx(float(value), abs=1e-8)


def test_round_trips(alanine: InternalCoordinates, data: Tensor) -> None:
    z, inverse = alanine.to_z(data)
    x, log_det = alanine.to_x(z)
    assert rigid_deviation(x, data) < 1e-10
    assert torch.allclose(log_det, -inverse, atol=1e-9)
    wider = torch.cat([1.5 * z[:, :55], z[:, 55:].roll(1, 0)], -1)
    x, log_det = alanine.to_x(wider)
    again, inverse = alanine.to_z(x)
    possible = torch.isfinite(log_det)
    assert possible.double().mean() > 0.99
    difference = torch.where(alanine.periodic, wrap(again - wider), again - wider)[possible]
    assert float(difference.abs().max()) < 1e-7
    assert torch.allclose(log_det[possible], -inverse[possible], atol=1e-9)


def test_latents_of_the_data(alanine: InternalCoordinates, data: Tensor) -> None:
    """Real axes have mean 0 and covariance 1; periodic axes come last, as angles in [-π, π)."""
    z = alanine.to_z(data)[0]
    periodic = alanine.periodic
    assert isinstance(alanine, Coordinates)
    assert z.shape == (4000, alanine.dim) == (4000, 60)
    assert periodic.tolist() == [False] * 55 + [True] * 5  # φ, ψ and three methyls
    real = z[:, ~periodic]
    assert torch.allclose(real.mean(0), torch.zeros(55, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(torch.cov(real.T), torch.eye(55, dtype=torch.float64), atol=1e-7)
    assert ((z[:, periodic] >= -math.pi) & (z[:, periodic] < math.pi)).all()


def test_conditional_latents_are_closer_to_a_gaussian(
    system: System, alanine: InternalCoordinates, data: Tensor
) -> None:
    """The mean squared scores of real axes, 1 for a Gaussian: their excess is less than half as large."""
    conditional = fit_coordinates(system, data, conditional=True)
    excess = []
    for coordinates in (alanine, conditional):
        z = coordinates.to_z(data[::2])[0]
        score = LatentTarget(system.target, coordinates).log_density_and_score(z)[1][:, :55]
        excess.append(float((score.square().mean(0) - 1).sum()))
    assert 0 < excess[1] < 0.5 * excess[0]


def test_internals_equal_mdtraj(alanine: InternalCoordinates, system: System, data: Tensor) -> None:
    """Bonds, angles and torsions, with the sign convention of IUPAC, from an independent program."""
    z = alanine.map.zmatrix
    bonds, angles, torsions = alanine.map.to_internal(data[:200])
    trajectory = mdtraj.Trajectory(data[:200].numpy(), system.topology)
    columns = np.stack([z.atom, z.bond, z.angle, z.torsion], -1)
    theirs = mdtraj.compute_distances(trajectory, columns[1:, :2])
    assert np.allclose(bonds.numpy(), theirs, atol=1e-6)
    assert np.allclose(angles.numpy(), mdtraj.compute_angles(trajectory, columns[2:, :3]), atol=1e-5)
    difference = wrap(torsions - torch.from_numpy(mdtraj.compute_dihedrals(trajectory, columns[3:])))
    assert float(difference.abs().max()) < 1e-5


def test_the_mirror_image_stays_the_mirror_image(alanine: InternalCoordinates, data: Tensor) -> None:
    mirrored = data[:200] * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    x = alanine.to_x(alanine.to_z(mirrored)[0])[0]
    assert rigid_deviation(x, mirrored) < 1e-10
    assert torch.equal(chirality(x), -chirality(data[:200]))
    assert rigid_deviation(x, data[:200]) > 0.01


def test_mirror_images_are_out_of_reach(alanine: InternalCoordinates, data: Tensor) -> None:
    """The D form, or a methyl with two hydrogens exchanged, is a legal point, tens of widths away.

    Mirrored planar groups are not: the hydrogens and oxygens of amides stay within reach of their data.
    """
    z = alanine.to_z(data)[0][:, :55]
    mirrored = alanine.to_z(data * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))[0]
    swapped = data.clone()
    swapped[:, [12, 13]] = data[:, [13, 12]]  # of CB
    for image in (mirrored, alanine.to_z(swapped)[0]):
        assert torch.isfinite(alanine.to_x(image)[1]).all()
        assert (image[:, :55].abs().amax(1) > 15).all()
    assert float(z.abs().max()) < 7
    atoms = alanine.map.zmatrix.atom[3:][~alanine.rotatable.numpy()].tolist()
    moved = wrap(alanine.real(mirrored) - alanine.real(alanine.to_z(data)[0]))[:, 41:].abs()
    spread = alanine.real(alanine.to_z(data)[0])[:, 41:].std(0)
    closest = dict(zip(atoms, (moved / spread).amin(0).tolist(), strict=True))
    planar = (7, 5, 17, 15)  # H and O of both amides
    assert all(closest[atom] < 0.1 for atom in planar)
    assert all(closest[atom] > 10 for atom in (9, 10, 12, 13, 2, 3, 20, 21))  # of CA and the methyls


def test_sampling_around_the_data_keeps_chirality(alanine: InternalCoordinates, data: Tensor) -> None:
    assert len(chirality(data).unique()) == 1
    generator = seeded(0)
    z = alanine.to_z(data)[0]
    noisy = z + 1.0 * torch.randn(z.shape, generator=generator, dtype=torch.float64)
    x, log_det = alanine.to_x(noisy)
    assert torch.isfinite(log_det).double().mean() > 0.99
    assert torch.equal(chirality(x), chirality(data))


def edges(alanine: InternalCoordinates, data: Tensor, column: int, value: float) -> Tensor:
    """log|det| of two conformations: one as it is, one with one real coordinate replaced."""
    z = alanine.to_z(data[:2])[0]
    y = alanine.real(z)
    y[1, column] = value
    return alanine.to_x(alanine.latent(y, z[:, 55:]))[1]


@pytest.mark.parametrize(
    ("column", "inside", "outside"),
    [
        (0, 1e-4, -1e-4),
        (20, 1e-4, -0.12),
        (21, 1e-4, -1e-4),
        (21, math.pi - 1e-4, math.pi + 1e-4),
        (40, math.pi - 1e-4, math.pi + 0.5),
        (41, math.pi - 1e-4, math.pi + 1e-4),
        (54, -math.pi + 1e-4, -math.pi - 1e-4),
        (54, 3.0, 2 * math.pi),
    ],
)
def test_edges_of_the_chart(
    alanine: InternalCoordinates, data: Tensor, column: int, inside: float, outside: float
) -> None:
    """Columns 0-20 are bonds, 21-40 angles, 41-54 stiff torsions about their means; other rows stay."""
    good, bad = edges(alanine, data, column, inside), edges(alanine, data, column, outside)
    assert torch.isfinite(good).all()
    assert torch.equal(good[0], bad[0])
    assert bad[1] == -math.inf


def test_state_round_trip(alanine: InternalCoordinates, data: Tensor) -> None:
    again = coordinates_from_state(*alanine.state())
    assert isinstance(again, InternalCoordinates)
    assert torch.equal(again.periodic, alanine.periodic)
    z, log_det = alanine.to_z(data[:50])
    theirs, their_log_det = again.to_z(data[:50])
    assert torch.equal(z, theirs)
    assert torch.equal(log_det, their_log_det)
    assert torch.equal(alanine.to_x(z)[0], again.to_x(z)[0])


@pytest.mark.parametrize("graph", ["water", "ethanol", "neopentane", "chain"])
def test_other_molecules(graph: str) -> None:
    zmatrix, x = internals(graph, 1000, seed=7)
    coordinates = InternalCoordinates.fit(zmatrix, x)
    assert coordinates.dim == 3 * zmatrix.n_atoms - 6
    assert int(coordinates.periodic.sum()) == int((~zmatrix.improper[3:]).sum())
    z, inverse = coordinates.to_z(x)
    again, log_det = coordinates.to_x(z)
    assert rigid_deviation(again, x) < 1e-8
    assert torch.allclose(log_det, -inverse, atol=1e-8)
    restored = coordinates_from_state(*coordinates.state())
    assert torch.equal(restored.to_x(z)[0], again)


def test_empty_batches(alanine: InternalCoordinates) -> None:
    x, log_det = alanine.to_x(torch.zeros(0, 60, dtype=torch.float64))
    assert x.shape == (0, 22, 3)
    assert log_det.shape == (0,)
    z, log_det = alanine.to_z(x)
    assert z.shape == (0, 60)
    assert log_det.shape == (0,)


def torsion_data(low: float, high: float) -> InternalCoordinates:
    """Butane-like chain whose one torsion fills the arc from ``low`` to ``high``."""
    zmatrix = ZMatrix.from_bonds(4, GRAPHS["chain"][1][:3])
    generator = seeded(3)
    r = 0.15 + 0.003 * torch.randn(400, 3, generator=generator, dtype=torch.float64)
    theta = 2.0 + 0.05 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    tau = low + (high - low) * torch.rand(400, 1, generator=generator, dtype=torch.float64)
    return InternalCoordinates.fit(zmatrix, ZMatrixMap(zmatrix).to_cartesian(r, theta, tau))


@pytest.mark.parametrize("start", [-3.0, -1.0, 2.0])
def test_which_torsions_are_periodic(start: float) -> None:
    """Less than half of the circle is unwrapped around its mean, wherever the cut at π lies."""
    stiff = torsion_data(start, start + 3.0)
    assert not stiff.periodic.any()
    assert math.isclose(float(wrap(stiff.torsion_mean - start - 1.5)), 0.0, abs_tol=0.1)
    assert torsion_data(start, start + 3.5).periodic.tolist() == [False] * 5 + [True]


def test_too_few_frames_are_refused(system: System, data: Tensor) -> None:
    with pytest.raises(DataError, match="599 frames, too few to whiten 60 coordinates: at least 600"):
        fit_coordinates(system, data[:599])


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_constrained_bonds_are_named(precision: torch.dtype) -> None:
    """Rigid water, also as a file of single-precision coordinates has it."""
    zmatrix = ZMatrix.from_bonds(*WATER)
    generator = seeded(4)
    r = torch.full((200, 2), 0.09572, dtype=torch.float64)
    r[:, 0] += 0.002 * torch.randn(200, generator=generator, dtype=torch.float64)
    theta = 1.824 + 0.05 * torch.randn(200, 1, generator=generator, dtype=torch.float64)
    x = ZMatrixMap(zmatrix).to_cartesian(r, theta, torch.zeros(200, 0, dtype=torch.float64))
    place = 3 * torch.rand(200, 1, 3, generator=generator, dtype=torch.float64)
    stored = (x @ euler(torch.tensor([0.4, 1.0, -0.3], dtype=torch.float64)).T + place).to(precision)
    with pytest.raises(DataError, match="bond 2-0 does not vary"):
        InternalCoordinates.fit(zmatrix, stored)


def test_a_topology_without_bonds_is_refused(system: System, data: Tensor) -> None:
    class Unbonded:
        spec = system.spec
        topology = mdtraj.Topology()

    residue = Unbonded.topology.add_residue("X", Unbonded.topology.add_chain())
    for i in range(22):
        Unbonded.topology.add_atom(f"C{i}", mdtraj.element.carbon, residue)
    with pytest.raises(SystemDefinitionError, match=r"no bonds \(first atoms X0-C0 \(atom 0\)"):
        fit_coordinates(Unbonded(), data)  # type: ignore[arg-type]
