r"""log Z from equilibrium samples of the rungs: MBAR over all of them, and integration over the noise level.

With F(σ) = -log Z_θ(σ) of the model's rungs, dF/d ln σ = ⟨-∂ log p̃_θ(z, σ)/∂ ln σ⟩ at the rung σ, so

    log Z = [F_prior - F(σ_top)] + ∫_{σ_1}^{σ_top} ⟨-∂ log p̃_θ/∂ ln σ⟩ d ln σ + [F(σ_1) - F_target],

where σ_top is the highest chosen rung below the prior. Only energies of neighbouring noise levels belong to
one family that can be differentiated: the steps from the prior, whose density the model need not share, and
to the target are Bennett's (Zwanzig's, if there are no samples of the target).

The points of one population depend on each other at all rungs. So the terms are correlated, and the error is
that of sums over populations of what each point changes in the whole, to first order.

References: Kirkwood, J. Chem. Phys. 3, 300 (1935); Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008).
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bgdiff.errors import ConfigError
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.bootstrap import unit_error
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.integration import quadrature_weights, thermodynamic_integration
from bgdiff.free_energy.multistate import Multistate, mbar
from bgdiff.free_energy.perturbation import fep
from bgdiff.ladder.rung_samples import RungSamples, noise_derivatives

__all__ = ["integrate_noise", "log_z_by_mbar", "mbar_of_rungs"]

Array = NDArray[np.float64]


def mbar_of_rungs(
    samples: RungSamples,
    energy: Array,
    *,
    initial: Array | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Multistate:
    """MBAR over the states of rung samples, populations being the independent units.

    Args:
        energy: of :func:`bgdiff.ladder.rung_samples.energy_matrix`, with the target.
        initial: free energies to start from ``(S,)``.

    Raises:
        NoOverlapError, NotConvergedError: as :func:`~bgdiff.free_energy.multistate.mbar` says.
    """
    return mbar(
        energy,
        np.array(samples.counts),
        initial=initial,
        unit=samples.unit.cpu().numpy(),
        bootstrap=bootstrap,
        seed=seed,
    )


def log_z_by_mbar(states: Multistate) -> Estimate:
    """log Z of the target, F_prior - F_target, from what :func:`mbar_of_rungs` returned."""
    change = states.difference(len(states.counts) - 1, 0)
    return replace(change, value=-change.value, method=change.method.replace("MBAR", "log Z by MBAR", 1))


def integrate_noise(samples: RungSamples, energy: Array) -> Estimate:
    """log Z of the target by integration over the noise level, from the prior to rung 1, and on to the
    target.

    Args:
        energy: of :func:`bgdiff.ladder.rung_samples.energy_matrix`, with the target.

    Returns:
        The error holds that of the quadrature. n_eff is the number of independent points that would give the
        same error; the overlap is the smaller one of both end steps. Diagnostics: the three terms
        ``prior_step``, ``integral``, ``target_step``; ``statistical_std_error``, ``quadrature_error``,
        ``n_nodes``.

    Raises:
        ConfigError: fewer than three rungs of the model were sampled, or the energies lack the target.
        NoOverlapError: an end does not overlap with its neighbour.
    """
    top = len(samples.rungs) - 2
    if top < 3:
        raise ConfigError(f"integration needs samples of three rungs or more, not {top}; choose them closer")
    if len(energy) != len(samples.rungs):
        raise ConfigError("integration to the target needs its energies; give the target to energy_matrix")
    unit = samples.unit.cpu().numpy()
    nodes = np.log(samples.sigma[1 : top + 1].cpu().double().numpy())
    slopes = [noise_derivatives(samples, state).cpu().numpy() for state in range(1, top + 1)]
    integral = thermodynamic_integration(nodes, slopes)
    change = np.zeros(len(unit))
    for state, weight, slope in zip(range(1, top + 1), quadrature_weights(nodes), slopes, strict=True):
        change[samples.rows(state)] += weight * (slope - slope.mean()) / slope.size
    above = _step(samples, energy, top, top + 1)
    below = _step(samples, energy, 0, 1)
    for step, low in ((above, top), (below, 0)):
        change += _influence(samples, energy, low, step.value)
    statistical = unit_error([change], [unit])
    quadrature = float(integral.diagnostics["quadrature_error"])
    error = math.hypot(statistical, quadrature)
    return Estimate(
        above.value + integral.value + below.value,
        error,
        "thermodynamic integration over ln σ, cubic spline, first-order error over populations",
        1 / (error**2 + 1 / len(unit)),
        min(above.overlap or 0.0, below.overlap or 0.0),
        {
            "prior_step": above.value,
            "integral": integral.value,
            "target_step": below.value,
            "statistical_std_error": statistical,
            "quadrature_error": quadrature,
            "n_nodes": len(nodes),
        },
    )


def _works(samples: RungSamples, energy: Array, low: int) -> tuple[Array, Array]:
    """Works up from the points of a state, and down from those of the next."""
    up = energy[low + 1] - energy[low]
    return up[samples.rows(low)], -up[samples.rows(low + 1)]


def _step(samples: RungSamples, energy: Array, low: int, high: int) -> Estimate:
    """F_high - F_low of neighbouring states."""
    up, down = _works(samples, energy, low)
    if up.size:
        return bar(up, down, names=(f"state {low}", f"state {high}"))
    reverse = fep(down)
    return replace(reverse, value=-reverse.value)


def _influence(samples: RungSamples, energy: Array, low: int, value: float) -> Array:
    """What each point ``(N,)`` adds to F_{low + 1} - F_low."""
    up, down = _works(samples, energy, low)
    change = np.zeros(energy.shape[1])
    if not up.size:
        weight = np.exp(np.min(down) - down)
        change[samples.rows(low + 1)] = weight / weight.sum() - 1 / weight.size
        return change
    shift = math.log(up.size / down.size)
    f, g = expit(value - shift - up), expit(shift - value - down)
    slope = float((f * (1 - f)).sum() + (g * (1 - g)).sum())
    change[samples.rows(low)] = -(f - f.mean()) / slope
    change[samples.rows(low + 1)] = (g - g.mean()) / slope
    return change
