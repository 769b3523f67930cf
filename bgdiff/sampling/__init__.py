"""Sampling a known density with thousands of walkers at once.

Pieces that compose: :class:`Walkers` hold the state, a :class:`Move` advances them (Langevin dynamics; HMC,
MALA and turns about bonds, which are exact), :func:`temper` lets ladders of them exchange temperatures,
:func:`exchange_replicas` with :class:`HamiltonianRungs` lets them exchange potentials, and
:mod:`~bgdiff.sampling.diagnostics` judges the chains. All of them work on any
:class:`~bgdiff.targets.base.Target`; their cost is that of its batched forces.
"""

from bgdiff.sampling.diagnostics import effective_draws, rhat
from bgdiff.sampling.hamiltonian import HamiltonianRungs, TunedRungs
from bgdiff.sampling.langevin import LangevinMiddle, kinetic_temperature
from bgdiff.sampling.metropolis import HamiltonianMonteCarlo, adapt_step, mala
from bgdiff.sampling.tempering import (
    Ladders,
    Round,
    Rungs,
    TemperatureRungs,
    exchange,
    exchange_replicas,
    temper,
)
from bgdiff.sampling.torsions import InTurn, Rotor, TorsionJump
from bgdiff.sampling.walkers import Move, UnstableDynamicsError, Walkers, thermal_speed

__all__ = [
    "HamiltonianMonteCarlo",
    "HamiltonianRungs",
    "InTurn",
    "Ladders",
    "LangevinMiddle",
    "Move",
    "Rotor",
    "Round",
    "Rungs",
    "TemperatureRungs",
    "TorsionJump",
    "TunedRungs",
    "UnstableDynamicsError",
    "Walkers",
    "adapt_step",
    "effective_draws",
    "exchange",
    "exchange_replicas",
    "kinetic_temperature",
    "mala",
    "rhat",
    "temper",
    "thermal_speed",
]
