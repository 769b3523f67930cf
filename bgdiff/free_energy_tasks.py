"""The work behind ``bgdiff free-energy``: which estimates make up which quantity, and their record."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import bgdiff
from bgdiff.analysis.free_energy_results import (
    EstimateRecord,
    FreeEnergies,
    JudgementRecord,
    Missing,
    Quantity,
)
from bgdiff.analysis.results import z_score
from bgdiff.free_energy.judgement import ENOUGH, LEAST_FRACTION, LEAST_OVERLAP, LEVEL, judge
from bgdiff.free_energy_estimates import (
    POOLED,
    Found,
    Repeats,
    corrected_difference,
    corrected_log_z,
    pooled_difference,
    pooled_log_z,
)
from bgdiff.free_energy_regions import Measured, RegionPair
from bgdiff.free_energy_samples import RunSamples, SampleSet, UpWalks
from bgdiff.regions import Region, parse_region

if TYPE_CHECKING:
    from bgdiff.free_energies import Request, Stages
    from bgdiff.run import Run

__all__ = ["Tasks", "record"]


class Tasks:
    """Computes what a request asks of a run; samples are read and drawn when they are first needed."""

    def __init__(self, run: "Run", request: "Request", stages: "Stages") -> None:
        self.run, self.request, self.stages = run, request, stages
        self.samples = RunSamples(run)
        self.measured = Measured(self.samples)
        seed = run.config.seed if request.seed is None else request.seed
        self.repeats = Repeats(request.bootstrap, seed)
        self.warnings: list[str] = []

    def all(self) -> FreeEnergies:
        """Everything that is asked for."""
        system = self.run.system
        quantities = [
            self.difference(*self._regions(spec.initial, spec.final), spec.name)
            for spec in system.differences
        ]
        if self.request.between is not None:
            quantities.append(self.difference(*self._regions(*self.request.between), "between"))
        quantities.append(self.log_z())
        return FreeEnergies(
            bgdiff_version=bgdiff.__version__,
            system=system.name,
            title=system.spec.title,
            temperature=system.temperature if system.spec.kind == "openmm" else None,
            settings=self._settings(),
            limits={
                "enough": ENOUGH,
                "least_overlap": LEAST_OVERLAP,
                "least_fraction": LEAST_FRACTION,
                "false_alarms": LEVEL,
            },
            quantities=quantities,
            warnings=self.warnings,
        )

    @cached_property
    def frames(self) -> UpWalks:
        """Held-out frames with their walks up."""
        with self.stages("walk held-out data up") as progress:
            return self.samples.up(self.request.frames, progress)

    @cached_property
    def sets(self) -> list[SampleSet]:
        """The corrected samples, and the walks of all rounds before."""
        return [self.samples.corrected, *self.samples.rounds]

    def difference(self, initial: Region, final: Region, key: str) -> Quantity:
        """F(final) - F(initial)."""
        everything = list(self.sets)
        walks = self.samples.walks
        if walks is not None and walks.name not in {one.name for one in everything}:
            everything.append(walks)
        pair = RegionPair(initial, final, self.measured, everything, self.frames)
        found = Found()
        corrected = self.samples.corrected
        found.attempt(
            "importance sampling",
            lambda: corrected_difference(corrected, pair.masks[corrected.name], pair.names, self.repeats),
        )
        if self.samples.rounds:
            found.attempt(POOLED, lambda: pooled_difference(self.sets, pair.masks, pair.names, self.repeats))
        title = f"ΔF({initial.name} → {final.name})"
        reference = self._reference(initial, final)
        return record(
            found, key=key, kind="difference", title=title, initial=initial.name, final=final.name,
            reference=reference,
        )  # fmt: skip

    def log_z(self) -> Quantity:
        """log Z of the target."""
        found = Found()
        corrected = self.samples.corrected
        found.attempt("importance sampling", lambda: corrected_log_z(corrected, self.repeats))
        if self.samples.rounds:
            found.attempt(POOLED, lambda: pooled_log_z(self.sets, self.repeats))
        reference = self.run.system.reference.get("log_z")
        return record(found, key="log_z", kind="log_z", title="log Z", reference=reference)

    def _regions(self, initial: str, final: str) -> tuple[Region, Region]:
        return parse_region(initial, self.run.system), parse_region(final, self.run.system)

    def _reference(self, initial: Region, final: Region) -> Mapping[str, Any] | None:
        for one in self.run.system.reference.get("free_energy_differences") or []:
            if (one.get("initial"), one.get("final")) == (initial.name, final.name):
                return dict(one)
        return None

    def _settings(self) -> dict[str, Any]:
        asked = asdict(self.request)
        del asked["out"]
        asked["to"] = None if self.request.to is None else str(self.request.to)
        return {**asked, "seed": self.repeats.seed, "frames": len(self.frames)}


def record(
    found: Found,
    *,
    key: str,
    kind: Any,
    title: str,
    initial: str | None = None,
    final: str | None = None,
    reference: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> Quantity:
    """Judge the estimates of a quantity and write everything down."""
    judgement = judge(found.candidates)
    value, error = (reference or {}).get("value"), (reference or {}).get("std_error")
    estimates = [
        EstimateRecord(
            estimator=one.name,
            value=one.estimate.value,
            std_error=one.estimate.std_error,
            n_eff=one.estimate.n_eff,
            overlap=one.estimate.overlap,
            method=one.estimate.method,
            two_sided=one.two_sided,
            exact=one.exact,
            samples=dict(one.samples),
            problem=judgement.problems[one.name].reason if one.name in judgement.problems else None,
            diagnostics=dict(one.estimate.diagnostics),
            z_score=z_score(one.estimate.value, one.estimate.std_error, value, error),
        )
        for one in found.candidates
    ]
    quoted = next((one for one in estimates if one.estimator == judgement.quoted), None)
    return Quantity(
        key=key,
        kind=kind,
        title=title,
        initial=initial,
        final=final,
        value=None if quoted is None else quoted.value,
        std_error=None if quoted is None else quoted.std_error,
        estimates=estimates,
        missing=[Missing(estimator=name, reason=reason) for name, reason in found.missing.items()],
        judgement=JudgementRecord(
            quoted=judgement.quoted,
            consistent=judgement.consistent,
            verdict=judgement.verdict,
            advice=list(judgement.advice),
            chi_square=judgement.chi_square,
            degrees_of_freedom=judgement.degrees_of_freedom,
            p_value=judgement.p_value,
            alarms=list(judgement.alarms),
            more_samples=judgement.more_samples,
        ),
        reference=value,
        reference_std_error=error,
        reference_method=(reference or {}).get("method"),
        z_score=None if quoted is None else quoted.z_score,
        notes=notes or [],
    )
