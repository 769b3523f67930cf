"""Maximum likelihood with walkers whose weights make up for their lagging behind the model."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.ladder.densities import State
from bgdiff.ladder.kernels import Prior
from bgdiff.ladder.moves import mala
from bgdiff.ladder.resampling import effective_size, log_mean_weight, shares, systematic
from bgdiff.objectives.base import Objective, Options, Problem, Setup
from bgdiff.objectives.langevin import RungsDensity, alpha, evaluate_with_graph, langevin_step
from bgdiff.objectives.likelihood import likelihood_loss
from bgdiff.objectives.noising import noise_to
from bgdiff.objectives.pool import Pool, widths

__all__ = ["Jarzynski", "JarzynskiOptions", "Walkers", "arrive", "depart", "resample"]


@dataclass(frozen=True)
class Walkers:
    """Walkers on their way: they have moved under the energy U_k and have not yet seen U_{k+1}.

    Args:
        z: X_{k+1} ``(B, d)`` float64.
        previous: X_k ``(B, d)``.
        length: ℓ ``(B, d)`` of the move between the two.
        forward: α_k(X_k, X_{k+1}) of :func:`~bgdiff.objectives.langevin.alpha`, ``(B,)``.
        log_weight: A_k ``(B,)``.
        adjusted: bool ``(B,)``: the move left the density of U_k invariant, and ``forward`` is
            U_k(X_{k+1}).
    """

    z: Tensor
    previous: Tensor
    length: Tensor
    forward: Tensor
    log_weight: Tensor
    adjusted: Tensor


def arrive(walkers: Walkers, state: State, periodic: Tensor) -> Tensor:
    """The weights A_{k+1} ``(B,)`` under the energy U_{k+1} of ``state``.

    After a Langevin step without rejections A_{k+1} = A_k - α_{k+1}(X_{k+1}, X_k) + α_k(X_k, X_{k+1});
    after a move that leaves U_k's density invariant A_{k+1} = A_k - U_{k+1}(X_{k+1}) + U_k(X_{k+1}). Then

        E[f(X_k) e^{A_k}] / E[e^{A_k}] = E_k[f]   and   E[e^{A_k}] = Z_k/Z_0

    for any protocol of energies and any step length (Carbone et al. 2023, arXiv 2305.19414, proposition 1,
    for the first; Carbone 2025, arXiv 2506.07843, for kernels at large). The first is e^(-U_{k+1}(y)) times
    the density of the way back under the *new* energy, over e^(-U_k(x)) times that of the way there under
    the old one; its mean over y is Z_{k+1}/Z_k whatever the two kernels.

    Args:
        state: the walkers' ``z`` under the new energy.
    """
    back = alpha(state, walkers.previous, walkers.length, periodic)
    back = torch.where(walkers.adjusted, -state.log_density, back)
    return walkers.log_weight - back + walkers.forward


def depart(
    state: State,
    log_weight: Tensor,
    length: Tensor,
    density: RungsDensity,
    generator: torch.Generator,
    *,
    adjust: bool,
) -> Walkers:
    """Move walkers under the current energy.

    Args:
        state: walkers under it; ``log_weight`` their A_k ``(B,)``.
        length: ℓ ``(B, d)``: z' = z + ½ ℓ² ∇log p + ℓ ξ, ℓ² = 2h.
        density: the current energy.
        adjust: accept or reject (MALA).
    """
    adjusted = torch.full_like(log_weight, adjust, dtype=torch.bool)
    if adjust:
        new, _ = mala(length, 1.0)(state, density, generator)
        return Walkers(new.z, state.z, length, -new.log_density, log_weight, adjusted)
    z = langevin_step(state, length, density.periodic, generator)
    forward = alpha(state, z, length, density.periodic)
    return Walkers(z, state.z, length, forward, log_weight, adjusted)


def resample(log_weight: Tensor, threshold: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample those populations whose effective size has fallen below ``threshold`` · M.

    Their weights become equal, with the mean they had: estimates of Z_k/Z_0 remain (algorithm 2 of
    Carbone et al. 2023, systematic resampling).

    Args:
        log_weight: ``(R, M)``, R populations of M walkers, each with a finite weight at least.

    Returns:
        Rows ``(R, M)`` of the walkers that live on, and their log weights ``(R, M)``.
    """
    rows = torch.arange(log_weight.shape[1], device=log_weight.device).repeat(len(log_weight), 1)
    kept = log_weight.clone()
    for index, population in enumerate(log_weight):
        if effective_size(population) < threshold * len(population):
            rows[index] = systematic(population, generator)
            kept[index] = log_mean_weight(population)
    return rows, kept


class JarzynskiOptions(Options):
    """Of :class:`Jarzynski`."""

    walkers: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """M of each rung. Resampling lets the relative weights of modes drift by about 1/√M: many walkers on few
    rungs at a time serve better than few on many."""
    rungs: Annotated[int, Field(ge=1, le=100_000)] = 4
    """Rungs that a training step works on, drawn from the batch's; all of their walkers move."""
    kernel: Literal["ula", "mala"] = "ula"
    """Langevin steps without or with accepting and rejecting; weights are exact with both."""
    step: Annotated[float, Field(gt=0, le=10)] = 0.4
    """Length ℓ of a move, in units of the width E[s²]^(-1/2) of each axis."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Effective size, as a share of M, below which a rung's walkers are resampled."""


