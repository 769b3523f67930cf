"""Linear whitening, and the coordinates made of nothing else."""

import math

import pytest
import torch
from checks import seeded
from torch import Tensor
from torch.autograd.functional import jacobian as jacobian_of

from bgdiff.coordinates import LatentTarget, WhitenedCoordinates, Whitening, coordinates_from_state, wrap
from bgdiff.errors import CheckpointError, DataError
from bgdiff.targets.double_well import DoubleWell


def correlated(n: int, d: int, seed: int) -> Tensor:
    """Data with axes of very different scale, correlated, far from 0."""
    generator = seeded(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    scale = torch.logspace(-3, 3, d, dtype=torch.float64)
    y = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing
    return y * scale + 7 * scale


def test_whitened_data_have_mean_0_and_covariance_1() -> None:
    y = correlated(500, 6, 0)
    z = Whitening.fit(y).to_z(y)
    assert torch.allclose(z.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(torch.cov(z.T), torch.eye(6, dtype=torch.float64), atol=1e-8)


def test_both_directions_and_the_determinant() -> None:
    y = correlated(500, 6, 1)
    whitening = Whitening.fit(y)
    assert torch.allclose(whitening.to_y(whitening.to_z(y)), y, rtol=1e-10)
    jacobian = jacobian_of(lambda z: whitening.to_y(z[None])[0], torch.zeros(6, dtype=torch.float64))
    assert whitening.log_det == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-10)
    expected = 0.5 * float(torch.linalg.slogdet(torch.cov(y.T)).logabsdet)
    assert whitening.log_det == pytest.approx(expected, abs=1e-8)


def test_axes_keep_their_meaning() -> None:
    """z_i correlates with y_i more than with any other axis, and all of them equally well in total."""
    generator = seeded(2)
    y = torch.randn(2000, 5, generator=generator, dtype=torch.float64)
    y = y + 0.6 * y.roll(1, -1)
    z = Whitening.fit(y).to_z(y)
    cross = torch.corrcoef(torch.cat([z, y], -1).T)[:5, 5:]
    assert torch.allclose(cross, cross.T, atol=1e-9), "the symmetric root"
    assert (cross.diagonal() > 0.9).all()


def test_units_do_not_matter() -> None:
    """Rescaling an axis (nm to Å) leaves z as it was."""
    y = correlated(400, 4, 3)
    scaled = y * torch.tensor([10.0, 1.0, 0.1, 1e6], dtype=torch.float64)
    assert torch.allclose(Whitening.fit(y).to_z(y), Whitening.fit(scaled).to_z(scaled), atol=1e-7)


def test_too_few_frames_are_refused() -> None:
    y = correlated(59, 6, 4)
    with pytest.raises(DataError, match="59 frames, too few to whiten 6 coordinates: at least 60"):
        Whitening.fit(y)
    Whitening.fit(y, frames_per_axis=9)


@pytest.mark.parametrize("jitter", [0.0, 1e-7], ids=["exact", "single precision"])
def test_a_rigid_axis_is_named(jitter: float) -> None:
    """A constraint is not exact in a file of single-precision coordinates."""
    y = torch.randn(200, 3, generator=seeded(5), dtype=torch.float64)
    y[:, 1] = 0.1 + jitter * torch.randn(200, generator=seeded(6), dtype=torch.float64)
    with pytest.raises(DataError, match="bond 4-5 does not vary"):
        Whitening.fit(y, names=["a", "bond 4-5", "b"])
    with pytest.raises(DataError, match="coordinate 1 does not vary"):
        Whitening.fit(y)


def test_dependent_axes_are_refused() -> None:
    y = torch.randn(200, 3, generator=seeded(7), dtype=torch.float64)
    y[:, 2] = y[:, 0] - 2 * y[:, 1]
    with pytest.raises(DataError, match="linearly dependent.*constraints"):
        Whitening.fit(y)


def test_wrap() -> None:
    angle = torch.tensor([0.0, math.pi, -math.pi, 3.5, -3.5, 100.0], dtype=torch.float64)
    wrapped = wrap(angle)
    assert ((wrapped >= -math.pi) & (wrapped < math.pi)).all()
    assert torch.allclose(torch.exp(1j * wrapped), torch.exp(1j * angle), atol=1e-12)


@pytest.fixture(scope="module")
def plane() -> WhitenedCoordinates:
    x = torch.randn(300, 1, 2, generator=seeded(8), dtype=torch.float64)
    x[:, 0, 1] = 0.3 * x[:, 0, 1] + 0.5 * x[:, 0, 0] + 1.0
    return WhitenedCoordinates.fit(x)


def test_coordinates_round_trip(plane: WhitenedCoordinates) -> None:
    z = torch.randn(20, 2, generator=seeded(9), dtype=torch.float64)
    x, log_det = plane.to_x(z)
    back, inverse = plane.to_z(x)
    assert x.shape == (20, 1, 2)
    assert torch.allclose(back, z, atol=1e-12)
    assert torch.equal(log_det, -inverse)
    jacobian = jacobian_of(lambda z: plane.to_x(z[None])[0].flatten(), z[0])
    assert float(log_det[0]) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-12)
    assert plane.dim == 2
    assert not plane.periodic.any()


def test_log_z_is_the_same_in_latents(plane: WhitenedCoordinates) -> None:
    """∫ exp(log p(z)) dz over the plane equals the quadrature over x."""
    well = DoubleWell(1.0, -2.0, 1.0)
    axis = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    value = torch.logsumexp(LatentTarget(well, plane).log_density(z), 0) + 2 * math.log(60 / 1200)
    assert float(value) == pytest.approx(well.log_z(), abs=1e-9)


def test_state_round_trip(plane: WhitenedCoordinates) -> None:
    again = coordinates_from_state(*plane.state())
    z = torch.randn(5, 2, generator=seeded(10), dtype=torch.float64)
    assert isinstance(again, WhitenedCoordinates)
    for ours, theirs in zip(plane.to_x(z), again.to_x(z), strict=True):
        assert torch.equal(ours, theirs)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'spherical' are unknown"):
        coordinates_from_state({}, {"kind": "spherical"})
