"""``free_energies.json``: every free energy that ``bgdiff free-energy`` computed, with all its estimates.

``docs/free-energies.md`` explains each key. Free energies are F = -log Z in kT and differences are final
minus initial; a number that is not known is None (``null``), and something beside it says why.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bgdiff.analysis.results import Number
from bgdiff.errors import CheckpointError
from bgdiff.io import read_json, write_json

__all__ = [
    "FILE",
    "SCHEMA_VERSION",
    "Average",
    "EstimateRecord",
    "FreeEnergies",
    "Histogram",
    "JudgementRecord",
    "Missing",
    "ProfileRecord",
    "Quantity",
    "Rungs",
    "TemperaturePoint",
    "read_free_energies",
    "write_free_energies",
]

FILE: Final = "free_energies.json"
SCHEMA_VERSION: Final = 1

Count = Annotated[int, Field(ge=0)]


def _plain_diagnostics(value: Any) -> Any:
    return {name: _finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EstimateRecord(_Model):
    """One estimate of a quantity."""

    estimator: str
    """Which one; names are those of the documentation."""
    value: Number
    """kT."""
    std_error: Number
    """One standard error, kT."""
    n_eff: Number
    """Effective number of independent samples."""
    overlap: Number
    """Of the ensembles it connects, from 0 to 1; null where there is nothing to measure."""
    method: str
    """How value and error were obtained."""
    two_sided: bool
    """It uses samples of both ensembles that it connects, neither made from the other's."""
    exact: bool
    """With enough samples it is right whatever was learned; only these are quoted."""
    samples: dict[str, Count]
    """Number of samples by the name of each set it uses."""
    problem: str | None = None
    """Why it is not sufficient; null if it is."""
    diagnostics: Annotated[
        dict[str, float | int | str | bool | None], BeforeValidator(_plain_diagnostics)
    ] = {}
    """What else the estimator says."""
    reference: Number = None
    """Independent value, where this estimate alone is compared with one."""
    reference_std_error: Number = None
    """Its standard error; 0 if exact."""
    z_score: Number = None
    """(value - reference) in combined standard errors; of the quantity, where that has the reference."""


class Missing(_Model):
    """An estimator that does not apply."""

    estimator: str
    """Which one."""
    reason: str
    """Why, and what would make it apply."""


class JudgementRecord(_Model):
    """What is to be made of the estimates together."""

    quoted: str | None
    """Estimator to quote; null if the quantity is refused."""
    consistent: bool | None
    """Whether estimates agree; null if there is nothing to compare."""
    verdict: str
    """In words."""
    advice: list[str]
    """What to do."""
    chi_square: Number
    """Of estimates that share no samples."""
    degrees_of_freedom: Count
    """One less than these estimates."""
    p_value: Number
    """Of that chi-square."""
    alarms: list[str]
    """What does not agree."""
    more_samples: Count | None
    """How many samples more would do, if that is what is missing."""


class Histogram(_Model):
    """Works of paths between prior and target, as shares of the walks in each bin."""

    label: str
    """The region, or what else tells it from others."""
    edges: list[float]
    """Of the bins, kT."""
    forward: list[float]
    """-log W of walks down into the region; what is missing to 1 weighs nothing or lies beyond the bins."""
    reverse: list[float]
    """-log W of walks up."""
    crossing: Number
    """Where the two cross (Crooks): -log(Z/q) of a region in which the share q of walks down ends; of two
    systems ΔF, the works being u(final) - u(initial)."""


class Quantity(_Model):
    """A free energy with all its estimates."""

    key: str
    """Short and unique in the file; figures are named after it."""
    kind: Literal["difference", "log_z", "systems", "temperature"]
    """Between regions, absolute, between systems, or between temperatures."""
    title: str
    """Such as ΔF(left → right)."""
    initial: str | None = None
    """Region, system or temperature the difference starts from."""
    final: str | None = None
    """Where it leads to."""
    value: Number
    """The quoted estimate, kT (log Z: its own unit); null if the quantity is refused."""
    std_error: Number
    """Its standard error."""
    estimates: list[EstimateRecord]
    """All that apply."""
    missing: list[Missing]
    """The others."""
    judgement: JudgementRecord
    """Consistent or not, and which to quote."""
    reference: Number = None
    """Independent value."""
    reference_std_error: Number = None
    """Its standard error; 0 if exact."""
    reference_method: str | None = None
    """How it was obtained."""
    z_score: Number = None
    """(value - reference) in combined standard errors."""
    works: list[Histogram] = []
    """Of the paths behind it, by region."""
    notes: list[str] = []
    """What the reader should know, such as conventions."""


