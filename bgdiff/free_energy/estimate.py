"""What an estimator returns, and the errors it raises when the samples cannot answer the question."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bgdiff.errors import DataError

__all__ = ["EmptyBasinError", "Estimate", "NoOverlapError", "NotConvergedError", "ZeroWeightsError"]


class ZeroWeightsError(DataError):
    """No sample carries any weight, so nothing can be estimated."""


class EmptyBasinError(DataError):
    """A basin holds no sample of non-zero weight, so its free energy is unbounded by these samples."""


class NoOverlapError(DataError):
    """The ensembles share no samples, so nothing connects their free energies; the message names them."""


class NotConvergedError(DataError):
    """A solver did not find the root of an estimator's equations."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate. Free energies and log Z are in units of kT (natural logarithm).
        std_error: one standard error, same unit; ``inf`` when the samples are too few to tell.
        method: how value and error were obtained, in words.
        n_eff: effective number of independent samples behind the value: Kish's (Σw)²/Σw². For a
            difference between two basins it is that of the poorer basin.
        overlap: of the ensembles that the estimate connects, from 0 to 1 (the same); each estimator says
            how it measures it. None where there is nothing to measure.
        diagnostics: what else the estimator has to say, by name: numbers and words that JSON can hold.
    """

    value: float
    std_error: float
    method: str
    n_eff: float
    overlap: float | None = None
    diagnostics: Mapping[str, float | int | str | bool] = field(default_factory=dict)

    def z_score(self, reference: float, reference_std_error: float = 0.0) -> float:
        """Distance from ``reference`` in combined standard errors, with the sign of value - reference."""
        error = float((self.std_error**2 + reference_std_error**2) ** 0.5)
        difference = self.value - reference
        if error == 0.0:
            return 0.0 if difference == 0.0 else float("inf") * (1 if difference > 0 else -1)
        return difference / error
