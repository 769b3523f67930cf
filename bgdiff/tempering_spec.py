"""What a ``system.yaml`` may say about sampling a toy density: plain chains, ladders of replicas."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ChainsSpec", "InterpolationSpec", "LaddersSpec", "ToyLaddersSpec"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChainsSpec(_Model):
    """How ``bgdiff data generate`` makes MALA chains on a toy density: ``chains_per_start`` per start."""

    starts: Annotated[list[list[float]], Field(min_length=1)]
    """Positions of all particles, or of one that stands for all."""
    chains_per_start: Count = 1
    frames: Count
    """Frames kept of each chain."""
    spacing: Count = 1
    """Steps from one kept frame to the next."""
    step: Positive = 0.01
    """Time step of the overdamped Langevin proposal, reduced units."""
    equilibration: Annotated[int, Field(ge=0)] = 0
    """Steps before the first kept frame."""

    @model_validator(mode="after")
    def _starts_of_one_length(self) -> "ChainsSpec":
        if len({len(start) for start in self.starts}) > 1:
            raise ValueError("starts: every start needs as many numbers as the others")
        return self


class LaddersSpec(_Model):
    """Independent ladders of replicas; moves are Hamiltonian Monte Carlo with unit masses."""

    ladders: Count = 16
    """In every group."""
    step: Positive = 0.1
    """Of the leapfrog integrator, reduced units of time."""
    acceptance: Fraction | None = None
    """To which the step of every rung is tuned during equilibration; all keep ``step`` if left out."""
    leapfrog_steps: Count = 10
    """In a trajectory; exchanges follow each."""
    spacing: Count = 1
    """Trajectories from one kept frame to the next."""
    equilibration: Annotated[int, Field(ge=0)] = 0
    """Trajectories before the first kept frame."""
    samples: Annotated[int, Field(ge=4)] = 500
    """Frames that ``bgdiff reference`` keeps of every ladder; ``bgdiff data generate`` is told how many."""


class InterpolationSpec(LaddersSpec):
    """How ``bgdiff reference`` finds log Z of a cluster: ladders from its density to a known one.

    Rungs are u_λ = λ u + (1 - λ) ½ k Σ|x_i - x̄|² with λ = (1 - j/(K-1))^n, j = 0 … K-1. Powers n above 4
    make particles that repel as r⁻¹² vanish smoothly (Resat & Mezei, J. Chem. Phys. 99, 6052, 1993).
    """

    stiffness: Positive = 1.0
    """k."""
    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 5.0
    """n."""
    rungs: Annotated[int, Field(ge=3)]
    """K."""


class ToyLaddersSpec(LaddersSpec):
    """How ``bgdiff data generate --method parallel-tempering`` samples the equilibrium of a toy density.

    Independent groups of ladders, one group per start.
    """

    starts: Annotated[list[list[float] | str], Field(min_length=2)]
    """Positions of all particles, or of one that stands for all; ``random``; or a file of the folder."""
    ball: Positive = 2.0
    """Radius in which the particles of random starts are placed."""
    t_max: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    """In units of the density's own temperature."""
    temperatures: Annotated[int, Field(ge=2)]
    """Rungs, geometric from 1 to ``t_max``."""
    stored_bits: Annotated[int, Field(ge=1, le=23)] | None = None
    """Frames are stored as multiples of 2 to the minus this power, which compress well; exact if left out."""
    interpolation: InterpolationSpec | None = None
    """For log Z of a cluster; it starts as these ladders do."""