class Jarzynski(Objective):
    """:func:`~bgdiff.objectives.likelihood.likelihood_loss` with weighted walkers (Carbone et al. 2023).

    Every rung has its own population. Each training step takes some of the batch's rungs, all of the batch's
    data points noised to them, and the rungs' walkers. Weights are brought to the current parameters, the
    loss is taken, and the walkers move. Between two visits of a rung the parameters may change as they like:
    weights are exact for any protocol. The mean weight is a running estimate of the rung's normaliser
    relative to the prior N(0, 1 + σ²), see :meth:`log_normalisers`; the loss leaves the learned normalisers
    alone.
    """

    name = "jarzynski"
    options_class = JarzynskiOptions
    options: JarzynskiOptions

    previous: Tensor
    length: Tensor
    forward_alpha: Tensor
    log_weight: Tensor
    adjusted: Tensor

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.pool = Pool(setup.sigma, setup.model.periodic, self.options.walkers, setup.generator)
        z = self.pool.z
        # walkers start as equilibrium draws of the prior's energy, as after an exact move under it
        energy = [
            -Prior(float(s), setup.model.periodic).log_prob(x) for s, x in zip(setup.sigma, z, strict=True)
        ]
        self.register_buffer("previous", z.clone())
        self.register_buffer("length", torch.ones_like(z[:, 0]))
        self.register_buffer("forward_alpha", torch.stack(energy))
        self.register_buffer("log_weight", torch.zeros_like(z[..., 0]))
        self.register_buffer("adjusted", torch.ones(len(z), dtype=torch.bool, device=z.device))

    def loss(self, problem: Problem) -> Tensor:
        model, options, generator = problem.model, self.options, problem.generator
        m, periodic = self.pool.size, model.periodic
        present = problem.rungs[problem.noisy].unique()
        chosen = torch.randperm(len(present), generator=generator, device=present.device)[: options.rungs]
        rungs = present[chosen]
        clean = problem.clean
        place = torch.arange(len(clean), device=clean.device) % len(rungs)
        data, _ = noise_to(clean, problem.sigma[rungs][place], periodic, generator)
        value, at_data = evaluate_with_graph(model, data, problem.sigma[rungs][place])
        # the walkers of these rungs, brought to the current parameters
        level = problem.sigma[rungs].repeat_interleave(m)
        walkers = self._walkers(rungs)
        log_samples, state = evaluate_with_graph(model, walkers.z.to(data), level)
        state = State(walkers.z, state.log_density, state.score)
        log_weight = arrive(walkers, state, periodic).reshape(len(rungs), m)
        self._check(log_weight, rungs, problem)
        # each rung's walkers share the weight that its data have
        share = torch.stack([shares(population) for population in log_weight])
        portion = place.bincount(minlength=len(rungs)) / len(place)
        loss = likelihood_loss(value, log_samples, (share * portion[:, None]).flatten())
        if self.training:
            rows, log_weight = resample(log_weight, options.threshold, generator)
            rows = (rows + m * torch.arange(len(rungs), device=rows.device)[:, None]).flatten()
            moment = self.pool.measured(model, rungs[place], at_data.score)
            length = options.step * widths(moment, rungs, problem.sigma, periodic)
            moved = depart(
                state.take(rows), log_weight.flatten(), length.repeat_interleave(m, 0),
                RungsDensity(model, level), generator, adjust=options.kernel == "mala",
            )  # fmt: skip
            self.pool.moment.copy_(moment)
            self._store(rungs, moved, length)
        return loss if problem.create_graph else loss.detach()

    def log_normalisers(self) -> Tensor:
        """log Z_k - log Z_prior of each rung's model at its last visit, ``(K+1,)``; 0 where there was none.

        One population's estimate: consistent, its noise that of the weights.
        """
        return torch.stack([log_mean_weight(population) for population in self.log_weight])

    def _walkers(self, rungs: Tensor) -> Walkers:
        m = self.pool.size
        return Walkers(
            self.pool.z[rungs].flatten(0, 1),
            self.previous[rungs].flatten(0, 1),
            self.length[rungs].repeat_interleave(m, 0),
            self.forward_alpha[rungs].flatten(),
            self.log_weight[rungs].flatten(),
            self.adjusted[rungs].repeat_interleave(m),
        )

    def _store(self, rungs: Tensor, walkers: Walkers, length: Tensor) -> None:
        shape = len(rungs), self.pool.size
        self.pool.z[rungs] = walkers.z.reshape(*shape, -1)
        self.previous[rungs] = walkers.previous.reshape(*shape, -1)
        self.length[rungs] = length
        self.forward_alpha[rungs] = walkers.forward.reshape(shape)
        self.log_weight[rungs] = walkers.log_weight.reshape(shape)
        self.adjusted[rungs] = walkers.adjusted.reshape(shape)[:, 0]

    @staticmethod
    def _check(log_weight: Tensor, rungs: Tensor, problem: Problem) -> None:
        lost = ~torch.isfinite(log_weight).any(1)
        if bool(lost.any()):
            rung = int(rungs[lost][0])
            raise DataError(
                f"jarzynski: no walker of rung {rung} (sigma = {float(problem.sigma[rung]):.3g}) has a "
                "finite weight any more; use a smaller step, kernel mala, or a lower training.learning_rate"
            )
