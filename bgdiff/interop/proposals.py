r"""Any normalised density that can be sampled, as a proposal for a bgdiff system.

A proposal q draws points with their log q and knows log q of any other point. Points are either conformations
x ``(B, N, D)``, or latents z ``(B, d)`` of a coordinate map. Then every sample has the exact weight

    w = exp(-u(x)) / q(x)           (conformations)
    w = exp(-u(x(z))) |dx/dz| / q(z)    (latents),

whose mean is Z whatever q is, as long as q is *normalised* and not zero where the target is not. Use
:func:`bgdiff.interop.proposal_checks.check_normalised` where that is not known.

The volume in which q is a density must be the one that the system's log Z refers to: all N·D coordinates for
particles in an external field; for clusters conformations whose centroid stands still, with the Euclidean
volume of that subspace (:class:`~bgdiff.coordinates.MeanFreeCoordinates`); for molecules, per unit volume of
translation and per radian³ of rotation (:class:`~bgdiff.coordinates.InternalCoordinates`). A q over
conformations whose rotation is uniform adds log 8π² to log Z; differences between basins do not change.

References: Noé, Olsson, Köhler & Wu, Science 365, eaaw1147 (2019), eq. 4; Bennett, J. Comput. Phys. 22, 245
(1976); Wirnsberger et al., J. Chem. Phys. 153, 144112 (2020) on BAR between a flow and data.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bgdiff.coordinates import Coordinates, LatentTarget
from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.generator import Ensemble
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed
from bgdiff.systems import System
from bgdiff.targets.base import Target

__all__ = [
    "DistributionProposal",
    "FunctionProposal",
    "ProposalDensity",
    "Weighed",
    "bar_log_z",
    "check_centroids",
    "check_draws",
    "forward_ess",
    "log_weights",
    "reweight",
    "seeded",
    "weigh",
]

Array = NDArray[np.float64]

_STILL = 1e-3
"""Wandering of the centroid that is rounding, relative to the size of the conformations."""


@runtime_checkable
class ProposalDensity(Protocol):
    """A normalised density that can be sampled.

    ``coordinates`` says what points are: latents ``(B, d)`` of that map, or conformations ``(B, N, D)`` if it
    is None.
    """

    @property
    def coordinates(self) -> Coordinates | None: ...

    def sample(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """n independent points and their log q ``(n,)``; they depend on n and the seed only."""
        ...

    def log_prob(self, points: Tensor) -> Tensor:
        """log q ``(B,)``, normalised; -inf where q is zero. Differentiable in the points if q is to be
        annealed (:func:`bgdiff.interop.proposal_annealing.anneal`)."""
        ...


@dataclass(frozen=True)
class FunctionProposal:
    """A proposal made of two functions.

    Args:
        draw: from (n, seed) to points and log q ``(n,)``.
        log_density: from points to log q ``(B,)``.
        coordinates: map of the latents that points are; None for conformations.
    """

    draw: Callable[[int, int], tuple[Tensor, Tensor]]
    log_density: Callable[[Tensor], Tensor]
    coordinates: Coordinates | None = None

    def sample(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        return self.draw(n, seed)

    def log_prob(self, points: Tensor) -> Tensor:
        return self.log_density(points)


@dataclass(frozen=True)
class DistributionProposal:
    """A ``torch.distributions.Distribution`` over points.

    Args:
        distribution: with batch shape () and event shape ``(d,)`` or ``(N, D)``.
        coordinates: map of the latents that points are; None for conformations.
        shape: ``(N, D)`` of conformations, if the distribution's events are flat.
    """

    distribution: torch.distributions.Distribution
    coordinates: Coordinates | None = None
    shape: tuple[int, int] | None = None

    def sample(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed), torch.no_grad():
            points = self.distribution.sample(torch.Size([n]))
            log_q = self.distribution.log_prob(points)
        return points if self.shape is None else points.reshape(n, *self.shape), log_q

    def log_prob(self, points: Tensor) -> Tensor:
        return self.distribution.log_prob(points if self.shape is None else points.flatten(1))


@dataclass(frozen=True)
class Weighed:
    """Points of a proposal with what the target says about them.

    Args:
        points: ``(n, d)`` or ``(n, N, D)``, float64.
        x: conformations ``(n, N, D)``, float64.
        energy: reduced energies ``(n,)``; inf where the geometry is impossible.
        log_weight: ``(n,)`` float64; -inf where the weight is 0.
    """

    points: Tensor
    x: Tensor
    energy: Tensor
    log_weight: Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's and numpy's global generators, which foreign samplers draw from; restored afterwards."""
    state = np.random.get_state()  # noqa: NPY002 (that is the one they use)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def weigh(target: Target, proposal: ProposalDensity, points: Tensor, log_q: Tensor) -> Weighed:
    """Weight samples of the proposal to the target exactly; one target energy per sample.

    Args:
        points, log_q: what ``proposal.sample`` returned.

    Raises:
        DataError: points have another shape than the target's conformations or the map's latents, or the
            proposal has no finite log density for one of its own samples.
    """
    points, log_q = check_draws(target, proposal, points, log_q)
    if proposal.coordinates is None:
        with torch.no_grad():
            energy = target.energy(points).to(torch.float64)
        energy = torch.where(torch.isfinite(energy), energy, torch.inf)
        return Weighed(points, points, energy, -energy - log_q)
    log_density, x = LatentTarget(target, proposal.coordinates).log_density_and_x(points)
    with torch.no_grad():
        log_det = proposal.coordinates.to_x(points)[1]
    energy = torch.where(torch.isfinite(log_density), log_det - log_density, torch.inf)
    return Weighed(points, x, energy, log_density - log_q)