class Average(_Model):
    """Boltzmann average of an observable or population of a region."""

    name: str
    """``population_<basin>``, ``potential_energy_kT``, ``cos_<torsion>``, ``sin_<torsion>`` or
    ``mean_<observable>``."""
    value: Number
    """In its own unit; populations are fractions."""
    std_error: Number
    """One standard error."""
    n_eff: Number
    """Effective number of samples."""
    unit: str
    """1, kT, rad, nm, reduced, or own: a plain number, or the unit of the mdtraj function."""


class TemperaturePoint(_Model):
    """What the samples say about another temperature."""

    temperature: float
    """K; for systems in reduced units relative to the run's, which is 1."""
    refused: str | None
    """Why nothing is said about it, and what to do; null if something is."""
    n_eff: Number
    """Effective samples left at this temperature."""
    overlap: Number
    """Share of the samples that is."""
    change: EstimateRecord | None
    """F(T')/kT' - F(T)/kT of the whole system, without momenta; null if refused."""
    differences: list[EstimateRecord]
    """ΔF of each of the system's differences, in kT of that temperature; ``estimator`` is its name there."""
    averages: list[Average]
    """Populations of basins, the mean energy, means of observables."""


class ProfileRecord(_Model):
    """Free energy along a variable."""

    variable: str
    """As it was asked for."""
    unit: str
    """Of the edges: degree, nm or reduced."""
    periodic: bool
    """The variable is an angle."""
    confidence: float
    """Probability with which the band covers the whole curve at once."""
    edges: list[float]
    """Of the bins."""
    free_energy: list[Number]
    """-ln of the density in each bin, the lowest bin at 0; null where nothing was sampled, kT."""
    std_error: list[Number]
    """Of each bin by itself, kT."""
    low: list[Number]
    """Lower end of the band, kT."""
    high: list[Number]
    """Its upper end, kT."""
    n_eff: list[Number]
    """Effective samples in each bin."""
    outside: Number
    """Share of the weight outside of all bins."""
    refused: str | None = None
    """Why there is none."""


class Rungs(_Model):
    """Free energies of the rungs, learned and by MBAR from samples of the rungs."""

    sigma: list[float]
    """Noise of the rungs that were compared, rising."""
    learned: list[Number]
    """f_k of training, the top rung at 0, kT; empty if nothing was learned."""
    mbar: list[float]
    """f_k by MBAR, the top rung at 0."""
    mbar_std_error: list[Number]
    """Its standard error."""
    overlap: list[list[float]]
    """Overlap matrix of the rungs (Klimovich, Shirts & Mobley 2015)."""


class FreeEnergies(_Model):
    """Content of ``free_energies.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    bgdiff_version: str
    """Program that wrote the file."""
    system: str
    """Name of the system."""
    title: str
    """The system in words."""
    temperature: Number
    """K; null for systems in reduced units."""
    settings: dict[str, Any]
    """What was asked for."""
    limits: dict[str, float]
    """Of the judgement: effective samples, overlaps, rate of false alarms."""
    quantities: list[Quantity]
    """Every free energy."""
    temperatures: list[TemperaturePoint] = []
    """Other temperatures that were asked for."""
    profiles: list[ProfileRecord] = []
    """Profiles that were asked for."""
    rungs: Rungs | None = None
    """Free energies of the rungs; null if none were sampled."""
    warnings: list[str] = []
    """What the reader should know, in words."""


def write_free_energies(path: Path | str, content: FreeEnergies) -> None:
    """Write ``free_energies.json`` atomically."""
    write_json(path, content.model_dump(mode="json"))


def read_free_energies(path: Path | str) -> FreeEnergies:
    """Read ``free_energies.json``.

    Raises:
        CheckpointError: it is missing, damaged, or of another schema version; every wrong key is named.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    again = "write it anew with: bgdiff free-energy"
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: has schema version {version}, this bgdiff reads version {SCHEMA_VERSION}; {again}"
        )
    try:
        return FreeEnergies.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise CheckpointError(f"{path}: {problems}; {again}") from error
