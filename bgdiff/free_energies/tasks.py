"""The work behind ``bgdiff free-energy``: which estimates make up which quantity."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import bgdiff
from bgdiff.analysis.free_energy_results import (
    FreeEnergies,
    Histogram,
    ProfileRecord,
    Quantity,
    Rungs,
    TemperaturePoint,
)
from bgdiff.errors import ConfigError, CorrectionError, DataError
from bgdiff.free_energies.conditions import at_another_temperature, profile_along
from bgdiff.free_energies.estimates import (
    POOLED,
    Found,
    Repeats,
    corrected_difference,
    corrected_log_z,
    pooled_difference,
    pooled_log_z,
)
from bgdiff.free_energies.paths import PATH_BAR, REVERSE, PathSides, cells
from bgdiff.free_energies.records import quantity_record
from bgdiff.free_energies.regions import Measured, RegionPair
from bgdiff.free_energies.rungs import INTEGRATION, LEARNED, MBAR, RungStudy
from bgdiff.free_energies.samples import RunSamples, SampleSet, UpWalks
from bgdiff.free_energies.systems import DirectSides, check_comparable, two_ladders
from bgdiff.free_energy.judgement import ENOUGH, LEAST_FRACTION, LEAST_OVERLAP, LEVEL
from bgdiff.regions import Region, parse_region
from bgdiff.variables import variable_named

if TYPE_CHECKING:
    from bgdiff.free_energies import Request, Stages
    from bgdiff.observable_spec import ObservableSpec
    from bgdiff.run import Run
    from bgdiff.systems import System

__all__ = ["Tasks"]

_NO_RUNGS = "the rungs were not sampled; ask for it with --rung-samples"


class Tasks:
    """Computes what a request asks of a run; samples are read and drawn when they are first needed."""

    def __init__(self, run: "Run", request: "Request", stages: "Stages") -> None:
        self.run, self.request, self.stages = run, request, stages
        self.samples = RunSamples(run)
        self.measured = Measured(self.samples)
        seed = run.config.seed if request.seed is None else request.seed
        self.repeats = Repeats(request.bootstrap, seed)
        self.warnings: list[str] = []
        self._log_z_works: list[Histogram] = []
        self._no_rungs = _NO_RUNGS

    def all(self) -> FreeEnergies:
        """Everything that is asked for."""
        system = self.run.system
        # whatever cannot be read is refused before anything is drawn
        pairs = [(one.name, one.initial, one.final) for one in system.differences]
        if self.request.between is not None:
            pairs.append(("between", *self.request.between))
        regions = [(key, parse_region(a, system), parse_region(b, system)) for key, a, b in pairs]
        other = self._other()
        variables = [variable_named(one, system.spec.observables) for one in self.request.profiles]
        quantities = [self.difference(initial, final, key) for key, initial, final in regions]
        quantities.append(self.log_z())
        if other is not None:
            quantities.append(self.to(other))
        rungs = self._rungs_record()
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
            temperatures=[self.temperature(one) for one in self.request.temperatures],
            profiles=[self.profile(name, spec) for name, spec in variables],
            rungs=rungs,
            warnings=self.warnings,
        )

    @cached_property
    def frames(self) -> UpWalks:
        """Held-out frames with their walks up."""
        with self.stages("walk held-out data up") as progress:
            return self.samples.up(self.request.frames, progress)

    @cached_property
    def rungs(self) -> RungStudy | None:
        """Samples of the rungs; None if they are not wanted, or cannot be drawn, as ``_no_rungs`` says."""
        if not self.request.rung_samples:
            return None
        study = RungStudy(
            self.run, self.samples.generator, self.request.rung_samples, self.repeats, self.stages
        )
        try:
            _ = study.samples
        except CorrectionError as problem:
            # the learned energy has too much density where the target has none; walks do not mind
            self._no_rungs = f"the rungs could not be sampled: {problem}"
            self.warnings.append(f"{self.run.path}: {self._no_rungs}")
            return None
        return study

    def _rungs_record(self) -> Rungs | None:
        if self.rungs is None:
            return None
        try:
            return self.rungs.record()
        except DataError as problem:
            self.warnings.append(f"free energies of the rungs: {problem}")
            return None

    @cached_property
    def sets(self) -> list[SampleSet]:
        """The corrected samples, and the walks of all rounds before."""
        return [self.samples.corrected, *self.samples.rounds]

    def difference(self, initial: Region, final: Region, key: str) -> Quantity:
        """F(final) - F(initial)."""
        corrected, walks = self.samples.corrected, self.samples.walks
        others = [] if walks is None or walks is corrected else [walks]
        pair = RegionPair(initial, final, self.measured, [*self.sets, *others], self.frames)
        found, works = Found(), []
        found.attempt(
            corrected.estimator,
            lambda: corrected_difference(corrected, pair.masks[corrected.name], pair.names, self.repeats),
        )
        if self.samples.rounds:
            found.attempt(POOLED, lambda: pooled_difference(self.sets, pair.masks, pair.names, self.repeats))
        if self._has_paths(found) and walks is not None:
            down, up = (
                np.where(first, 0, np.where(second, 1, -1))
                for first, second in (pair.masks[walks.name], pair.frames)
            )
            try:
                paths = PathSides(walks, self.frames, pair.names, down, up, self.repeats)
                paths.difference(found, *pair.names)
                works = [paths.works(name) for name in pair.names if paths.has_both(name)]
            except DataError as problem:
                found.missing |= {PATH_BAR: str(problem), REVERSE: str(problem)}
        rungs = self.rungs
        if rungs is None:
            found.missing[MBAR] = self._no_rungs
        else:
            found.attempt(MBAR, lambda: rungs.difference(initial, final))
        return quantity_record(
            found,
            key=key,
            kind="difference",
            title=f"ΔF({initial.name} → {final.name})",
            initial=initial.name,
            final=final.name,
            reference=self._reference(initial, final),
            works=works,
        )

    def log_z(self) -> Quantity:
        """log Z of the target."""
        return quantity_record(
            self.found_log_z,
            key="log_z",
            kind="log_z",
            title="log Z",
            reference=self.run.system.reference.get("log_z"),
            works=self._log_z_works,
            notes=[_convention(self.run.system.spec.coordinates)],
        )

    @cached_property
    def found_log_z(self) -> Found:
        """All estimates of log Z."""
        found = Found()
        corrected, walks = self.samples.corrected, self.samples.walks
        found.attempt(corrected.estimator, lambda: corrected_log_z(corrected, self.repeats))
        if self.samples.rounds:
            found.attempt(POOLED, lambda: pooled_log_z(self.sets, self.repeats))
        if self._has_paths(found) and walks is not None:
            try:
                paths = self._whole(walks)
                paths.log_z(found)
                self._log_z_works = [paths.works()]
            except DataError as problem:
                found.missing |= {PATH_BAR: str(problem), REVERSE: str(problem)}
        if self.rungs is None:
            found.missing |= dict.fromkeys((MBAR, INTEGRATION, LEARNED), self._no_rungs)
        else:
            found.attempt(MBAR, self.rungs.log_z)
            found.attempt(INTEGRATION, self.rungs.integrated_log_z)
            found.attempt(LEARNED, self.rungs.learned_log_z)
        return found

    def to(self, other: "Run") -> Quantity:
        """F(other) - F(this) between the systems of two runs."""
        ours, theirs = self.run.system, other.system
        there = Tasks(other, replace(self.request, between=None, to=None), self.stages)
        with other.locked():
            found = two_ladders(self.found_log_z, there.found_log_z)
        with self.stages("energies in both systems") as progress:
            direct = DirectSides(self.samples.corrected, there.samples.corrected, ours, theirs, progress)
            direct.add(found)
        reference = ours.reference_to(theirs).get("free_energy_difference")
        names = _told_apart(ours, theirs)
        record = quantity_record(
            found,
            key="to",
            kind="systems",
            title=f"ΔF({names[0]} → {names[1]})",
            initial=names[0],
            final=names[1],
            reference=reference,
            notes=["F = −log Z, momenta left out; each in kT of its own temperature."],
        )
        return record.model_copy(update={"works": [direct.works(record.value)]})

    def temperature(self, value: float) -> TemperaturePoint:
        """What holds at another temperature."""
        system, samples = self.run.system, self.samples.corrected
        basins = {
            name: self.measured.mask(samples, parse_region(name, system)) for name in system.spec.basins
        }
        differences = {one.name: (basins[one.initial], basins[one.final]) for one in system.differences}
        averaged = {f"population_{name}": (mask.astype(np.float64), "1") for name, mask in basins.items()}
        specs = system.spec.observables
        for name, values in self.measured.of(samples, specs).items():
            if specs[name].periodic:
                averaged |= {f"cos_{name}": (np.cos(values), "1"), f"sin_{name}": (np.sin(values), "1")}
            else:
                length = "nm" if system.spec.kind == "openmm" else "reduced"
                unit = "rad" if specs[name].in_degrees else length if specs[name].is_length else "own"
                averaged[f"mean_{name}"] = values, unit
        references: dict[str, Any] = {}
        if system.spec.kind == "openmm":
            known = system.at_temperature(value).reference.get("free_energy_differences") or []
            references = {one["name"]: one for one in known}
        return at_another_temperature(
            samples, system.temperature, value, differences, averaged, self.repeats, references
        )

    def profile(self, name: str, spec: "ObservableSpec") -> ProfileRecord:
        """Free energy along a variable."""
        samples = self.samples.corrected
        values = self.measured.of(samples, {name: spec})[name]
        molecule = self.run.system.spec.kind == "openmm"
        return profile_along(samples, name, spec, values, self.repeats, molecule=molecule)

    def _other(self) -> "Run | None":
        """The run to compare with, checked to be comparable."""
        from bgdiff.run import Run

        if self.request.to is None:
            return None
        other = Run(self.request.to)
        if other.path.resolve() == self.run.path.resolve():
            raise ConfigError(f"--to {other.path}: is the same run")
        check_comparable(self.run.system, other.system)
        return other

    def _has_paths(self, found: Found) -> bool:
        """Whether there are walks of both directions; if not, say why."""
        reason = ""
        if self.samples.walks is None:
            reason = (
                f"the run's samples ({self.samples.corrected.name}) are no independent walks down the ladder"
            )
        elif not len(self.frames):
            reason = "no held-out frames were walked up; draw some with --frames"
        if reason:
            found.missing |= {PATH_BAR: reason, REVERSE: reason}
        return not reason

    def _whole(self, walks: SampleSet) -> PathSides:
        """Walks of both directions in the cells that the system's basins make."""
        system = self.run.system
        basins = [parse_region(name, system) for name in system.spec.basins]
        masks = {
            basin.name: [
                self.measured.mask(walks, basin),
                self.measured.mask_of_frames(self.frames, basin),
            ]
            for basin in basins
        }
        nowhere = [np.full(len(walks), -1), np.full(len(self.frames), -1)]
        names, (down, up) = cells(masks) if masks else ([], nowhere)
        return PathSides(walks, self.frames, names, down, up, self.repeats)

    def _reference(self, initial: Region, final: Region) -> Mapping[str, Any] | None:
        for one in self.run.system.reference.get("free_energy_differences") or []:
            if (one.get("initial"), one.get("final")) == (initial.name, final.name):
                return dict(one)
        return None

    def _settings(self) -> dict[str, Any]:
        asked = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self.request).items()
        }
        del asked["out"]
        asked["to"] = None if self.request.to is None else str(self.request.to)
        return {**asked, "seed": self.repeats.seed, "frames": len(self.frames)}


def _told_apart(first: "System", second: "System") -> tuple[str, str]:
    """Names of two systems, with their temperatures if these are all that differs."""
    if first.name != second.name:
        return first.name, second.name
    return f"{first.name} at {first.temperature:g} K", f"{second.name} at {second.temperature:g} K"


def _convention(coordinates: str) -> str:
    """What is integrated over, in words."""
    left_out = "momenta and the symmetry number are left out"
    if coordinates == "internal":
        return (
            "Integral of exp(−u) over positions in nm, per unit volume of translation and per radian³ of "
            f"rotation (add log(8π² V) for all positions in a volume V); {left_out}."
        )
    if coordinates == "mean_free":
        return f"Integral of exp(−u) over positions with the centroid fixed; {left_out}."
    return "Integral of exp(−u) over all coordinates, in reduced units."