def reweight(
    system: System,
    proposal: ProposalDensity,
    n: int,
    *,
    seed: int = 0,
    chunk: int = 4096,
    progress: Progress = silent,
) -> Ensemble:
    """Draw n samples from the proposal and weight them to the system's exact Boltzmann density.

    Everything that bgdiff computes from samples of its own follows: weights, effective sample size, log Z,
    free-energy differences and averages, each with an error.

    Args:
        chunk: samples drawn at a time; chunk number and seed decide what they are.

    Raises:
        ConfigError: ``n`` or ``chunk`` is not positive.
        DataError: as for :func:`weigh`; or the samples of a system without external field drift about.
    """
    if n < 1 or chunk < 1:
        raise ConfigError(
            f"the numbers of samples and of samples per chunk must be positive, not {n}, {chunk}"
        )
    parts = []
    for index, start in enumerate(range(0, n, chunk)):
        count = min(chunk, n - start)
        points, log_q = proposal.sample(count, seed=derive_seed(seed, "proposal", index))
        parts.append(weigh(system.target, proposal, points, log_q))
        if proposal.coordinates is None:
            check_centroids(system, parts[-1].x)
        progress(start + count, n)
    x, energy, log_weight = (
        torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("x", "energy", "log_weight")
    )
    return Ensemble(system, x, energy, log_weight)


def log_weights(target: System | Target, proposal: ProposalDensity, x: Tensor | Array) -> Array:
    """Log weights ``(B,)`` of given conformations x ``(B, N, D)``: log exp(-u(x))/q(x).

    Of held-out data they tell the forward effective sample size and, with those of the proposal's own
    samples, log Z by BAR. +inf where q is zero, -inf where the energy is infinite.

    Raises:
        DataError: x has another shape than the target's conformations, or q is nan somewhere.
    """
    density = target.target if isinstance(target, System) else target
    conformations = torch.as_tensor(x).detach().cpu().to(torch.float64)
    _check_points(density, None, conformations)
    with torch.no_grad():
        energy = density.energy(conformations)
        if proposal.coordinates is None:
            log_q = proposal.log_prob(conformations).cpu().to(torch.float64)
        else:
            z, log_det = proposal.coordinates.to_z(conformations)
            log_q = proposal.log_prob(z).cpu().to(torch.float64) + log_det
    if bool(log_q.isnan().any()):
        raise DataError(
            f"the proposal's log density is nan for {int(log_q.isnan().sum())} of {len(log_q)} conformations"
        )
    result: Array = (-energy - log_q).numpy()
    return np.where(np.isfinite(energy.numpy()), result, -np.inf)


def forward_ess(
    target: System | Target,
    proposal: ProposalDensity,
    x: Tensor | Array,
    *,
    log_importance: ArrayLike | None = None,
) -> float:
    """1/(E_p[w] E_p[1/w]) over held-out conformations x ``(m, N, D)`` of the target, a fraction.

    It sees what the proposal's own samples cannot: regions that it never visits.

    Args:
        log_importance: ``(m,)`` log weights that turn x into samples of the target, when their basins are
            known to be in wrong proportion.

    Raises:
        DataError: as for :func:`log_weights`.
    """
    from bgdiff.analysis.weights import ess_forward

    return ess_forward(log_weights(target, proposal, x), log_importance)


