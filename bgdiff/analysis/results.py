"""``results.json``: every number a run reports, with its uncertainty. ``docs/results.md`` explains each key.

A number that could not be estimated, or an error that is not known, is ``None`` (``null`` in the file),
and ``warnings`` says why.
"""

import math
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from bgdiff.analysis.check_results import (
    Count,
    Fraction,
    Normalisers,
    Number,
    ReferenceComparison,
    ReferenceDistance,
    ResultModel,
    VirialCheck,
)
from bgdiff.config import Method
from bgdiff.errors import CheckpointError
from bgdiff.io import read_json, write_json

__all__ = [
    "SCHEMA_VERSION",
    "BasinCondition",
    "BasinPopulation",
    "FreeEnergyDifference",
    "LogZ",
    "Normalisers",
    "Number",
    "ObservableInfo",
    "ReferenceComparison",
    "ReferenceDistance",
    "Results",
    "SwapRates",
    "VirialCheck",
    "read_results",
    "write_results",
    "z_score",
]

SCHEMA_VERSION: Final = 1


class LogZ(ResultModel):
    """Natural logarithm of the target's normaliser."""

    value: float
    """log Z; the absolute free energy is -value kT."""
    std_error: Number
    """One standard error."""
    method: str
    """Estimator of the value and of its error."""
    n_eff: float
    """Kish's effective number of samples."""
    reference: Number = None
    """Independent value."""
    reference_std_error: Number = None
    """Its standard error; 0 when exact."""
    reference_method: str | None = None
    """How the independent value was obtained."""
    z_score: Number = None
    """(value - reference) in combined standard errors."""


class FreeEnergyDifference(ResultModel):
    """F_final - F_initial = -ln(p_final/p_initial) between two basins, in kT."""

    name: str
    """As in ``system.yaml``."""
    initial: str
    """Basin the difference starts from."""
    final: str
    """Basin it leads to."""
    value: Number
    """Reweighted estimate, kT."""
    std_error: Number
    """One standard error, kT."""
    method: str
    """Estimator of the value and of its error."""
    n_eff: Number
    """Kish's effective number of samples in the poorer of the two basins."""
    reference: Number = None
    """Independent value, kT."""
    reference_std_error: Number = None
    """Its standard error, kT; 0 when exact."""
    reference_method: str | None = None
    """How the independent value was obtained."""
    z_score: Number = None
    """(value - reference) in combined standard errors."""
    data_value: Number = None
    """What counting the data set's frames gives, kT; no error, because frames are correlated."""
    proposal_value: Number = None
    """What counting the proposal's samples without weights gives, kT."""


class ObservableInfo(ResultModel):
    """A number computed from each conformation."""

    name: str
    """As in ``system.yaml``; arrays of the run are called ``obs_<name>``."""
    kind: Literal[
        "dihedral",
        "angle",
        "distance",
        "component",
        "radius_of_gyration",
        "rmsd",
        "count",
        "pair_count",
        "pair_distance",
        "coordination",
        "steinhardt",
        "mdtraj",
    ]
    """What it measures; ``dihedral`` for all angles on the full circle."""
    unit: Literal["rad", "nm", "reduced", "own"]
    """Unit of the arrays; ``own``: a plain number, or the unit of the mdtraj function."""


class BasinCondition(ResultModel):
    """A further condition on a basin's conformations."""

    observable: str
    """Observable it is about."""
    intervals: list[tuple[Number, Number]]
    """As those of the basin."""


class BasinPopulation(ResultModel):
    """Share of the conformations that lie in a basin."""

    name: str
    """As in ``system.yaml``."""
    observable: str
    """Observable that defines it, or the first of several."""
    intervals: list[tuple[Number, Number]]
    """Half-open intervals [lo, hi): degrees for angles, else the observable's unit; null: unbounded."""
    and_conditions: list[BasinCondition] = Field(default_factory=list)
    """What must hold as well, if the basin is defined by several observables."""
    data: Number
    """Fraction of the data set's frames."""
    proposal: Number
    """Fraction of the proposal's samples."""
    reweighted: Number
    """Fraction of the weight: the estimate of the true population."""
    reweighted_std_error: Number
    """Its standard error."""


class SwapRates(ResultModel):
    """How often neighbouring rungs exchange their points, in replica exchange."""

    min: Fraction
    """Of the pair that exchanges least."""
    mean: Fraction
    """Over all pairs."""


