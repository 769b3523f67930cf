r"""bgflow and bgdiff together: energies for its flows, flows as proposals, coordinates both ways.

bgflow is optional and imported when it is first needed (:func:`import_bgflow`). Its conventions: an energy is
``(B, 1)`` and reduced, u = βU; a ``BoltzmannGenerator`` has the energy -log q(x) if its prior is normalised;
a flow yields ``(*outputs, dlogp)`` with dlogp = log|det d outputs/d inputs| ``(B, 1)``; events are often
flat, ``(B, N·D)``.

Reference: Noé, Olsson, Köhler & Wu, Science 365, eaaw1147 (2019); https://github.com/noegroup/bgflow.
"""

from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates import Coordinates
from bgdiff.errors import ConfigError, DataError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.interop.bgflow_coordinates import FlowCoordinates
from bgdiff.interop.bgflow_priors import forget, inside_support, prior_log_z
from bgdiff.interop.bgflow_shims import import_bgflow
from bgdiff.interop.proposal_checks import UnnormalisedError, check_normalised
from bgdiff.interop.proposals import FunctionProposal, seeded
from bgdiff.systems import System
from bgdiff.targets.base import Target

__all__ = [
    "BgflowProposal",
    "BgflowTarget",
    "FlowCoordinates",
    "coordinates_flow",
    "import_bgflow",
    "prior_log_z",
    "rung_energy",
    "target_energy",
]

_SAME = 1e-4  # kT


def target_energy(target: System | Target, *, flat: bool = True) -> Any:
    """A system's or target's reduced energy as a ``bgflow.Energy``; for bgflow's training and samplers.

    Args:
        flat: whether its events are ``(N·D,)``, as most of bgflow's flows yield them, or ``(N, D)``.

    Raises:
        ConfigError: bgflow is missing; the message says how to install it.
    """
    from bgdiff.interop.bgflow_energies import TargetEnergy

    return TargetEnergy(target.target if isinstance(target, System) else target, flat=flat)


def rung_energy(generator: BoltzmannGenerator, rung: int) -> Any:
    """The learned energy -log p̃_θ(z, σ_k) of rung k ≥ 1 of a trained ladder as a ``bgflow.Energy``.

    Its events are latents ``(d,)`` of ``generator.coordinates``; :func:`coordinates_flow` leads from there to
    conformations.

    Raises:
        ConfigError: there is no such rung, or it is rung 0, the target; or bgflow is missing.
    """
    sigma = generator.ladder.sigma
    if not 0 <= rung < len(sigma):
        raise ConfigError(f"the ladder has the rungs 0 … {len(sigma) - 1}, not {rung}")
    from bgdiff.interop.bgflow_energies import RungEnergy

    return RungEnergy(generator.ladder.model, float(sigma[rung]))


def coordinates_flow(coordinates: Coordinates, shape: tuple[int, int], *, flat: bool = True) -> Any:
    """A coordinate map as a ``bgflow.Flow`` from latents ``(B, d)`` to conformations; a flow's last layer.

    Raises:
        ConfigError: bgflow is missing.
    """
    from bgdiff.interop.bgflow_energies import CoordinatesFlow

    return CoordinatesFlow(coordinates, shape, flat=flat)


class BgflowProposal:
    """A bgflow ``BoltzmannGenerator``, or a sampler with its energy, as a proposal.

    The target of a Boltzmann generator is never used: the system that the proposal is weighted to has its
    own, without cache. Each call of an energy of bgflow begins with empty caches.

    Args:
        sampler: a ``BoltzmannGenerator``, or anything else of bgflow that is both sampler and energy; or a
            sampler, with ``energy``.
        energy: -log of the sampler's density.
        coordinates: map of the latents that it draws; None if it draws conformations.
        shape: ``(N, D)`` of conformations, where ``coordinates`` is None.
        log_prior_z: log ∫ exp(-energy) of the prior (of the energy, without a flow), if that is not 0;
            :func:`prior_log_z` knows it for bgflow's own distributions.
        seed: of the numerical check of a prior that is not known.

    Raises:
        UnnormalisedError: the prior is not normalised, and ``log_prior_z`` does not say by how much.
        ConfigError: it draws several tensors, or neither coordinates nor the shape of conformations is given.
        DataError: whether a prior is normalised cannot be told.
    """

    def __init__(
        self,
        sampler: Any,
        energy: Any = None,
        *,
        coordinates: Coordinates | None = None,
        shape: tuple[int, int] | None = None,
        log_prior_z: float | None = None,
        seed: int = 0,
    ) -> None:
        if (coordinates is None) == (shape is None):
            raise ConfigError(
                "a bgflow proposal draws either latents (give coordinates) or conformations (give shape)"
            )
        self.sampler, self._coordinates, self.shape = sampler, coordinates, shape
        self._flow = None if energy is not None else getattr(sampler, "flow", None)
        self._prior = sampler.prior if self._flow is not None else sampler if energy is None else energy
        self._source = self._prior if self._flow is not None else sampler
        if not hasattr(self._prior, "energy"):
            raise ConfigError(f"{type(sampler).__name__} has no energy; give the one of its density")
        self.log_prior_z = _normaliser(self._source, self._prior, log_prior_z, seed)
        with seeded(seed), torch.no_grad():
            drawn, _ = self._draw(2)
        expected = coordinates.dim if coordinates is not None else shape[0] * shape[1] if shape else 0
        if drawn[0].numel() != expected:
            raise ConfigError(
                f"{type(sampler).__name__} draws events of {drawn[0].numel()} numbers, but "
                f"{'the coordinates' if coordinates is not None else 'conformations'} have {expected}"
            )
        self._event, self._like = drawn.shape[1:], drawn

    @property
    def coordinates(self) -> Coordinates | None:
        return self._coordinates

    def sample(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed), torch.no_grad():
            x, log_q = self._draw(n)
        return x.reshape(n, *(self.shape or (-1,))), log_q

    def log_prob(self, points: Tensor) -> Tensor:
        x = points.reshape(len(points), *self._event).to(self._like)
        z, log_det = (x,), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if self._flow is not None:
            *z_list, dlogp = self._flow(x, inverse=True)
            z, log_det = tuple(z_list), _column(dlogp, len(x), "the flow's dlogp", constant=True)
        inside = inside_support(self._prior, *z)
        value = torch.full_like(log_det, -torch.inf)
        if bool(inside.any()):
            energy = self._energy(*(one[inside] for one in z))
            value = value.masked_scatter(inside, log_det[inside] - energy - self.log_prior_z)
        return value.to(points.device)

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        drawn = _tensors(self._source.sample(n))
        log_q = -self._energy(*drawn) - self.log_prior_z
        if self._flow is not None:
            *drawn, dlogp = self._flow(*drawn)
            log_q = log_q - _column(dlogp, n, "the flow's dlogp", constant=True)
        if len(drawn) != 1:
            raise ConfigError(
                f"{type(self.sampler).__name__} draws {len(drawn)} tensors; let its flow end with the "
                "coordinate transform that joins them to conformations"
            )
        return drawn[0], log_q

    def _energy(self, *z: Tensor) -> Tensor:
        forget(self._prior)
        return _column(self._prior.energy(*z), len(z[0]), f"the energy of {type(self._prior).__name__}")


