r"""Flows of zuko as proposals, trained by maximum likelihood on bgdiff's latents.

A flow is the usual alternative to bgdiff's ladder of energies: one map, one log q per sample. With the same
coordinates, data and correction, the two can be compared on one's own molecule.

    flow = make_flow(coordinates)
    fitted = fit_flow(system, data, flow)
    ensemble = reweight(system, fitted.proposal, 10_000)

Periodic axes: a flow over the real line does not know that -π and π are one place. :class:`TorsionFlow` does:
its density is q(φ) q(r | cos φ, sin φ) with a circular spline flow for the angles φ and a spline flow for the
real axes r. Other flows are refused for coordinates with periodic axes, but for a ``zuko.flows.NCSF`` where
all axes are periodic.

References: Durkan et al., NeurIPS 2019, arXiv:1906.04032 (splines); Rezende et al., ICML 2020,
arXiv:2002.02428 (circular splines); zuko: https://zuko.readthedocs.io.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bgdiff.coordinates import Coordinates, wrap
from bgdiff.errors import ConfigError, DataError
from bgdiff.interop.proposals import seeded
from bgdiff.preparation import fit_coordinates
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for
from bgdiff.systems import System

if TYPE_CHECKING:
    from bgdiff.data.dataset import Dataset

__all__ = ["FittedFlow", "TorsionFlow", "ZukoProposal", "fit_flow", "import_zuko", "make_flow"]

_EVALUATIONS = 20  # of the held-out likelihood during a training, at most
_FEWEST_STEPS = 25  # between two of them
_LARGEST_GRADIENT = 5.0


def import_zuko() -> Any:
    """Import zuko.

    Raises:
        ConfigError: it is not installed; the message says how to.
    """
    try:
        import zuko
    except ImportError as error:
        raise ConfigError(
            f"zuko cannot be imported ({error}); install it with: pip install 'bgdiff[zuko]'"
        ) from error
    return zuko


class TorsionFlow(nn.Module):
    """q(z) = q(φ) q(r | cos φ, sin φ) for angles φ and real axes r, exactly normalised on both.

    Args:
        periodic: bool ``(d,)``; at least one axis is periodic.
        settings: of both flows: ``transforms``, ``hidden_features``, ``bins`` and what else zuko's
            ``NCSF`` and ``NSF`` take.

    Raises:
        ConfigError: no axis is periodic, or zuko is missing.
    """

    periodic: Tensor

    def __init__(self, periodic: Tensor, **settings: Any) -> None:
        super().__init__()
        flows = import_zuko().flows
        angles = int(periodic.sum())
        real = len(periodic) - angles
        if not angles:
            raise ConfigError("a torsion flow needs at least one periodic axis; use zuko.flows.NSF")
        self.register_buffer("periodic", periodic.clone())
        self.circular: nn.Module = flows.NCSF(angles, **settings)
        self.linear: nn.Module | None = flows.NSF(real, context=2 * angles, **settings) if real else None

    def log_prob(self, z: Tensor) -> Tensor:
        """log q ``(B,)`` at z ``(B, d)``, angles anywhere."""
        angle = wrap(z[:, self.periodic])
        value = _circular_log_prob(self.circular, angle)
        if self.linear is not None:
            value = value + self.linear(_turns(angle)).log_prob(z[:, ~self.periodic])
        return value

    def rsample_and_log_prob(self, n: int) -> tuple[Tensor, Tensor]:
        """n points ``(n, d)``, angles in [-π, π), and their log q ``(n,)``."""
        angle, log_q = _circular_sample(self.circular, int(self.periodic.sum()), n)
        z = angle.new_zeros(n, len(self.periodic))
        z = z.masked_scatter(self.periodic.expand_as(z), angle)
        if self.linear is not None:
            real, value = self.linear(_turns(angle)).rsample_and_log_prob()
            z = z.masked_scatter(~self.periodic.expand_as(z), real)
            log_q = log_q + value
        return z, log_q


class ZukoProposal:
    """A trained flow as a proposal.

    The flow is evaluated in the precision of its own parameters; ``flow.double()`` makes that of its
    inversion 1e-12 instead of 1e-4.

    Args:
        flow: a ``zuko.flows`` flow without context over d features, or a :class:`TorsionFlow`.
        coordinates: map of the latents that the flow draws; None for conformations.
        shape: ``(N, D)`` of conformations, where ``coordinates`` is None; d = N·D.

    Raises:
        ConfigError: the coordinates have periodic axes and the flow has not, or neither coordinates nor the
            shape of conformations is given.
    """

    def __init__(
        self,
        flow: nn.Module,
        coordinates: Coordinates | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        if (coordinates is None) == (shape is None):
            raise ConfigError("a flow draws either latents (give coordinates) or conformations (give shape)")
        self.flow, self._coordinates, self.shape = flow, coordinates, shape
        self._circular = False if coordinates is None else _check_circular(flow, coordinates)

    @property
    def coordinates(self) -> Coordinates | None:
        return self._coordinates

    def sample(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed), torch.no_grad():
            if isinstance(self.flow, TorsionFlow):
                points, log_q = self.flow.rsample_and_log_prob(n)
            elif self._circular:
                points, log_q = _circular_sample(self.flow, self._dim, n)
            else:
                points, log_q = self.flow().rsample_and_log_prob((n,))
        if self.shape is not None and points.shape[1] != math.prod(self.shape):
            raise ConfigError(f"the flow draws {points.shape[1]} numbers, but shape is {self.shape}")
        return points if self.shape is None else points.reshape(n, *self.shape), log_q

    def log_prob(self, points: Tensor) -> Tensor:
        z = points.flatten(1).to(_dtype(self.flow))
        return log_prob_of(self.flow, z, circular=self._circular).to(points.dtype)

    @property
    def _dim(self) -> int:
        assert self._coordinates is not None
        return self._coordinates.dim


@dataclass(frozen=True)
class FittedFlow:
    """A flow after training.

    Args:
        proposal: draws latents of ``coordinates``; evaluated in float64.
        coordinates: fitted to the training part of the data.
        held_out: conformations ``(m, N, D)`` that training did not see, for the forward effective sample
            size.
        held_out_loss: mean -log q(z) of them, in nats, as training went on.
        best_step: after which the flow was kept: the lowest held-out loss.
    """

    proposal: ZukoProposal
    coordinates: Coordinates
    held_out: Tensor
    held_out_loss: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0


def make_flow(
    coordinates: Coordinates,
    *,
    transforms: int = 3,
    hidden: tuple[int, ...] = (64, 64),
    bins: int = 8,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """An untrained spline flow over the latents of these coordinates, circular where they are.

    Args:
        transforms: autoregressive transformations.
        hidden: widths of their networks.
        bins: of the splines.
        seed: of the initial parameters.
        settings: what else ``zuko.flows.NSF`` takes, for example ``passes=2`` for coupling layers, which draw
            faster in many dimensions.

    Raises:
        ConfigError: zuko is missing.
    """
    flows = import_zuko().flows
    shared = {"transforms": transforms, "hidden_features": hidden, "bins": bins, **settings}
    periodic = coordinates.periodic.cpu()
    with seeded(derive_seed(seed, "zuko", "flow")):
        flow: nn.Module = (
            TorsionFlow(periodic, **shared) if bool(periodic.any()) else flows.NSF(len(periodic), **shared)
        )
    return flow


def fit_flow(
    system: System,
    data: "Dataset",
    flow: nn.Module | None = None,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    held_out: float = 0.1,
    seed: int = 0,
    coordinates: Coordinates | None = None,
    progress: Progress = silent,
) -> FittedFlow:
    """Train a flow by maximum likelihood on the latents of a data set.

    Args:
        flow: over the latents of ``coordinates``, in float32 or float64; trained in place. By default
            :func:`make_flow`.
        steps: of Adam, with a cosine schedule of the learning rate and gradients clipped at norm 5.
        held_out: fraction of the data, as in bgdiff's own training. The parameters with the lowest loss on it
            are kept.
        seed: of the held-out part and the batches; the same seed holds out the same frames as ``train``.
        coordinates: fitted ones; by default the system's, fitted to the training part.

    Raises:
        ConfigError: a number is out of range, the flow does not fit the coordinates, or zuko is missing.
        DataError: too few frames, or the loss is not finite.
    """
    if steps < 1 or batch_size < 1 or learning_rate <= 0:
        raise ConfigError(
            "training a flow needs a positive number of steps, batch size and learning rate, not "
            f"{steps}, {batch_size}, {learning_rate}"
        )
    training, rest = data.split(held_out, seed)
    coordinates = coordinates or fit_coordinates(system, training.x)
    flow = flow or make_flow(coordinates, seed=seed)
    circular, dtype = _check_circular(flow, coordinates), _dtype(flow)
    z, z_rest = (coordinates.to_z(part.x)[0].to(dtype) for part in (training, rest))
    optimiser = torch.optim.Adam(flow.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = generator_for(seed, "zuko", "batches")
    every, losses = max(_FEWEST_STEPS, steps // _EVALUATIONS), []
    best, kept, kept_step = math.inf, copy.deepcopy(flow.state_dict()), 0
    for step in range(1, steps + 1):
        rows = torch.randint(len(z), (batch_size,), generator=generator)
        loss = -log_prob_of(flow, z[rows], circular=circular).mean()
        if not bool(torch.isfinite(loss)):
            raise DataError(f"the flow's loss is not finite in step {step}: use a smaller learning rate")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), _LARGEST_GRADIENT)
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps:
            with torch.no_grad():
                judged = z_rest if len(z_rest) else z
                losses.append((step, float(-log_prob_of(flow, judged, circular=circular).mean())))
            if losses[-1][1] < best:
                best, kept, kept_step = losses[-1][1], copy.deepcopy(flow.state_dict()), step
            progress(step, steps, f"loss {losses[-1][1]:.3f}")
    flow.load_state_dict(kept)
    precise = copy.deepcopy(flow).double().eval().requires_grad_(False)
    return FittedFlow(ZukoProposal(precise, coordinates), coordinates, rest.x, losses, kept_step)


def log_prob_of(flow: nn.Module, z: Tensor, *, circular: bool = False) -> Tensor:
    """log q ``(B,)`` of a flow, or of a circular one whose axes are all periodic."""
    if isinstance(flow, TorsionFlow):
        return flow.log_prob(z)
    value: Tensor = _circular_log_prob(flow, wrap(z)) if circular else flow().log_prob(z)
    return value


def _check_circular(flow: nn.Module, coordinates: Coordinates) -> bool:
    """Whether a flow of zuko is to be evaluated on the circle; refuses one that does not fit the axes."""
    periodic = coordinates.periodic.cpu()
    if isinstance(flow, TorsionFlow):
        if not torch.equal(flow.periodic.cpu(), periodic):
            raise ConfigError("the torsion flow was made for other coordinates: its periodic axes are others")
        return False
    if not bool(periodic.any()):
        return False
    if bool(periodic.all()) and isinstance(flow, import_zuko().flows.NCSF):
        return True
    raise ConfigError(
        f"the coordinates have {int(periodic.sum())} periodic axes (torsions) of {len(periodic)}, but "
        f"{type(flow).__name__} is a flow over the real line, where -π and π are two places; use "
        "bgdiff.interop.zuko.make_flow(coordinates), which is circular on these axes"
    )


# zuko's NCSF has a base that is uniform on an interval 2e-5 wider than the circle, lest rounding push points
# out of it. Here the base is uniform on the circle itself, and rounding is none of its business.


def _circular_log_prob(flow: nn.Module, angle: Tensor) -> Tensor:
    _, log_det = flow.transform(None).call_and_ladj(angle)  # type: ignore[operator]
    value: Tensor = log_det - angle.shape[1] * math.log(2 * math.pi)
    return value


def _circular_sample(flow: nn.Module, d: int, n: int) -> tuple[Tensor, Tensor]:
    base = (2 * torch.rand(n, d, dtype=_dtype(flow)) - 1) * math.pi
    angle, log_det = flow.transform(None).inv.call_and_ladj(base)  # type: ignore[operator]
    return wrap(angle), -log_det - d * math.log(2 * math.pi)


def _turns(angle: Tensor) -> Tensor:
    return torch.cat([angle.cos(), angle.sin()], -1)


def _dtype(flow: nn.Module) -> torch.dtype:
    return next(flow.parameters()).dtype