class Results(ResultModel):
    """Content of ``results.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    bgdiff_version: str
    """Program that wrote the file."""
    system: str
    """Name of the system."""
    title: str
    """The system in words."""
    temperature: Number
    """K; null for systems in reduced units, where kT = 1."""
    preset: str
    """Preset of the run's settings."""
    seed: int
    """Seed of the run."""

    n_samples: Annotated[int, Field(ge=1)]
    """Samples drawn, those of weight zero included."""
    n_nonfinite: Count
    """Samples of weight zero: impossible geometry or non-finite energy."""
    n_data: Count
    """Frames of the data set, before the split."""
    n_held_out: Count
    """Held-out frames behind the forward effective sample sizes."""

    method: Method = "is"
    """How the samples were corrected: importance sampling of walks, sequential Monte Carlo, Markov chains
    over walks, or replica exchange."""
    effective_fraction: Fraction | None = None
    """What N samples are worth: for weighted samples (ΣW)²/(N ΣW²) of the weights summed over samples of
    common descent; for chains the effective draws of the slowest quantity over N."""
    effective_samples_per_evaluation: Number = None
    """Effective samples over all target evaluations."""
    effective_samples_per_second: Number = None
    """Effective samples over the wall-clock time of training, drawing and correcting."""
    n_resamplings: Count = 0
    """Resamplings in all populations."""
    n_populations: Count = 0
    """Populations that were resampled by themselves; 0 without resampling."""
    surviving_ancestors: Count | None = None
    """First-generation ancestors of the final samples."""
    n_chains: Count = 0
    """Markov chains, or sets of replicas; 0 for weighted samples."""
    acceptance: Fraction | None = None
    """Mean acceptance of walks as proposals, or of moves at the target."""
    autocorrelation_time: Number = None
    """Draws of a chain per independent draw, for the slowest quantity."""
    slowest: str | None = None
    """The quantity whose chains are worth least."""
    rhat: Number = None
    """Largest rank-normalised split R-hat of all quantities."""
    round_trips: Count | None = None
    """Points that came from the prior to the target while draws were kept."""
    swap_rates: SwapRates | None = None
    """How often neighbouring rungs exchange."""

    ess_kish: Fraction | None
    """(Σw)²/(N Σw²), unmodified; of the proposed walks if these are chains over walks."""
    ess_forward: Fraction | None
    """1/(E_p[w] E_p[1/w]) over the held-out frames as they are."""
    ess_forward_rebalanced: Fraction | None
    """The same with the basins of the held-out frames in their reweighted proportions."""
    ess_clipped_1e4: Fraction | None
    """Kish's with the largest 1e-4 of the weights set to the smallest of them; for comparison only."""
    ess_trimmed_0p2pct: Fraction | None
    """Kish's without the largest 0.2 % of the weights; for comparison only."""
    max_weight_share: Fraction | None
    """The largest weight over the sum of all."""
    pareto_k: Number
    """Shape of the generalised Pareto distribution of the largest weights."""

    log_z: LogZ | None
    """Natural logarithm of the target's normaliser; null if the method has none."""
    log_z_missing: str | None = None
    """Why there is no log Z."""
    free_energy_differences: list[FreeEnergyDifference]
    """Differences the system asks for."""
    basins: list[BasinPopulation]
    """Populations of the system's basins."""
    observables: list[ObservableInfo]
    """Observables in the run's arrays."""

    normalisers: Normalisers | None = None
    """Check of the learned normalisers; the key is left out if training learned none."""

    virial: list[VirialCheck] = Field(default_factory=list)
    """The virial identity of the samples and of the data set."""
    comparison: ReferenceComparison | None = None
    """The samples beside held-out data from equilibrium; null if there are none."""
    comparison_missing: str | None = None
    """Why there is no comparison."""

    target_evaluations: Count
    """Conformations whose target energy, with or without force, the run computed."""
    timings: dict[str, float]
    """Wall-clock seconds of each stage."""
    versions: dict[str, str]
    """Versions of Python and of the packages that determine the numbers."""
    warnings: list[str]
    """What the reader should know, in words."""

    @property
    def independent_fraction(self) -> float:
        """What the samples are worth, as a fraction of N; copies and what chains remember are not counted."""
        known = [self.effective_fraction, None if self.n_chains else self.ess_kish]
        return min(value for value in known if value is not None)

    @model_validator(mode="after")
    def _worth_something(self) -> Self:
        if self.effective_fraction is None and (self.n_chains or self.ess_kish is None):
            raise ValueError("chains need an effective_fraction, and weighted samples an ess_kish")
        return self


def z_score(
    value: float | None,
    std_error: float | None,
    reference: float | None,
    reference_std_error: float | None,
) -> float | None:
    """(value - reference) over the combined standard error; None if it is zero or anything is unknown."""
    if value is None or std_error is None or reference is None or reference_std_error is None:
        return None
    combined = math.hypot(std_error, reference_std_error)
    score = (value - reference) / combined if combined > 0 else math.inf
    return score if math.isfinite(score) else None


def write_results(path: Path | str, results: Results) -> None:
    """Write ``results.json`` atomically."""
    content = results.model_dump(mode="json")
    if results.normalisers is None:
        del content["normalisers"]
    write_json(path, content)


def read_results(path: Path | str) -> Results:
    """Read ``results.json``.

    Raises:
        CheckpointError: it is missing, damaged, or of another schema version; every wrong key is named.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: has schema version {version}, this bgdiff reads version {SCHEMA_VERSION}; "
            "write it anew with: bgdiff reweight, or use the bgdiff that wrote it"
        )
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise CheckpointError(f"{path}: {problems}; write it anew with: bgdiff reweight") from error
