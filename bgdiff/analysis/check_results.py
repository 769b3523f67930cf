"""What a run's results say about its own checks: learned normalisers, the virial identity, a reference."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Count",
    "Fraction",
    "Normalisers",
    "Number",
    "ReferenceComparison",
    "ReferenceDistance",
    "ResultModel",
    "VirialCheck",
]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A finite number; nan and ±inf become None, as JSON has no word for them."""
Fraction = Annotated[float, Field(ge=0, le=1 + 1e-9)]
Count = Annotated[int, Field(ge=0)]


class ResultModel(BaseModel):
    """A part of ``results.json``; every key has a docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Normalisers(ResultModel):
    """Learned free energies f_k = -log Z_k of the rungs beside MBAR's, relative to the prior, in kT."""

    LIMIT: ClassVar[float] = 0.1

    largest: float
    """The difference learned - MBAR that is largest in size."""
    std_error: Number
    """Its standard error, that of MBAR."""
    rms: float
    """Root mean square of all differences."""
    ok: bool
    """Whether the largest is within 0.1 kT."""
    overlap: Number
    """Of the rungs that overlap least, 0 to 1."""
    sigma: list[float]
    """Noise of the rungs that were compared."""
    learned: list[float]
    """f_k of training."""
    mbar: list[float]
    """f_k by MBAR on noised data that training has not seen."""
    mbar_std_error: list[Number]
    """Its standard error."""


class VirialCheck(ResultModel):
    """<x·∇u> of a set of samples: what it is, and what it must be."""

    of: Literal["samples", "data"]
    """The corrected samples, or the data set."""
    value: float
    """Average, kT."""
    std_error: Number
    """One standard error, kT."""
    expected: int
    """Degrees of freedom."""
    z_score: Number
    """(value - expected) in standard errors."""
    n: Count
    """Samples whose forces were computed."""
    n_all: Count
    """Samples there are."""
    method: str
    """Estimator of the value and of its error."""


class ReferenceDistance(ResultModel):
    """One distance between the samples and held-out equilibrium data."""

    name: Literal["energy_w2", "distance_w2", "distance_tvd", "configuration_w2", "configuration_w2_one_pass"]
    """Which distance."""
    unit: Literal["kT", "nm", "reduced", ""]
    """Of the distance; empty for a pure number."""
    value: float
    """Of the corrected samples, mean over repeats."""
    value_std: float
    """Standard deviation over the repeats."""
    unweighted: Number
    """Of the same samples without their weights; null if they have none."""
    floor: float
    """Reference against reference at the same number, mean over repeats."""
    floor_std: float
    """Standard deviation over the repeats."""
    n: Count
    """Frames of the reference, and samples that have no weights or are resampled."""
    n_effective: float
    """What the weighted samples among them are worth."""
    repeats: Count
    """How many."""


class ReferenceComparison(ResultModel):
    """The samples beside held-out data from equilibrium."""

    n_samples: Count
    """Samples that were drawn from."""
    n_reference: Count
    """Held-out frames that were drawn from."""
    n_chains: Count
    """Independent chains that these are from."""
    metrics: list[ReferenceDistance]
    """The distances."""
