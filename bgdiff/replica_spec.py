"""What a ``system.yaml`` may say about independent references: ladders of replicas, ways to other systems."""

import itertools
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["ReplicaExchangeSpec", "TransformationSpec"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _LaddersSpec(BaseModel):
    """Independent groups of replica-exchange ladders, one group per start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    starts: Annotated[list[dict[str, float]], Field(min_length=2)]
    ladders: Count = 16
    """In every group on the batched engine; OpenMM runs one ladder per start."""
    length_ns: Positive
    """Simulated time of every replica after equilibration."""
    equilibration_ns: NonNegative = 0.0
    swap_ps: Positive = 0.05
    """Dynamics between exchanges: one HMC trajectory on the batched engine."""
    spacing_ps: Positive = 0.1
    """Time between the samples that are analysed; exchanges soon make the lowest rung's independent."""
    step_fs: Positive = 1.0
    friction_per_ps: Positive = 2.0


class ReplicaExchangeSpec(_LaddersSpec):
    """How ``bgdiff reference`` makes ladders of temperatures."""

    t_max: Positive
    temperatures: Annotated[int, Field(ge=2)]
    """Rungs, geometric from the system's temperature to ``t_max`` (K)."""


class TransformationSpec(_LaddersSpec):
    """How ``bgdiff reference --to`` makes ladders from this system to another one of the same atoms.

    Reduced energies are mixed, u_λ = (1-λ) u_this + λ u_other, so the two may differ in temperature.
    """

    to: str
    """Name of the other system."""
    temperature: Positive | None = None
    """K of the other system; its own if left out."""
    lambdas: list[float] = Field(default=8, validate_default=True)
    """From 0 to 1, ascending; a whole number stands for so many at even distances."""
    reference: str | None = None
    """File of the result, in this system's folder."""

    @field_validator("lambdas", mode="before")
    @classmethod
    def _evenly(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 2:
                raise ValueError("needs at least 2, one for each system")
            return [index / (value - 1) for index in range(value)]
        return value

    @field_validator("lambdas")
    @classmethod
    def _from_0_to_1(cls, value: list[float]) -> list[float]:
        steps = [after - before for before, after in itertools.pairwise(value)]
        if len(value) < 2 or value[0] != 0 or value[-1] != 1 or not all(step > 0 for step in steps):
            raise ValueError("must ascend from 0 (this system) to 1 (the other)")
        return value