def bar_log_z(
    ensemble: Ensemble,
    data_log_weight: ArrayLike,
    *,
    data_unit: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """log Z by Bennett's acceptance ratio, from the proposal's samples and from *equilibrium* data together.

    The proposal is normalised, F = 0, so that BAR's F_target - F_proposal is -log Z. It needs less overlap
    than importance weights alone, but data in wrong proportion of basins make it wrong.

    Args:
        ensemble: from :func:`reweight`.
        data_log_weight: ``(m,)`` of samples of the target, from :func:`log_weights`.
        data_unit: ``(m,)`` labels of independent units of the data, such as blocks of a trajectory; by
            default every frame is independent.
        bootstrap: number of resamplings for the error; 0: asymptotic error.

    Raises:
        NoOverlapError: the proposal and the data share no samples.
        DataError: arrays are empty or damaged, or the ensemble's weights are not those of single draws.
    """
    from bgdiff.free_energy.bennett import bar

    if ensemble.family is not None:
        raise DataError(
            "BAR needs independent draws from the proposal (reweight), not samples that were resampled and "
            "moved (anneal)"
        )
    found = bar(
        -np.asarray(ensemble.log_weight),
        data_log_weight,
        reverse_unit=data_unit,
        bootstrap=bootstrap,
        seed=seed,
        names=("the proposal", "the data"),
    )
    turned = {name: -float(found.diagnostics[name]) for name in ("forward", "reverse")}
    turned["disagreement_z"] = -float(found.diagnostics["disagreement_z"])
    return replace(found, value=-found.value, diagnostics={**found.diagnostics, **turned})


def check_draws(
    target: Target, proposal: ProposalDensity, points: Tensor, log_q: Tensor
) -> tuple[Tensor, Tensor]:
    """What ``proposal.sample`` returned, in float64 on the CPU.

    Raises:
        DataError: as for :func:`weigh`.
    """
    points, log_q = points.detach().cpu().to(torch.float64), log_q.detach().cpu().to(torch.float64)
    _check_points(target, proposal.coordinates, points)
    if log_q.shape != points.shape[:1]:
        raise DataError(f"the proposal's log q must have shape ({len(points)},), not {tuple(log_q.shape)}")
    broken = ~torch.isfinite(log_q)
    if bool(broken.any()):
        raise DataError(
            f"the proposal has no finite log density for {int(broken.sum())} of {len(points)} of its own "
            f"samples (first: {int(broken.to(torch.uint8).argmax())}); they cannot be weighted. Evaluate it "
            "in float64, or train it with a smaller learning rate"
        )
    return points, log_q


def check_centroids(system: System, x: Tensor) -> None:
    """Refuse conformations x ``(n, N, D)`` that drift about, if the energy does not care where they are.

    Raises:
        DataError: they do; a density over all coordinates has no weights that could be averaged.
    """
    if system.spec.coordinates not in ("mean_free", "internal"):
        return
    centroid = x.mean(1)
    size = float((x - x.mean(1, keepdim=True)).square().mean().sqrt())
    drift = float(centroid.std(0).max()) if len(x) > 1 else 0.0
    fixed = "centroid"
    if system.spec.coordinates == "internal":
        # the usual gauge of internal coordinates: one atom is nailed to the origin
        drift = min(drift, float(x.std(0).amax(1).min()) if len(x) > 1 else 0.0)
        fixed = "centroid or one of its atoms"
    if drift > _STILL * size:
        raise DataError(
            f"the proposal's conformations of {system.name} drift about (by {drift:.2g}, their size is "
            f"{size:.2g}), but the energy has no external field: over all coordinates its integral is "
            f"infinite. Use a proposal whose {fixed} stands still and whose density leaves it out"
        )


def _check_points(target: Target, coordinates: Coordinates | None, points: Tensor) -> None:
    expected = tuple(target.event_shape) if coordinates is None else (coordinates.dim,)
    if tuple(points.shape[1:]) != expected or points.ndim != 1 + len(expected):
        what = "conformations" if coordinates is None else "latents"
        named = ", ".join(["B", *(str(size) for size in expected)])
        hint = "" if coordinates is not None else "; give `coordinates` if its points are latents"
        raise DataError(f"{what} must have shape ({named}), not {tuple(points.shape)}{hint}")