class BgflowTarget:
    """A ``bgflow.Energy`` as a bgdiff target; forces by automatic differentiation, caches emptied before use.

    Args:
        energy: with one event tensor.
        shape: ``(N, D)`` of conformations.
    """

    def __init__(self, energy: Any, shape: tuple[int, int]) -> None:
        self._energy, self._shape = energy, (int(shape[0]), int(shape[1]))

    @property
    def event_shape(self) -> tuple[int, int]:
        return self._shape

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of conformations ``(B, N, D)``, float64."""
        forget(self._energy)
        events = x.reshape(len(x), *self._energy.event_shape)
        return _column(self._energy.energy(events), len(x), f"the energy of {type(self._energy).__name__}")

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``, float64."""
        with torch.enable_grad():
            x = x.detach().to(torch.float64).requires_grad_(True)
            energy = self.energy(x)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), -gradient


def _normaliser(source: Any, prior: Any, given: float | None, seed: int) -> float:
    """log ∫ exp(-energy) of the prior, which must be told unless it is 0."""
    known, name = prior_log_z(prior), type(prior).__name__
    if given is not None:
        if known is not None and abs(known - given) > _SAME:
            raise UnnormalisedError(
                f"{name}: log_prior_z = {given:g}, but the log of the integral of exp(-energy) is {known:g}"
            )
        return float(given)
    if known is not None:
        if abs(known) > _SAME:
            raise UnnormalisedError(
                f"the prior {name} leaves the constant out of its energy: the log of the integral of "
                f"exp(-energy) is {known:.6g}, and log Z would be wrong by as much. Give "
                "log_prior_z=prior_log_z(prior) to put it right"
            )
        return known

    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed), torch.no_grad():
            z = _one(source.sample(n), name)
            return z, log_density(z)

    def log_density(z: Tensor) -> Tensor:
        forget(prior)
        events = z.to(like.dtype).reshape(len(z), *like.shape[1:])
        return -_column(prior.energy(events), len(z), f"the energy of {name}")

    with seeded(seed), torch.no_grad():
        like = _one(source.sample(2), name)
    check_normalised(FunctionProposal(draw, log_density), seed=seed, name=f"the prior {name}")
    return 0.0


def _one(sampled: Any, name: str) -> Tensor:
    tensors = _tensors(sampled)
    if len(tensors) != 1:
        raise DataError(
            f"whether the prior {name} of {len(tensors)} tensors is normalised cannot be told; give "
            "log_prior_z, which is 0 for a normalised prior"
        )
    return tensors[0]


def _tensors(sampled: Any) -> list[Tensor]:
    return [sampled] if isinstance(sampled, Tensor) else list(sampled)


def _column(value: Any, n: int, what: str, *, constant: bool = False) -> Tensor:
    """A column ``(n, 1)``, or what bgflow uses in its place, as float64 ``(n,)``."""
    tensor = torch.as_tensor(value)
    if constant and tensor.numel() == 1:  # a flow of constant volume
        return tensor.reshape(1).expand(n).to(torch.float64)
    if tuple(tensor.shape) not in ((n, 1), (n,)):
        raise DataError(f"{what} must have the shape ({n}, 1), not {tuple(tensor.shape)}")
    return tensor.reshape(n).to(torch.float64)
