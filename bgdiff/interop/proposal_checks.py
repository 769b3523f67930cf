r"""Is a proposal what it says: does log q belong to its samples, and is it normalised?

Every weight is divided by q. A density that is known only up to a constant c shifts log Z by log c without
any other sign: effective sample sizes and differences between basins stay right. It shows against a density
that is known: with g the normal density of the proposal's own mean and covariance (uniform on periodic axes),
samples of both and BAR give log ∫ q̃ with an error, which should be 0. Where g and q hardly overlap, the error
says so.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bgdiff.coordinates import Coordinates, wrap
from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.estimate import Estimate, NoOverlapError
from bgdiff.interop.proposals import ProposalDensity
from bgdiff.random import derive_seed, generator_for

__all__ = ["UnnormalisedError", "check_normalised", "log_integral"]

_UNLIKELY = 4.0
_VAGUE = 0.5  # kT; with a larger error the check says nothing
_ROUNDING = 0.02  # of log q between both ways to compute it; float32 flows reach a few 1e-3
_TOLERATED = 0.01  # share of samples beyond that


class UnnormalisedError(DataError):
    """A proposal's density does not integrate to 1, or is not that of its samples; log Z would be wrong."""


@dataclass(frozen=True)
class _Reference:
    """Normal on real axes, uniform on periodic ones."""

    normal: torch.distributions.MultivariateNormal | None
    periodic: Tensor

    @classmethod
    def fit(cls, z: Tensor, periodic: Tensor) -> "_Reference":
        real = z[:, ~periodic]
        d = real.shape[1]
        if not d:
            return cls(None, periodic)
        covariance = torch.cov(real.T).reshape(d, d)
        spread = covariance.diagonal().sqrt()
        if bool((spread == 0).any()):
            raise DataError(
                "the proposal's samples do not vary along an axis: it has no density over all of them"
            )
        values = torch.linalg.eigvalsh(covariance / torch.outer(spread, spread))
        if float(values[0]) < 1e-9:
            raise DataError(
                "the proposal's samples lie in a subspace (a centroid that stands still?), so that they have "
                "no density over all axes; give the coordinates of the subspace as `chart`"
            )
        return cls(torch.distributions.MultivariateNormal(real.mean(0), covariance), periodic)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        z = (2 * torch.rand(n, len(self.periodic), generator=generator, dtype=torch.float64) - 1) * torch.pi
        if self.normal is not None:
            noise = torch.randn(n, len(self.normal.mean), generator=generator, dtype=torch.float64)
            z[:, ~self.periodic] = self.normal.mean + noise @ self.normal.scale_tril.T
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        value = torch.full_like(z[:, 0], -float(self.periodic.sum()) * float(np.log(2 * np.pi)))
        return value if self.normal is None else value + self.normal.log_prob(z[:, ~self.periodic])


def log_integral(
    proposal: ProposalDensity, n: int = 4000, *, seed: int = 0, chart: Coordinates | None = None
) -> Estimate:
    """log ∫ exp(log_prob), with its error; 0 for a normalised proposal.

    Args:
        n: samples of the proposal, and as many of the reference. The first half of the proposal's samples
            fits the reference, so that the estimate is unbiased by the fit.
        chart: map of conformations to the latents in which they have a density; for proposals over
            conformations in a subspace (clusters, molecules).

    Raises:
        UnnormalisedError: the log q that comes with samples is not ``log_prob`` at these samples.
        NoOverlapError: the proposal looks so little like a normal density that nothing can be said.
        DataError: the samples have no density over all axes.
    """
    if n < 20:
        raise ConfigError(f"the check of a proposal needs at least 20 samples, not {n}")
    points, log_q = proposal.sample(n, seed=derive_seed(seed, "check", "samples"))
    points, log_q = points.detach().cpu().to(torch.float64), log_q.detach().cpu().to(torch.float64)
    _check_consistent(proposal, points, log_q)
    if proposal.coordinates is not None or chart is None:
        shape = points.shape[1:]
        z = points.flatten(1)
        periodic = torch.zeros(z.shape[1], dtype=torch.bool)
        if proposal.coordinates is not None:
            periodic = proposal.coordinates.periodic.cpu()

        def log_density(z: Tensor) -> Tensor:
            return _log_prob(proposal, z.reshape(-1, *shape))
    else:
        z, _ = chart.to_z(points)
        periodic = chart.periodic.cpu()

        def log_density(z: Tensor) -> Tensor:
            x, log_det = chart.to_x(z)
            return torch.where(torch.isfinite(log_det), _log_prob(proposal, x) + log_det, -torch.inf)

    z = torch.where(periodic, wrap(z), z)
    half = n // 2
    reference = _Reference.fit(z[:half], periodic)
    other = reference.sample(n, generator_for(seed, "check", "reference"))
    # from the reference, whose free energy is 0, to the proposal
    forward = (reference.log_prob(other) - log_density(other)).numpy()
    reverse = (log_density(z[half:]) - reference.log_prob(z[half:])).numpy()
    found = bar(forward, reverse, names=("a normal density", "the proposal"))
    return Estimate(
        -found.value, found.std_error, "log of the integral of q, BAR with a normal density", found.n_eff,
        found.overlap,
    )  # fmt: skip


def check_normalised(
    proposal: ProposalDensity,
    n: int = 4000,
    *,
    seed: int = 0,
    chart: Coordinates | None = None,
    name: str = "the proposal",
) -> Estimate:
    """Refuse a proposal whose density does not integrate to 1; return the estimated log of its integral.

    Args:
        n, chart: as for :func:`log_integral`.

    Raises:
        UnnormalisedError: the log of the integral is not 0 (more than four errors from it), or log q of the
            samples is not ``log_prob`` there.
        DataError: it cannot be told; the message says why.
    """
    try:
        found = log_integral(proposal, n, seed=seed, chart=chart)
    except NoOverlapError as error:
        raise DataError(
            f"{name}: whether it is normalised cannot be told, as it hardly overlaps with a normal density "
            f"({error}); make sure in another way, for example with log_integral of its prior"
        ) from error
    if abs(found.z_score(0.0)) > _UNLIKELY:
        raise UnnormalisedError(
            f"{name} is not normalised: the log of its density's integral is {found.value:.3f} "
            f"± {found.std_error:.3f}, not 0, and log Z would be wrong by as much; subtract the exact log of "
            "the integral from its log density"
        )
    if found.std_error > _VAGUE:
        raise DataError(
            f"{name}: the log of its density's integral is {found.value:.2f} ± {found.std_error:.2f}, from "
            "which nothing can be told; use more samples for the check"
        )
    return found


def _log_prob(proposal: ProposalDensity, points: Tensor) -> Tensor:
    with torch.no_grad():
        value = proposal.log_prob(points).cpu().to(torch.float64)
    return torch.where(value.isnan(), -torch.inf, value)


def _check_consistent(proposal: ProposalDensity, points: Tensor, log_q: Tensor) -> None:
    difference = (_log_prob(proposal, points) - log_q).abs()
    beyond = ~(difference < _ROUNDING)
    if float(beyond.double().mean()) > _TOLERATED:
        raise UnnormalisedError(
            f"the log density that comes with the proposal's samples differs from its log_prob at these "
            f"samples for {int(beyond.sum())} of {len(points)} (median difference "
            f"{float(difference.median()):.3g}): the samples are not from that density, or its map is "
            "not inverted accurately enough"
        )
